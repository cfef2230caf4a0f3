"""Train the same small network with and without batch norm and dropout; keep what silencing each unit does.

    python data/rebuild/training_choices.py train FOLDER SCRATCH [--arm ARM --seed N]
    python data/rebuild/training_choices.py collect SCRATCH

FOLDER holds Fashion-MNIST's four .gz files. ``train`` leaves the weights and the study of each network in SCRATCH and
skips those that are there; ``collect`` measures the studies and writes data/training_choices.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from train import Fashion, accuracy, fit, test_images

import unitlab
from unitlab.analysis.comparisons.training_choices import ARMS, write_training_choices
from unitlab.compute.networks.bundled import VGG

BLOCKS = [(16,), (32,), (64,)]
DENSE = 128
DROPOUT = 0.5
LAYER = "features.relu3_1"
EPOCHS = 6
BATCH = 128
RATE = 2e-3
SEEDS = range(5)


class AsTheyAre(Fashion):
    """Fashion-MNIST without flips and shifts: in a few epochs narrow networks with dropout learn little from more variety."""

    def batch(self, rows: Tensor, random: np.random.Generator) -> Tensor:
        return self.ready(self.train[rows])


def network_of(arm: str, seed: int) -> nn.Module:
    """Untrained network of an arm: all arms of one seed begin with the same weights."""
    batch_norm, dropout = ARMS[arm]
    network = VGG(BLOCKS, channels=1, categories=10, size=28, dense=DENSE, batch_norm=batch_norm)
    rate = DROPOUT if dropout else 0.0
    dense = network.classifier
    # AlexNet's places: before each dense layer, so that units of the last convolution are dropped in training
    network.classifier = nn.Sequential(
        OrderedDict(drop5=nn.Dropout(rate), fc6=dense.fc6, relu6=dense.relu6, drop6=nn.Dropout(rate), fc7=dense.fc7)
    )
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # by fan-in: by fan-out narrow dense layers begin with large logits, and dropout kills their units
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def train(arm: str, seed: int, data: Fashion, scratch: Path) -> None:
    """Train one network and study every unit of its last convolution; nothing where that is done."""
    name = f"{arm.replace(' ', '_')}-{seed}"
    weights, record, store = (scratch / f"{name}.{kind}" for kind in ("safetensors", "json", "zarr"))
    network = network_of(arm, seed).to(memory_format=torch.channels_last)
    if not record.exists():
        began = time.time()
        fit(network, data, np.random.default_rng(seed), epochs=EPOCHS, rate=RATE, smoothing=0.0, batch=BATCH)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, weights)
        some = data.ready(data.train[:10_000]).contiguous(memory_format=torch.channels_last)
        result = {
            "accuracy": accuracy(network, test_images(data), data.test_labels),
            "train_accuracy": accuracy(network, some, data.train_labels[:10_000]),
            "train_images": len(data.train),
            "seconds": round(time.time() - began),
        }
        record.write_text(json.dumps(result))
        print(name, result, flush=True)
    if not store.exists():
        network.load_state_dict(load_file(weights))
        unitlab.ablate(network.eval(), unitlab.images("fashion_mnist"), LAYER, store=store)


def collect(scratch: Path) -> None:
    """Write the dataset of all networks."""
    files = {(arm, seed): scratch / f"{arm.replace(' ', '_')}-{seed}" for arm in ARMS for seed in SEEDS}
    records = {key: json.loads(path.with_suffix(".json").read_text()) for key, path in files.items()}
    stores = {key: path.with_suffix(".zarr") for key, path in files.items()}
    training = {
        "images": "fashion_mnist, all 10,000 test images",
        "layer": LAYER,
        "architecture": (
            f"3x3 convolutions of {', '.join(str(width) for (width,) in BLOCKS)} channels, each with ReLU and 2x2 max-pooling, "
            f"dense layers of {DENSE} and 10"
        ),
        "batch_norm": "between each convolution and its ReLU, in place of the convolution's bias",
        "dropout": f"{DROPOUT} before each of the two dense layers",
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "optimizer": "AdamW, weight decay 0.05, warm-up and cosine, products in bfloat16",
        "augmentation": "none",
        "train_images": records[next(iter(ARMS)), 0]["train_images"],
        "pairing": "all arms of a seed: same initial weights, same order of the images",
    }
    write_training_choices(
        Path(__file__).parents[1] / "training_choices" / "fashion.zarr.zip",
        {key: unitlab.load(store) for key, store in stores.items()},
        {key: record["train_accuracy"] for key, record in records.items()},
        training,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    training = steps.add_parser("train")
    training.add_argument("folder", type=Path)
    training.add_argument("scratch", type=Path)
    training.add_argument("--arm", choices=list(ARMS))
    training.add_argument("--seed", type=int, choices=list(SEEDS))
    collecting = steps.add_parser("collect")
    collecting.add_argument("scratch", type=Path)
    given = parser.parse_args()
    if given.step == "collect":
        collect(given.scratch)
        return
    given.scratch.mkdir(parents=True, exist_ok=True)
    data = AsTheyAre(given.folder)
    for seed in SEEDS if given.seed is None else [given.seed]:
        for arm in ARMS if given.arm is None else [given.arm]:
            train(arm, seed, data, given.scratch)


if __name__ == "__main__":
    main()
