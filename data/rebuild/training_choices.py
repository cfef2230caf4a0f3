"""Train one small network with and without batch norm and dropout to the same accuracy; keep what silencing each unit does.

    python data/rebuild/training_choices.py choose SET DATA SCRATCH
    python data/rebuild/training_choices.py train SET DATA SCRATCH [--arm ARM --seed N]
    python data/rebuild/training_choices.py collect SET SCRATCH
    python data/rebuild/training_choices.py partners fashion SCRATCH

SET is "fashion", with DATA the folder of Fashion-MNIST's four .gz files, or "emoji", with DATA the emoji.npz that
data/rebuild/emoji.py writes. ``choose`` finds each arm's learning rate on validation images taken from the training images,
``train`` trains until the validation accuracy is reached and leaves the weights and the study of each network in SCRATCH
(both skip what is there); ``collect`` measures the studies and writes data/training_choices,
and ``partners`` matches the units of each pair of seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from train import Emoji, Fashion, accuracy

import unitlab
from unitlab.analysis.comparisons.bundled_results import write_results
from unitlab.analysis.comparisons.training_choices import ARMS, write_training_choices
from unitlab.compute.networks.bundled import VGG
from unitlab.schema import SEED_PARTNER_VARIABLES

BLOCKS = [(16,), (32,), (64,)]
DENSE = 128
LAYER = "features.relu3_1"
BATCH = 128
WARM_UP = 100
AVERAGED = 0.99
# of the networks that the learning rates are chosen with, which are in no comparison
CHOOSING_SEED = 100


class Images(Protocol):
    """Images to train with and to validate on, ready for the network."""

    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor

    def batch(self, rows: Tensor, random: np.random.Generator) -> Tensor: ...


class FashionAsItIs:
    """Fashion-MNIST without flips and shifts, the last 5,000 training images for validation."""

    def __init__(self, folder: Path) -> None:
        data = Fashion(folder)
        images = data.ready(data.train)
        self.train, self.validation = images[:-5000], channels_last(images[-5000:])
        self.train_labels, self.validation_labels = data.train_labels[:-5000], data.train_labels[-5000:]

    def batch(self, rows: Tensor, random: np.random.Generator) -> Tensor:
        return self.train[rows]


class HalvedEmoji:
    """The emoji set at 32×32, flipped and shifted in training; a fifth of the training clusters for validation."""

    def __init__(self, path: Path) -> None:
        data = Emoji(path)
        with np.load(path) as file:
            clusters = file["cluster"][~file["validation"]]
        some = np.random.default_rng(0).permutation(np.unique(clusters))
        held = torch.from_numpy(np.isin(clusters, some[: len(some) // 5]))
        images = torch.cat([F.avg_pool2d(data.ready(part), 2) for part in data.train.split(512)])
        self.train, self.validation = images[~held], channels_last(images[held])
        self.train_labels, self.validation_labels = data.train_labels[~held], data.train_labels[held]

    def batch(self, rows: Tensor, random: np.random.Generator) -> Tensor:
        # white is 2 in the network's units
        images = F.pad(self.train[rows], (3, 3, 3, 3), value=2.0)
        top, left = random.integers(0, 7, 2)
        images = images[..., top : top + 32, left : left + 32]
        flipped = torch.from_numpy(random.random(len(rows)) < 0.5).view(-1, 1, 1, 1)
        return torch.where(flipped, images.flip(3), images)


@dataclass(frozen=True)
class Set:
    """A data set: where its images are, what is measured on, and how long its networks train."""

    data: type[FashionAsItIs] | type[HalvedEmoji]
    images: str
    channels: int
    categories: int
    size: int
    seeds: range
    target: float
    check: int
    choosing_steps: int
    most_steps: int
    first_check: int
    augmentation: str
    dropout: float
    rates: tuple[float, ...]


# on emoji half of the positions or channels would take narrow networks many times as long to learn without
SETS = {
    "fashion": Set(
        data=FashionAsItIs, images="fashion_mnist", channels=1, categories=10, size=28, seeds=range(5),
        target=0.89, check=50, first_check=300, choosing_steps=860, most_steps=6000,
        augmentation="none", dropout=0.5, rates=(7e-4, 2e-3, 6e-3, 1.8e-2),
    ),
    "emoji": Set(
        data=HalvedEmoji, images="emoji", channels=3, categories=60, size=32, seeds=range(3),
        target=0.33, check=25, first_check=150, choosing_steps=300, most_steps=3000,
        augmentation="flips, shifts up to 3 of 32 pixels", dropout=0.25, rates=(2e-3, 6e-3),
    ),
}  # fmt: skip


def channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def network_of(arm: str, seed: int, of: Set) -> nn.Module:
    """Untrained network of an arm: all arms of one seed begin with the same weights."""
    batch_norm, dropout = ARMS[arm]
    network = VGG(BLOCKS, channels=of.channels, categories=of.categories, size=of.size, dense=DENSE, batch_norm=batch_norm)
    rate = of.dropout if dropout != "none" else 0.0
    dense = network.classifier
    # AlexNet's places, before each dense layer. The first drops positions of the 3×3 (or 4×4) maps one by one, not units:
    # a unit keeps the others. Channel dropout drops whole maps there, as an ablation does.
    network.classifier = nn.Sequential(
        OrderedDict(
            drop5=nn.Dropout(rate if dropout == "positions" else 0.0),
            fc6=dense.fc6, relu6=dense.relu6, drop6=nn.Dropout(rate), fc7=dense.fc7,
        )
    )  # fmt: skip
    network.features.add_module("drop5", nn.Dropout2d(rate if dropout == "channels" else 0.0))
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # by fan-in: by fan-out narrow dense layers begin with large logits, and dropout kills their units
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.to(memory_format=torch.channels_last)


def fit(
    network: nn.Module, data: Images, seed: int, rate: float, *, steps: int, check: int, first: int, target: float
) -> tuple[nn.Module, list[float]]:
    """The running mean of the weights at the first check at which its validation accuracy is ``target``, or after ``steps``.

    AdamW at one rate after a warm-up, products in bfloat16. The mean, 0.99 a step, changes little from check to check, so that
    networks stop close to the target. Second: validation accuracy at each check.
    """
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED), use_buffers=True)
    order = np.empty(0, np.int64)
    found: list[float] = []
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = random.permutation(len(data.train_labels))
        rows, order = torch.from_numpy(order[:BATCH]), order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARM_UP)
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(network(channels_last(data.batch(rows, random))).float(), data.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(network)
        # not before the untrained weights are nearly out of the mean
        if step % check == 0 and step >= first:
            found.append(accuracy(averaged.module, data.validation, data.validation_labels))
            if found[-1] >= target:
                break
    return averaged.module, found


def chosen_rates(name: str, scratch: Path) -> dict[str, dict[float, float]]:
    """Validation accuracy of each arm at each rate, as ``choose`` measured it."""
    found = json.loads((scratch / f"{name}-rates.json").read_text())
    return {arm: {float(rate): value for rate, value in of.items()} for arm, of in found.items()}


def choose(name: str, data: Images, scratch: Path) -> None:
    """Validation accuracy of each arm at each learning rate after a fixed number of steps."""
    path = scratch / f"{name}-rates.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    of = SETS[name]
    for arm in ARMS:
        for rate in of.rates:
            if str(rate) not in found.setdefault(arm, {}):
                network = network_of(arm, CHOOSING_SEED, of)
                steps = of.choosing_steps
                _, checks = fit(network, data, CHOOSING_SEED, rate, steps=steps, check=steps, first=1, target=2.0)
                found[arm][str(rate)] = checks[-1]
                print(name, arm, rate, [round(one, 4) for one in checks], flush=True)
                path.write_text(json.dumps(found, indent=1))


def train(name: str, arm: str, seed: int, data: Images, scratch: Path) -> None:
    """Train one network and study every unit of its last convolution; nothing where that is done."""
    of = SETS[name]
    path = scratch / f"{name}-{arm.replace(' ', '_')}-{seed}"
    weights, record, store = (path.with_suffix(f".{kind}") for kind in ("safetensors", "json", "zarr"))
    if not record.exists():
        began = time.process_time()
        rates = chosen_rates(name, scratch)[arm]
        rate = max(rates, key=rates.__getitem__)
        network, checks = fit(
            network_of(arm, seed, of),
            data,
            seed,
            rate,
            steps=of.most_steps,
            check=of.check,
            first=of.first_check,
            target=of.target,
        )
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, weights)
        some = torch.arange(min(10_000, len(data.train_labels)))
        images = channels_last(data.train[some])
        result = {
            "train_accuracy": accuracy(network, images, data.train_labels[some]),
            "validation_accuracy": checks[-1],
            "steps": of.first_check + (len(checks) - 1) * of.check,
            "learning_rate": rate,
            "train_images": len(data.train_labels),
            "validation_images": len(data.validation_labels),
            "processor_seconds": round(time.process_time() - began),
        }
        record.write_text(json.dumps(result))
        print(name, arm, seed, result, flush=True)
    if not store.exists():
        network = network_of(arm, seed, of)
        network.load_state_dict(load_file(weights))
        if name == "emoji":
            # the bundled images are 64×64
            network.features = nn.Sequential(OrderedDict(halved=nn.AvgPool2d(2), **dict(network.features.named_children())))
        unitlab.ablate(network.eval(), unitlab.images(of.images), LAYER, store=store, progress=False)


def collect(name: str, scratch: Path) -> None:
    """Write the dataset of all networks."""
    of = SETS[name]
    files = {(arm, seed): scratch / f"{name}-{arm.replace(' ', '_')}-{seed}" for arm in ARMS for seed in of.seeds}
    records = {key: json.loads(path.with_suffix(".json").read_text()) for key, path in files.items()}
    studies = {key: unitlab.load(path.with_suffix(".zarr")) for key, path in files.items()}
    some = next(iter(records.values()))
    training = {
        "images": f"{of.images}, all {next(iter(studies.values())).sizes['image']:,} test images",
        "layer": LAYER,
        "architecture": (
            f"3x3 convolutions of {', '.join(str(width) for (width,) in BLOCKS)} channels, each with ReLU and 2x2 max-pooling, "
            f"dense layers of {DENSE} and {of.categories}; images of {of.size}x{of.size}"
        ),
        "batch_norm": "between each convolution and its ReLU, in place of the convolution's bias",
        "dropout": f"{of.dropout:g} before each of the two dense layers; before the first, positions of maps or whole channels",
        "matching": (
            f"each network trained until the running mean of its weights ({AVERAGED} a step) was right for {of.target:.0%} of "
            f"{some['validation_images']:,} validation images, looked at every {of.check} steps from step {of.first_check} on"
        ),
        "learning_rates": (
            f"each arm's best of {', '.join(f'{rate:g}' for rate in of.rates)}, by validation accuracy after "
            f"{of.choosing_steps} steps with another seed"
        ),
        "batch_size": BATCH,
        "optimizer": f"AdamW, weight decay 0.05, warm-up of {WARM_UP} steps, products in bfloat16",
        "augmentation": of.augmentation,
        "train_images": some["train_images"],
        "validation_images": some["validation_images"],
        "pairing": "all arms of a seed: same initial weights, same order of the images",
    }
    write_training_choices(Path(__file__).parents[1] / "training_choices" / f"{name}.zarr.zip", studies, records, training)


def match_seeds(name: str, scratch: Path) -> None:
    """Write what `unitlab.match` gives of each pair of seeds, arm by arm."""
    of, found = SETS[name], []
    pairs = list(combinations(of.seeds, 2))
    for arm in ARMS:
        studies = {seed: unitlab.load(scratch / f"{name}-{arm.replace(' ', '_')}-{seed}.zarr").load() for seed in of.seeds}
        for a, b in pairs:
            ds = unitlab.match(studies[a], studies[b])
            found.append({
                "n_partners": int((ds.partner >= 0).sum()), "n_above_chance": int((ds.partner_excess > 0).sum()),
                "partner_correlation": float(ds.partner_correlation.median()),
                "partner_damage_correlation": float(ds.mean_partner_damage_correlation),
                "other_damage_correlation": float(ds.mean_other_damage_correlation),
                "partner_damage_p": float(ds.partner_damage_p),
            })  # fmt: skip
    shape = (len(ARMS), len(pairs))
    values = {key: np.array([one[key] for one in found]).reshape(shape) for key in found[0]}
    values |= {"arm": np.array(list(ARMS), dtype=object), "seed_a": np.array(pairs)[:, 0], "seed_b": np.array(pairs)[:, 1]}
    path = Path(__file__).parents[1] / "training_choices" / "partners.zarr.zip"
    write_results(path, SEED_PARTNER_VARIABLES, values, {"networks": name, "layer": LAYER})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["choose", "train", "collect", "partners"])
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--arm", choices=list(ARMS))
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    scratch = given.paths[-1]
    scratch.mkdir(parents=True, exist_ok=True)
    if given.step in ("collect", "partners"):
        {"collect": collect, "partners": match_seeds}[given.step](given.set, scratch)
        return
    of = SETS[given.set]
    data = of.data(given.paths[0])
    if given.step == "choose":
        choose(given.set, data, scratch)
        return
    for seed in of.seeds if given.seed is None else [given.seed]:
        for arm in ARMS if given.arm is None else [given.arm]:
            train(given.set, arm, seed, data, scratch)


if __name__ == "__main__":
    main()
