"""Trains with PyTorch as a site's own training code: needs the packages torch and safetensors.

Layers are made from the base itself: every 2-dimensional tensor is the kernel of a dense layer ([inputs, outputs], as in
tfjs), followed by its bias; between them stands the activation that the session's architecture names.
"""
import json

import torch
from safetensors.torch import load_file, save_file

with open("config.json", encoding="utf-8") as file:
    config = json.load(file)
local = config["local"]
architecture = config["architecture"]
if architecture["name"] not in ("logistic", "mlp"):
    raise SystemExit("this example trains dense models: the architectures logistic and mlp")
activation = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": torch.nn.functional.elu,
    "selu": torch.selu,
    "softplus": torch.nn.functional.softplus,
    "swish": torch.nn.functional.silu,
    "linear": lambda inputs: inputs,
}[architecture.get("activation", "linear")]
torch.manual_seed(config["seed"])

base = load_file("base.safetensors")
weights = {name: tensor.clone().requires_grad_(True) for name, tensor in base.items()}
rows = load_file("train.safetensors")
x, y = rows["x"], rows["y"]
kernels = [name for name in weights if weights[name].dim() == 2]
# The layers' order follows from their shapes: each takes what the one before gives.
order, width = [], x.shape[1]
while kernels:
    name = next(name for name in kernels if weights[name].shape[0] == width)
    kernels.remove(name)
    order.append(name)
    width = weights[name].shape[1]


def bias_of(kernel):
    return weights[kernel.replace("kernel", "bias")]


def forward(inputs):
    for index, name in enumerate(order):
        inputs = inputs @ weights[name] + bias_of(name)
        if index < len(order) - 1:
            inputs = activation(inputs)
    return inputs


kind = config["target"]["output"]["kind"]
if kind == "binary":
    loss_of = lambda logits, wanted: torch.nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1), wanted)
elif kind == "multiclass":
    loss_of = lambda logits, wanted: torch.nn.functional.cross_entropy(logits, wanted.long())
else:
    loss_of = lambda values, wanted: torch.nn.functional.mse_loss(values.squeeze(1), wanted)
optimizer = (torch.optim.Adam if local["optimizer"] == "adam" else torch.optim.SGD)(
    weights.values(), lr=local["learning_rate"]
)
batches = -(-len(x) // local["batch_size"])
step, total_loss = 0, 0.0
for _ in range(local["epochs"]):
    total_loss = 0.0
    for picked in torch.randperm(len(x)).split(local["batch_size"]):
        loss = loss_of(forward(x[picked]), y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(picked)
        step += 1
        print(json.dumps({"step": step, "total_steps": batches * local["epochs"]}), flush=True)

save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, "update.safetensors")
with open("metrics.json", "w", encoding="utf-8") as file:
    json.dump({"sample_count": len(x), "train_loss": total_loss / len(x), "update_format": "weights"}, file)
