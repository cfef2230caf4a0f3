"""Whole networks on ImageNet's 50,000 images, on paper and tried.

    python tests/benchmarks/scale.py                   # what the sweeps of three networks come to
    python tests/benchmarks/scale.py shard FOLDER      # a made-up shard of ResNet50's last layers, written and summed
    python tests/benchmarks/scale.py tried FOLDER      # a made-up study of ResNet50's size, written and read

On paper: from the shapes of torchvision's networks at 224 × 224, from what shards and studies keep, and from the plan of a
sweep on a GPU with ``MEMORY``. Passes count every (unit, image) pair of a layer as live and all that follows the layer as
recomputed, so that they are the most a sweep can take; what is linear behind the layer (the last layers) counts as nothing.

Tried: every convolution of ResNet50, predictions that flip 1 % of the images, in a process whose peak memory is taken.
"""

from __future__ import annotations

import math
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_study import simulated_groups

import unitlab
from unitlab.compute.images.thumbnails import THUMBNAIL
from unitlab.compute.sweep.activations import TOP_IMAGES, _sums
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.store.shards import write_shard
from unitlab.store.writing import write_study

NETWORKS = ("resnet50", "vgg16", "convnext_tiny")
IMAGES, CLASSES = 50_000, 1_000
BYTES_OF_PAIR = 2 + 2 + 2 + 2  # of a study: prediction, drop of the margin, mean and maximum of the activation
BYTES_IN_SHARD = 2 + 2 + 4 + 4 + 4  # the same, with the first-order effect, before they are rounded
MEMORY = "40 GB"  # what memory="auto" takes of an H100
RATE = 200e12  # operations a second that one GPU is taken to do in bfloat16 products: half of what an H100 does in large ones
GPUS = (1, 8, 64)
FLIPPED = 0.01


@dataclass
class Layer:
    """A convolution: its units, and the share of the network's operations that come after it."""

    name: str
    units: int
    after: float


def convolutions(name: str) -> tuple[list[Layer], float]:
    """The convolutions of a network in the order in which they are called, and operations of one evaluation of an image."""
    network = getattr(torchvision.models, name)(weights=None).eval()
    done: list[tuple[str, int, int]] = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for module_name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(
                    lambda one, _given, _out, of=module_name: done.append((of, one.out_channels, counter.get_total_flops()))
                )
        network(torch.zeros(1, 3, 224, 224))
        total = counter.get_total_flops()
    return [Layer(of, units, 1 - before / total) for of, units, before in done], float(total)


def on_paper() -> None:
    print("| network | layers, units | passes at most | " + " | ".join(f"{count} GPU" for count in GPUS), end=" | ")
    print("numbers by image | shards of one sweep | of the widest layer alone | before, one sweep | before, alone |")
    print("| --- " * (8 + len(GPUS)) + "|")
    for name in NETWORKS:
        layers, operations = convolutions(name)
        units = sum(layer.units for layer in layers)
        passes = sum(layer.units * layer.after for layer in layers)
        hours = passes * operations * IMAGES / RATE / 3600
        widest = max(reversed(layers), key=lambda layer: layer.units)
        sweeps = [planned(name, [layer.name for layer in layers]), planned(name, [widest.name])]
        print(
            f"| {name} | {len(layers)}, {units:,} | {passes:,.0f} | "
            + " | ".join(f"{hours / count:.3g} h" for count in GPUS)
            + f" | {units * IMAGES * BYTES_OF_PAIR / 1e9:.1f} GB | "
            + " | ".join(kept(plan) for plan in sweeps)
            + " | "
            + " | ".join(kept_before(plan) for plan in sweeps)
            + " |",
            flush=True,
        )


def planned(name: str, layers: list[str]) -> SweepPlan:
    """The plan of a sweep on a GPU."""
    network = getattr(torchvision.models, name)(weights=None).eval()
    photos = unitlab.images((torch.rand(2, 3, 224, 224), torch.arange(2)), categories=[f"class {k}" for k in range(CLASSES)])
    return plan_sweep(network, photos, SweepRequest(layers, memory=MEMORY), "cpu").sized_for("cuda")


