"""Time and memory of `unitlab.damage` on made-up studies: ``python tests/benchmarks/damage.py [UNITS CLASSES IMAGES]``.

Without arguments the three sizes that are promised something: a bundled study's, VGG16 on Places365, and 2,048 units ×
1,000 classes × 50,000 images; then `unitlab.correlations` of 1,280 units × 1,000 classes. One call each; the study is in memory
before.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_study import study_of_predictions

import unitlab

OF_CORRELATIONS = (1_280, 1_000, 10_000)
SIZES = [(64, 60, 4_428), (512, 365, 36_500), (2_048, 1_000, 50_000)]
ACCURACY, FLIPPED, OF_ONE_CLASS = 0.55, 0.01, 0.1


def made_up(units: int, classes: int, images: int) -> xr.Dataset:
    """Every unit flips 1 % of the images at random and breaks a tenth of one class."""
    random = np.random.default_rng(0)
    label = np.sort(np.arange(images) % classes)
    baseline = np.where(random.random(images) < ACCURACY, label, (label + 1) % classes)
    prediction = np.empty((units, images), np.int16)
    for unit in range(units):
        flipped = random.random(images) < FLIPPED
        prediction[unit] = np.where(flipped, random.integers(0, classes, images), baseline)
        hit = (label == unit % classes) & (random.random(images) < OF_ONE_CLASS)
        prediction[unit, hit] = (label[hit] + 1) % classes
    return study_of_predictions(label, baseline, prediction, classes)


def main() -> None:
    given = tuple(int(argument) for argument in sys.argv[1:])
    for size in [given] if given else SIZES:
        ds = made_up(*size).drop_vars(["activation_mean", "activation_max"])
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        began = time.perf_counter()
        found = unitlab.damage(ds)
        seconds = time.perf_counter() - began
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
        print(
            f"{size[0]:,} units × {size[1]:,} classes × {size[2]:,} images: {seconds:.1f} s, at most {peak:.2f} GB with the "
            f"study; {int((found.p_specific <= 0.05).sum()):,} units with p_specific ≤ 0.05",
            flush=True,
        )
    if not given:
        ds = made_up(*OF_CORRELATIONS)
        began, processor = time.perf_counter(), time.process_time()
        unitlab.correlations(ds)
        print(
            "correlations of {:,} units × {:,} classes × {:,} images:".format(*OF_CORRELATIONS),
            f"{time.perf_counter() - began:.1f} s, {time.process_time() - processor:.1f} s of processors",
        )


if __name__ == "__main__":
    main()
