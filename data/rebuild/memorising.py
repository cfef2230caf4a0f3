"""Train one small network on labels of which a share is random, until it knows them all; keep what silencing units does.

    python data/rebuild/memorising.py train FOLDER SCRATCH [--seed N]
    python data/rebuild/memorising.py collect SCRATCH

FOLDER holds Fashion-MNIST's four .gz files. ``train`` leaves what it measured of each network in SCRATCH and skips the
networks that are there; ``collect`` writes data/training_choices/memorising.zarr.zip.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from train import Fashion, accuracy
from training_choices import BATCH, BLOCKS, DENSE, LAYER, SETS, channels_last, network_of

import unitlab
from unitlab.analysis.comparisons.training_choices import MEMORISING_ARMS, memorising_measures, write_memorising

SEEDS = range(5)
IMAGES = 2000
RATE = 2e-3
MOST_EPOCHS = 400
ORDERS = 6
KS = range(0, BLOCKS[-1][-1] + 1, 4)


def with_random(labels: Tensor, share: float, seed: int) -> Tensor:
    """Labels of which a share, drawn at random, is drawn anew from all ten classes (so some stay right by chance)."""
    random = np.random.default_rng([seed, 1])
    replaced = random.permutation(len(labels)) < round(share * len(labels))
    drawn = random.integers(0, 10, len(labels))
    return torch.from_numpy(np.where(replaced, drawn, labels.numpy()))


def train(arm: str, seed: int, images: dict[str, tuple[Tensor, Tensor]], scratch: Path) -> None:
    """Train one network until every label is fitted, and measure it on both sets of images; nothing where that is done."""
    path = file_of(arm, seed, scratch)
    if path.exists():
        return
    began = time.process_time()
    pixels, true_labels = images["training images"]
    labels = with_random(true_labels, MEMORISING_ARMS[arm], seed)
    network = network_of("plain", seed, SETS["fashion"])
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    random = np.random.default_rng(seed)
    epoch, fitted = 0, 0.0
    while fitted < 1 and epoch < MOST_EPOCHS:
        network.train()
        order = torch.from_numpy(random.permutation(len(labels)))
        for rows in order.split(BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(channels_last(pixels[rows])).float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epoch += 1
        fitted = accuracy(network, pixels, labels)
    record = {"epochs": epoch, "fitted": fitted, "seconds": round(time.process_time() - began)}
    kept = {f"record/{name}": np.asarray(value) for name, value in record.items()}
    for name, (of, given) in {**images, "training images": (pixels, labels)}.items():
        source = unitlab.images((of.numpy(), given.numpy()))
        study = unitlab.ablate(network.eval(), source, LAYER, progress=False)
        curve = unitlab.cumulative(network, source, LAYER, "random", n_random=ORDERS, ks=KS, seed=seed, progress=False)
        measured = memorising_measures(study, curve)
        print(arm, seed, record, name, round(measured["accuracy"][0], 4), round(float(measured["curve_area"]), 4), flush=True)
        kept |= {f"{name}/{variable}": value for variable, value in measured.items() if value.dtype.kind in "fiu"}
        kept["record/weights_sha256"] = np.asarray(study.attrs["fingerprint_weights"])
    with path.open("wb") as file:
        np.savez(file, **kept)


def collect(scratch: Path) -> None:
    """Write the dataset of all networks."""
    measured: dict[tuple[str, int], dict[str, dict[str, np.ndarray]]] = {}
    for arm in MEMORISING_ARMS:
        for seed in SEEDS:
            parts: dict[str, dict[str, np.ndarray]] = {}
            with np.load(file_of(arm, seed, scratch)) as kept:
                for key in kept.files:
                    part, name = key.split("/")
                    parts.setdefault(part, {})[name] = kept[key]
            measured[arm, seed] = parts
    records = {key: parts.pop("record") for key, parts in measured.items()}
    assert all(record["fitted"] == 1 for record in records.values())
    names = np.array([str(one) for one in range(10)])
    for parts in measured.values():
        for part in parts.values():
            part["category"] = names
    attrs = {
        "images": f"fashion_mnist, the first {IMAGES:,} training images and the first {IMAGES:,} test images",
        "layer": LAYER,
        "architecture": (
            f"3x3 convolutions of {', '.join(str(width) for (width,) in BLOCKS)} channels, each with ReLU and 2x2 max-pooling, "
            f"dense layers of {DENSE} and 10, neither batch norm nor dropout"
        ),
        "training": f"until every training label was fitted, batches of {BATCH}",
        "optimizer": f"Adam at {RATE:g} without weight decay, products in bfloat16",
        "curves": f"mean over {ORDERS} random orders of the units",
        "pairing": "all arms of a seed: same initial weights, same order of the images",
    }
    write_memorising(Path(__file__).parents[1] / "training_choices" / "memorising.zarr.zip", measured, records, attrs)


def file_of(arm: str, seed: int, scratch: Path) -> Path:
    return scratch / f"memorising-{MEMORISING_ARMS[arm]:g}-{seed}.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "collect"])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, choices=list(SEEDS))
    given = parser.parse_args()
    scratch = given.paths[-1]
    if given.step == "collect":
        collect(scratch)
        return
    scratch.mkdir(parents=True, exist_ok=True)
    data = Fashion(given.paths[0])
    images = {
        "training images": (data.ready(data.train[:IMAGES]), data.train_labels[:IMAGES]),
        "test images": (data.ready(data.test[:IMAGES]), data.test_labels[:IMAGES]),
    }
    for seed in SEEDS if given.seed is None else [given.seed]:
        for arm in MEMORISING_ARMS:
            train(arm, seed, images, scratch)


if __name__ == "__main__":
    main()
