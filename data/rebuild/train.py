"""Train a bundled network and write its weights and its record to data/weights.

    python data/rebuild/train.py NAME DATA [--epochs N] [--seed N]

NAME is one of the bundled networks. DATA is the folder with Fashion-MNIST's four .gz files, or the emoji.npz that
data/rebuild/emoji.py writes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from unitlab.compute.networks.bundled import NETWORKS

BATCH = 64
EPOCHS = {"vgg_fashion": 10, "alexnet_fashion": 12, "resnet_emoji": 20, "vgg_emoji": 24}
RATE = {"vgg_fashion": 1e-3, "alexnet_fashion": 1e-3, "resnet_emoji": 2e-3, "vgg_emoji": 2e-3}


def idx(path: Path) -> np.ndarray:
    """Array of an idx file."""
    data = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


class Fashion:
    """Fashion-MNIST, (image, 1, 28, 28), normalised as unitlab's bundled set is; flips and shifts in training."""

    def __init__(self, folder: Path) -> None:
        self.train, self.test = (
            torch.from_numpy(idx(folder / f"{part}-images-idx3-ubyte.gz").copy()).unsqueeze(1) for part in ("train", "t10k")
        )
        self.train_labels, self.test_labels = (
            torch.from_numpy(idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)) for part in ("train", "t10k")
        )

    def ready(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - 0.2860) / 0.3530

    def batch(self, rows: Tensor, random: np.random.Generator) -> Tensor:
        images = F.pad(self.ready(self.train[rows]), (2, 2, 2, 2), value=-0.2860 / 0.3530)
        top, left = random.integers(0, 5, 2)
        images = images[..., top : top + 28, left : left + 28]
        flipped = torch.from_numpy(random.random(len(rows)) < 0.5).view(-1, 1, 1, 1)
        return torch.where(flipped, images.flip(3), images)


class Emoji:
    """The emoji set, (image, 3, 64, 64) on white; flips, turns, scales, grounds, colours and cutouts in training."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            images, labels, validation = data["images"], data["label"], data["validation"]
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        self.train, self.test = pixels[torch.from_numpy(~validation)], pixels[torch.from_numpy(validation)]
        self.train_labels = torch.from_numpy(labels[~validation].astype(np.int64))
        self.test_labels = torch.from_numpy(labels[validation].astype(np.int64))

    def ready(self, images: Tensor, ground: Tensor | float = 1.0) -> Tensor:
        images = images.float() / 255
        alpha = images[:, 3:]
        images = (images[:, :3] * alpha + ground * (1 - alpha)).clamp(0, 1)
        # rounded as the bundled pictures are
        return ((images * 255).round() / 255 - 0.5) / 0.25

    def batch(self, rows: Tensor, random: np.random.Generator) -> Tensor:
        images = self.train[rows].float()
        count = len(rows)
        angle = torch.from_numpy(random.uniform(-11, 11, count)) * math.pi / 180
        scale = torch.from_numpy(1 / random.uniform(0.78, 1.1, count))
        mirror = torch.from_numpy(np.where(random.random(count) < 0.5, -1.0, 1.0))
        shift = torch.from_numpy(random.uniform(-0.12, 0.12, (count, 2)))
        turn = torch.stack([angle.cos() * mirror, -angle.sin(), angle.sin() * mirror, angle.cos()], 1).view(count, 2, 2)
        theta = torch.cat([turn * scale.view(-1, 1, 1), shift.unsqueeze(2)], 2).float()
        grid = F.affine_grid(theta, [count, 4, 64, 64], align_corners=False)
        images = F.grid_sample(images, grid, align_corners=False)
        light = torch.from_numpy(random.uniform(0.75, 1.0, (count, 3, 1, 1))).float()
        white = torch.from_numpy(random.random((count, 1, 1, 1)) < 0.5)
        out = self.ready(images, torch.where(white, torch.ones_like(light), light))
        gain = torch.from_numpy(random.uniform(0.75, 1.25, (count, 3, 1, 1))).float()
        out = out * gain + torch.from_numpy(random.uniform(-0.2, 0.2, (count, 1, 1, 1))).float()
        for row in range(count):
            size = int(random.integers(0, 22))
            top, left = random.integers(0, 64, 2)
            out[row, :, top : top + size, left : left + size] = 0
        return out


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1."""
    network.eval()
    with torch.no_grad():
        right = sum(
            int((network(images[i : i + 256]).argmax(1) == labels[i : i + 256]).sum()) for i in range(0, len(labels), 256)
        )
    return right / len(labels)


def fit(
    network: nn.Module,
    data: Fashion | Emoji,
    random: np.random.Generator,
    *,
    epochs: int,
    rate: float,
    smoothing: float,
    batch: int,
) -> None:
    """AdamW with a warm-up and a cosine, products in bfloat16; ``network`` is channels_last and is trained in place."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=rate)
    steps = epochs * (len(data.train) // batch)
    warm = min(300, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm)))),
    )
    test = test_images(data)
    began = time.time()
    for epoch in range(epochs):
        network.train()
        order = torch.from_numpy(random.permutation(len(data.train)))
        bar = tqdm(range(0, len(order) - batch + 1, batch), desc=f"epoch {epoch + 1}/{epochs}", mininterval=5)
        for start in bar:
            rows = order[start : start + batch]
            images = data.batch(rows, random).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(images).float(), data.train_labels[rows], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 4 == 3 or epoch == epochs - 1:
            print(
                f"epoch {epoch + 1}: top-1 {accuracy(network, test, data.test_labels):.4f}, {time.time() - began:.0f} s",
                flush=True,
            )


def test_images(data: Fashion | Emoji) -> Tensor:
    """The test images as a network takes them."""
    return torch.cat([data.ready(part) for part in data.test.split(1024)]).contiguous(memory_format=torch.channels_last)


def nearest_neighbour(data: Fashion | Emoji) -> float:
    """Accuracy of the label of the nearest training image, by Euclidean distance of the pixels."""
    train = torch.cat([data.ready(part).flatten(1) for part in data.train.split(2048)])
    square = train.square().sum(1)
    right = 0
    for start in range(0, len(data.test), 512):
        some = data.ready(data.test[start : start + 512]).flatten(1)
        near = (square - 2 * some @ train.t()).argmin(1)
        right += int((data.train_labels[near] == data.test_labels[start : start + 512]).sum())
    return right / len(data.test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(NETWORKS))
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = Emoji(given.data) if given.name.endswith("emoji") else Fashion(given.data)
    epochs = given.epochs or EPOCHS[given.name]
    torch.manual_seed(given.seed)
    random = np.random.default_rng(given.seed)
    network = NETWORKS[given.name]().to(memory_format=torch.channels_last)
    smoothing = 0.1 if given.name.endswith("emoji") else 0.05
    began = time.time()
    fit(network, data, random, epochs=epochs, rate=RATE[given.name], smoothing=smoothing, batch=BATCH)
    # what is kept is what is measured: weights in 16 bits
    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    state = {key: value.contiguous() for key, value in state.items()}
    network.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    folder = Path(__file__).parents[1] / "weights"
    folder.mkdir(exist_ok=True)
    record = {
        "top1_accuracy": round(accuracy(network, test_images(data), data.test_labels), 4),
        "pixel_nearest_neighbour_accuracy": round(nearest_neighbour(data), 4),
        "epochs": epochs,
        "seed": given.seed,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "seconds": round(time.time() - began),
    }
    save_file(state, folder / f"{given.name}.safetensors")
    (folder / f"{given.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(record)


if __name__ == "__main__":
    main()
