"""In networks in which one unit alone serves one class by construction, the unit is found, with the class."""

from __future__ import annotations

import numpy as np
from planted_network import CLASSES, planted

import unitlab


def test_the_planted_unit_is_found_with_its_class() -> None:
    """Twelve units, six classes of 30 images: power 95 %; no unit is said to damage a class that it does not serve (1 %)."""
    hits, others = [], []
    names = [f"class {k}" for k in range(CLASSES)]
    for seed in range(20):
        network, images, unit, unit_class = planted(seed)
        category = unit_class[unit]
        ds = unitlab.ablate(network, unitlab.images(images, categories=names), "relu", progress=False, device="cpu")
        assert (ds.label == ds.baseline_prediction).mean() > 0.8
        found = unitlab.damage(ds)
        hits.append(
            bool(found.damaged[unit, category])
            and int(found.max_class[unit]) == category
            and float(found.p_specific[unit]) <= 0.01
            and int(found.max_class_drop_crossfit.argmax("unit")) == unit
        )
        rest = found.damaged.values.copy()
        rest[np.arange(len(unit_class)), unit_class] = False
        others.append(rest.mean())
    assert np.mean(hits) >= 0.95
    assert np.mean(others) <= 0.01
