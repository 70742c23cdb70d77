"""Trains with scikit-learn as a site's own training code: needs the packages scikit-learn and safetensors.

A logistic or linear model is what its SGDClassifier and SGDRegressor fit: they start from the round's base and go on in
mini-batches, so that the site takes part in federated averaging like any other.
"""
import json

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import SGDClassifier, SGDRegressor

with open("config.json", encoding="utf-8") as file:
    config = json.load(file)
local = config["local"]
output = config["target"]["output"]["kind"]
if config["architecture"]["name"] != "logistic":
    raise SystemExit("scikit-learn's SGD models have no hidden layers: train the architecture logistic")

base = load_file("base.safetensors")
rows = load_file("train.safetensors")
x, y = rows["x"].astype(np.float64), rows["y"]
kernel = next(name for name, tensor in base.items() if tensor.ndim == 2)
bias = next(name for name, tensor in base.items() if tensor.ndim == 1)

# A constant rate and no penalty: what the other sites do. partial_fit makes one step a row.
settings = {
    "learning_rate": "constant",
    "eta0": local["learning_rate"] / local["batch_size"],
    "penalty": None,
    "random_state": config["seed"],
}
if output == "regression":
    model, classes = SGDRegressor(**settings), None
    model.coef_, model.intercept_ = base[kernel][:, 0].astype(np.float64), base[bias].astype(np.float64)
    model.t_, model.n_features_in_ = 1.0, x.shape[1]
else:
    # Of more than two classes it makes one-against-the-rest, which is another model than softmax.
    if output != "binary":
        raise SystemExit("this example trains two classes or a number; for more, see the PyTorch site")
    model, classes = SGDClassifier(loss="log_loss", **settings), np.array([0.0, 1.0])
    model.coef_, model.intercept_ = base[kernel].T.astype(np.float64), base[bias].astype(np.float64)
    model.classes_, model.t_, model.n_features_in_ = classes, 1.0, x.shape[1]

chance = np.random.default_rng(config["seed"])
batches = np.array_split(np.arange(len(x)), -(-len(x) // local["batch_size"]))
step = 0
for _ in range(local["epochs"]):
    order = chance.permutation(len(x))
    for batch in batches:
        picked = order[batch]
        if classes is None:
            model.partial_fit(x[picked], y[picked])
        else:
            model.partial_fit(x[picked], y[picked], classes=classes)
        step += 1
        print(json.dumps({"step": step, "total_steps": len(batches) * local["epochs"]}), flush=True)

save_file(
    {
        kernel: model.coef_.reshape(-1, 1).astype(np.float32),
        bias: np.asarray(model.intercept_, dtype=np.float32).reshape(1),
    },
    "update.safetensors",
)
with open("metrics.json", "w", encoding="utf-8") as file:
    json.dump({"sample_count": len(x), "update_format": "weights"}, file)
