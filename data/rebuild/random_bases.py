"""Compare the units of a bundled network with random directions of the same layer, on all of its images.

    python data/rebuild/random_bases.py SCRATCH

SCRATCH keeps the study of each basis (half a minute each); the comparison is written to data/random_bases.
"""

from __future__ import annotations

import sys
from pathlib import Path

import unitlab
from unitlab.analysis.comparisons.direction_comparison import write_random_bases
from unitlab.compute.networks import bundled_network

NAME, LAYER, SEEDS = "vgg_fashion", "conv3_2", range(10)


def main() -> None:
    scratch = Path(sys.argv[1])
    model, images = bundled_network(NAME), unitlab.images("fashion_mnist")
    rotated = []
    for seed in SEEDS:
        store = scratch / f"random-{seed}.zarr"
        if not store.exists():
            unitlab.ablate(model, images, LAYER, basis="random", seed=seed, store=store)
        rotated.append(unitlab.load(store, ablation=f"random-{seed}"))
    found = unitlab.compare_directions(unitlab.load(NAME), rotated)
    write_random_bases(Path(__file__).parents[1] / "random_bases" / f"{NAME}.zarr.zip", found)


if __name__ == "__main__":
    main()
