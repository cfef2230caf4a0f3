"""Memory over time of a sweep over many images: ``python tests/benchmarks/long_run.py [IMAGES]`` (default a million).

The images are tiny and made when they are read, so that a million takes minutes; ids, labels, shards and the study have
the size that a million of any images have. The process's resident memory is measured all the time.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

import unitlab
from unitlab.compute.images.source import ImageSource

CLASSES = 10
LINES = 12


def tiny_images(count: int) -> ImageSource:
    """Images of 1 × 2 × 2 pixels, made from their number."""
    table = torch.randn(1 << 12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return ImageSource(
        "tiny", [f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in range(count)],
        np.arange(count, dtype=np.int64) % CLASSES, [f"class {k}" for k in range(CLASSES)],
        lambda position: table[position % len(table)], transform_text="none",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--units", type=int, default=8)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, given.units, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * given.units, CLASSES)).eval()
    process, begin = psutil.Process(), time.perf_counter()
    measured: list[tuple[float, int]] = []
    ended = threading.Event()

    def measure() -> None:
        while not ended.wait(0.2):
            measured.append((time.perf_counter() - begin, process.memory_info().rss))

    print(f"before anything: {process.memory_info().rss / 1e6:.0f} MB")
    source = tiny_images(given.images)
    print(f"with ids and labels of {given.images:,} images: {process.memory_info().rss / 1e6:.0f} MB", flush=True)
    thread = threading.Thread(target=measure)
    thread.start()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "study.zarr"
        unitlab.ablate(network, source, "1", store=store, device="cpu", batch_size=512)
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    ended.set()
    thread.join()
    total = measured[-1][0]
    for part in range(LINES):
        some = [rss for when, rss in measured if part / LINES <= when / total <= (part + 1) / LINES]
        print(f"{total * (part + 1) / LINES:6.0f} s  {max(some) / 1e6:6.0f} MB at most")
    print(f"{given.images:,} images, {given.units} units: {total:.0f} s, study {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
