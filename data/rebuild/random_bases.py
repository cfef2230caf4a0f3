"""Compare the units of a bundled network with random directions of the same layer, on all of its images.

    python data/rebuild/random_bases.py SCRATCH
    python data/rebuild/random_bases.py SCRATCH 0.25    # and 0.5, 0.75: of five bases, turned so far

SCRATCH keeps the study of each basis (half a minute each); the comparison is written to data/random_bases.
"""

from __future__ import annotations

import sys
from pathlib import Path

import unitlab
from unitlab.analysis.comparisons.direction_comparison import write_random_bases
from unitlab.compute.networks import bundled_network

NAME, LAYER, SEEDS, SEEDS_AT_A_POWER = "vgg_fashion", "conv3_2", range(10), range(5)


def main() -> None:
    scratch, power = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None
    model, images = bundled_network(NAME), unitlab.images("fashion_mnist")
    ending = "" if power is None else f"-power-{power:g}"
    rotated = []
    for seed in SEEDS if power is None else SEEDS_AT_A_POWER:
        name = f"random-{seed}{ending}"
        store = scratch / f"{name}.zarr"
        if not store.exists():
            unitlab.ablate(model, images, LAYER, basis="random", power=power, seed=seed, store=store)
        rotated.append(unitlab.load(store, ablation=name))
    found = unitlab.compare_directions(unitlab.load(NAME), rotated)
    write_random_bases(Path(__file__).parents[1] / "random_bases" / f"{NAME}{ending}.zarr.zip", found)


if __name__ == "__main__":
    main()
