"""Logistic regression in plain Python, as a site's own training code: no package beyond the standard library.

The agent starts it in a folder with base.safetensors, config.json and train.safetensors, and takes update.safetensors and
metrics.json from there.
"""
import json
import math
import random
import struct


def read_safetensors(path):
    """{name: (shape, numbers)} of a file of 32-bit floats."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["shape"], list(struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])))
    return tensors


def write_safetensors(path, tensors):
    header, parts, offset = {}, [], 0
    for name in sorted(tensors):
        shape, numbers = tensors[name]
        part = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(part)]}
        offset += len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


def main():
    with open("config.json", encoding="utf-8") as file:
        config = json.load(file)
    if config["architecture"]["name"] != "logistic" or config["target"]["output"]["kind"] != "binary":
        raise SystemExit("this example trains the architecture logistic on two classes")
    local = config["local"]
    tensors = read_safetensors("base.safetensors")
    rows = read_safetensors("train.safetensors")
    (count, width), x = rows["x"]
    _, y = rows["y"]
    # A logistic model has one kernel of shape [width, 1] and one bias of shape [1].
    kernel_name = next(name for name, (shape, _) in tensors.items() if len(shape) == 2)
    bias_name = next(name for name, (shape, _) in tensors.items() if len(shape) == 1)
    kernel, bias = tensors[kernel_name][1], tensors[bias_name][1]
    rate, batch = local["learning_rate"], local["batch_size"]
    order = list(range(count))
    chance = random.Random(config["seed"])
    steps_per_epoch = math.ceil(count / batch)
    step, loss = 0, 0.0
    for _ in range(local["epochs"]):
        chance.shuffle(order)
        loss = 0.0
        for start in range(0, count, batch):
            picked = order[start : start + batch]
            gradient, gradient_bias = [0.0] * width, 0.0
            for row in picked:
                inputs = x[row * width : (row + 1) * width]
                logit = sum(a * b for a, b in zip(inputs, kernel)) + bias[0]
                probability = 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))
                loss -= math.log(max(probability if y[row] == 1 else 1 - probability, 1e-12))
                error = (probability - y[row]) / len(picked)
                gradient_bias += error
                for index, value in enumerate(inputs):
                    gradient[index] += error * value
            for index in range(width):
                kernel[index] -= rate * gradient[index]
            bias[0] -= rate * gradient_bias
            step += 1
            print(json.dumps({"step": step, "total_steps": steps_per_epoch * local["epochs"]}), flush=True)
    write_safetensors("update.safetensors", tensors)
    with open("metrics.json", "w", encoding="utf-8") as file:
        json.dump({"sample_count": count, "train_loss": loss / count, "update_format": "weights"}, file)


if __name__ == "__main__":
    main()
