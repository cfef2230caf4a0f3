"""Cost of a cumulative curve, and of directions, in sweeps: ``python tests/benchmarks/curves.py [ROW ...] [--apart]``.

A sweep silences every unit of the layer once; the curve silences the first k units of a random order, for every k. Sweeps,
curves and directions alternate, so that a machine whose speed drifts still gives a ratio; all take the same images from
memory, with the same engine. ``--apart`` evaluates every set of the curve on its own too, as if they were not nested.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from engine import ROWS, images_of, seconds
from torch.utils.data import TensorDataset

import unitlab
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.unit_groups import scored_sets

REPEATS = 3
IMAGES = {"vgg16-float32": 4, "resnet18-layer4": 32, "efficientnet_lite0": 20, "vgg_emoji": 128, "vgg_fashion": 256}


def measure(name: str, apart: bool) -> str:
    row, cpu = ROWS[name], torch.device("cpu")
    model, pixels = row.network(), images_of(ROWS[name])[: IMAGES[name]]
    with torch.no_grad():
        names = [f"class {k}" for k in range(model(pixels[:1]).shape[1])]
    source = unitlab.images(TensorDataset(pixels, torch.zeros(len(pixels), dtype=torch.long)), categories=names)
    with exact_float32():
        plans = [plan_sweep(model, source, SweepRequest(row.layer, basis=basis), "cpu") for basis in (None, "random")]
        units = len(plans[0].layers[0].units)
        order = np.random.default_rng(0).permutation(units).tolist()
        singles, prefixes = [[unit] for unit in range(units)], [order[:k] for k in range(1, units + 1)]

        def taken(sets: Sequence[Sequence[int]], plan: SweepPlan) -> float:
            return seconds(lambda: scored_sets(plan, source, sets, progress=False), cpu)

        taken(singles, plans[0])
        found = []
        for _ in range(REPEATS):
            sweep = taken(singles, plans[0])
            others = [taken(prefixes, plans[0]), taken(singles, plans[1])]
            # a set that is smaller than the one before it follows none
            others += [taken(prefixes[::-1], plans[0])] if apart else []
            sweep = (sweep + taken(singles, plans[0])) / 2
            found.append([sweep, *(one / sweep for one in others)])
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    ratios = " | ".join(f"{ratio:.2f}" for ratio in medians[1:])
    return f"| {name}, {row.layer} | {units} | {len(pixels)} | {medians[0]:.2f} s | {ratios} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(IMAGES)}; default all")
    parser.add_argument("--apart", action="store_true", help="evaluate the curve's sets one by one too")
    given = parser.parse_args()
    unknown = set(given.rows) - set(IMAGES)
    if unknown:
        parser.error(f"unknown rows {sorted(unknown)}; valid: {', '.join(IMAGES)}")
    warnings.filterwarnings("ignore")
    head = ["network, layer", "units", "images", "sweep", "curve / sweep", "directions / sweep"]
    head += ["curve, each set apart / sweep"] if given.apart else []
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for name in given.rows or IMAGES:
        print(measure(name, given.apart), flush=True)


if __name__ == "__main__":
    main()
