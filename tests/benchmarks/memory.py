"""Peak memory of a sweep with few and with many images: ``python tests/benchmarks/memory.py [ROW ...]``.

Each sweep runs in a process of its own and writes its study. What counts is the largest resident set of that process above
the one just before the sweep, when the network is loaded: it must stay under the budget (2 GB) plus the network's own size.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.data import Dataset

import unitlab
from unitlab.compute.networks.bundled import bundled_network

BUDGET = 2 * 10**9
# network, layer, shape of an image, classes, few and many images
ROWS = {
    "vgg16": (lambda: torchvision.models.vgg16(weights=None).eval(), "conv5_3", (3, 224, 224), 1000, (8, 64)),
    "vgg_fashion": (lambda: bundled_network("vgg_fashion"), "conv3_2", (1, 28, 28), 10, (100, 100_000)),
}


class RandomImages(Dataset[tuple[torch.Tensor, int]]):
    """Images that are made when they are read: none is held."""

    def __init__(self, count: int, shape: tuple[int, ...], categories: int) -> None:
        self.count, self.shape = count, shape
        self.targets = [number % categories for number in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(number)), self.targets[number]


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def network_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def sweep(name: str, count: int) -> None:
    """One sweep in this process; prints bytes above the start and bytes of the network."""
    build, layer, shape, categories, _ = ROWS[name]
    model = build()
    images = unitlab.images(RandomImages(count, shape, categories), categories=[f"class {k}" for k in range(categories)])
    with torch.no_grad():
        model(next(iter(images.batches(0, 1, 1)))[0])
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        unitlab.ablate(model, images, layer, store=Path(folder) / "study.zarr", device="cpu", memory=BUDGET, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak - before, network_bytes(model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--sweep", nargs=2, metavar=("ROW", "IMAGES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sweep:
        sweep(given.sweep[0], int(given.sweep[1]))
        return
    print("| row | images | GB above the loaded network | allowed |\n| --- | --- | --- | --- |", flush=True)
    for name in given.rows or ROWS:
        for count in ROWS[name][4]:
            command = [sys.executable, __file__, "--sweep", name, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            above, network = map(int, done.stdout.split())
            print(f"| {name} | {count:,} | {above / 1e9:.2f} | {(BUDGET + network) / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()