def top_bytes(plan: SweepPlan) -> int:
    """Of the largest activations, their images and maps, of a shard that keeps all."""
    return sum(len(layer.units) * TOP_IMAGES * (4 + 4 + 2 * math.prod(layer.shape[2:])) for layer in plan.layers)


def kept(plan: SweepPlan) -> str:
    """Number and size of the shards of a sweep."""
    units, of_shard = sum(len(layer.units) for layer in plan.layers), int(plan.fingerprint["shard"])
    shards = math.ceil(IMAGES / of_shard)
    size = IMAGES * (units * BYTES_IN_SHARD + 4 * CLASSES + 3 * THUMBNAIL**2) + shards * units * min(TOP_IMAGES, of_shard)
    return f"{shards:,} of {of_shard:,} images: {(size + top_bytes(plan) * (1 + math.log(shards))) / 1e9:.1f} GB"


def kept_before(plan: SweepPlan) -> str:
    """With 512 images each, three sums of float64 by unit and class, and all of the largest maps of each shard."""
    units, shards = sum(len(layer.units) for layer in plan.layers), math.ceil(IMAGES / 512)
    size = IMAGES * (units * BYTES_OF_PAIR + 3 * THUMBNAIL**2) + shards * (3 * 8 * units * CLASSES + top_bytes(plan))
    return f"{size / 1e9:.1f} GB"


def shard(folder: Path) -> None:
    """A shard of 2,048 units, 512 images and 1,000 classes as it is kept, and with sums as it was."""
    random, (units, images) = np.random.default_rng(0), (2048, 512)
    pairs = random.random((units, images), np.float32)
    by_image = {
        "prediction": random.integers(0, CLASSES, (units, images), np.int16), "label_margin_drop": pairs.astype(np.float16),
    }  # fmt: skip
    activations = {"activation_mean": pairs, "activation_max": 2 * pairs, "first_order": -pairs}
    label, probability = random.integers(0, CLASSES, images), random.random((images, CLASSES), np.float32)
    top = {"top": random.random((units, TOP_IMAGES, 7, 7), np.float32).astype(np.float16)}
    top |= {"top_activation": random.random((units, TOP_IMAGES), np.float32), "top_image": np.zeros((units, TOP_IMAGES), "i4")}
    thumbnails = {"thumbnails": random.integers(0, 256, (images, THUMBNAIL, THUMBNAIL, 3), np.uint8)}
    sums: dict[str, np.ndarray] = {}
    timed("sums of a shard", lambda: sums.update(_sums(activations, label, probability, 128, 49)))
    before = {name: values.astype(np.float16) for name, values in activations.items() if name != "first_order"}
    for what, arrays in (
        ("before, with sums", {**by_image, **before, **sums, **top, **thumbnails}),
        ("now, the first one", {**by_image, **activations, "probability": probability, **top, **thumbnails}),
        ("now, a tenth one", {**by_image, **activations, "probability": probability, **thumbnails,
                              **{name: values[: units // 10] for name, values in top.items()}}),
    ):  # fmt: skip
        size = sum(np.asarray(values).nbytes for values in arrays.values())
        for _ in range(3):
            timed(f"{what}, {size / 1e6:.1f} MB", lambda arrays=arrays: write_shard(folder / "shard.safetensors", arrays))


class Rows:
    """A (unit, image) array whose rows are made when they are read, alike each time."""

    def __init__(self, units: int, images: int, dtype: type, row: object, seed: int) -> None:
        self.shape, self.dtype, self.row, self.seed = (units, images), np.dtype(dtype), row, seed

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.stack([self.row(np.random.default_rng([self.seed, unit])) for unit in range(*rows.indices(self.shape[0]))])


def tried(folder: Path) -> None:
    layers, _ = convolutions("resnet50")
    random = np.random.default_rng(0)
    label = np.arange(IMAGES) % CLASSES
    baseline = np.where(random.random(IMAGES) < 0.76, label, (label + 1) % CLASSES).astype(np.int16)

    def predicted(draw: np.random.Generator) -> np.ndarray:
        row = baseline.copy()
        flips = draw.integers(0, IMAGES, draw.binomial(IMAGES, FLIPPED))
        row[flips] = draw.integers(0, CLASSES, len(flips))
        return row

    def eight_bits(draw: np.random.Generator) -> np.ndarray:
        return (draw.integers(0x3000, 0x4400, IMAGES, dtype=np.uint16) & 0xFFF8).view(np.float16)

    few = simulated_groups(2, CLASSES, CLASSES, thumbnails=False, top=20, map_size=7)
    groups = {"": (dict(few[""][0]), few[""][1])}
    n = np.bincount(label, minlength=CLASSES)
    right = baseline == label
    groups[""][0].update(
        image=np.array([f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, IMAGES + 1)], dtype=object),
        label=label.astype(np.int32), baseline_prediction=baseline.astype(np.int32), n_images=n.astype(np.int32),
        baseline_margin=np.where(right, 1.0, -1.0).astype(np.float32),
        baseline_accuracy=np.bincount(label[right], minlength=CLASSES) / n,
    )  # fmt: skip
    for number, layer in enumerate(layers):
        of_layer, of_ablation = (
            {name: np.repeat(np.asarray(array[:1]), layer.units, 0) for name, array in few[key][0].items()}
            for key in ("conv5_3", "conv5_3/zero")
        )
        counted = counts(Rows(layer.units, IMAGES, np.int16, predicted, number), label, right, n)
        shape = (layer.units, IMAGES)
        of_layer.update(
            unit=np.arange(layer.units, dtype=np.int32),
            activation_mean=Rows(*shape, np.float16, eight_bits, 1000 + number),
            activation_max=Rows(*shape, np.float16, eight_bits, 2000 + number),
        )
        of_ablation.update(
            unit=of_layer["unit"], prediction=Rows(*shape, np.int16, predicted, number),
            label_margin_drop=Rows(*shape, np.float16, eight_bits, 3000 + number), **counted,
        )  # fmt: skip
        groups[layer.name] = (of_layer, {**few["conv5_3"][1], "layer": layer.name})
        groups[f"{layer.name}/zero"] = (of_ablation, few["conv5_3/zero"][1])
    store = folder / "resnet50.zarr"
    taken = timed(f"written, {sum(layer.units for layer in layers):,} units", lambda: write_study(store, groups))
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    print(f"  {size / 1e9:.2f} GB in {sum(1 for _ in store.rglob('*')):,} files, {size / taken / 1e6:.0f} MB/s")
    ds = timed("opened, layer4.2.conv3", lambda: unitlab.load(store, layer="layer4.2.conv3"))
    timed("one row of predictions", lambda: ds.prediction.sel(unit=1234).values)
    timed("damage of layer4.2.conv3 (2,048 units)", lambda: unitlab.damage(ds, progress=False))


def counts(prediction: Rows, label: np.ndarray, right: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
    """What a study keeps by unit and class of its predictions."""
    broken, fixed, predicted = [], [], []
    for unit in range(prediction.shape[0]):
        row = prediction[unit : unit + 1][0]
        after = row == label
        broken.append(np.bincount(label[right & ~after], minlength=len(n)))
        fixed.append(np.bincount(label[~right & after], minlength=len(n)))
        predicted.append(np.bincount(row, minlength=len(n)))
    found = {"n_broken": np.stack(broken), "n_fixed": np.stack(fixed), "n_predicted": np.stack(predicted)}
    net = found["n_broken"] - found["n_fixed"]
    drops = {"accuracy_drop": net / n, "overall_drop": net.sum(1) / n.sum()}
    return {**{name: array.astype(np.int32) for name, array in found.items()}, **drops}


def timed(what: str, action: object) -> object:
    """What the action gives, or the seconds that it took where that is nothing; time and peak memory are printed."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    began, processor = time.perf_counter(), time.process_time()
    found = action()
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
    print(f"{what}: {seconds:.3g} s ({processor:.3g} s of processors), at most {peak:.2f} GB", flush=True)
    return seconds if found is None else found


if __name__ == "__main__":
    {"tried": tried, "shard": shard}[sys.argv[1]](Path(sys.argv[2])) if sys.argv[1:] else on_paper()
