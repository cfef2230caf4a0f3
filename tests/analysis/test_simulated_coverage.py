"""How often the intervals of `unitlab.damage` hold the drops that images are drawn with.

With ``UNITLAB_SIMULATE=N`` from N studies a case; ``-s`` prints a line for the table in tests/benchmarks/README.md for each.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from simulated_study import study_of_predictions

from unitlab.analysis.damage import ClusterCells, ImageCells, not_narrower, overall_intervals, paired_intervals
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.splits import crossfit_and_reliability

STUDIES = int(os.environ.get("UNITLAB_SIMULATE", "0")) or 60
N_UNITS, N_CLASSES, PER_CLASS = 12, 20, 60


def chances(seed: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """How likely each unit breaks a right image of each class, and fixes a wrong one; a few units hurt a class or two."""
    random = np.random.default_rng(seed)
    breaks = rate * random.gamma(2, 0.5, (N_UNITS, 1)) * random.gamma(4, 0.25, N_CLASSES)
    fixes = breaks * random.uniform(0.5, 1.5, (N_UNITS, 1))
    breaks[np.arange(6), random.choice(N_CLASSES, 6)] += 0.2
    return breaks.clip(0, 0.8), fixes.clip(0, 0.8)


def drawn(breaks: np.ndarray, fixes: np.ndarray, per_cluster: int, random: np.random.Generator) -> PairedImages:
    label = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    cluster = np.arange(label.size) // per_cluster
    right = random.random(label.size) < 0.8

    def alike(n: int) -> np.ndarray:
        """Uniform numbers, of which seven in ten are those of the cluster."""
        together, alone = random.random((n, cluster.max() + 1))[:, cluster], random.random((n, label.size))
        return np.where(random.random((n, label.size)) < 0.7, together, alone)

    after = np.where(right, alike(N_UNITS) >= breaks[:, label], alike(N_UNITS) < fixes[:, label])
    wrong = (label + 1) % N_CLASSES
    ds = study_of_predictions(
        label, np.where(right, label, wrong), np.where(after, label, wrong), N_CLASSES, cluster if per_cluster > 1 else None
    )
    return PairedImages(ds, "damage")


@pytest.mark.parametrize(
    ("name", "rate", "per_cluster"),
    [("few flips", 0.01, 1), ("many flips", 0.15, 1), ("many flips, clusters of three", 0.15, 3)],
)
def test_intervals_hold_what_was_drawn(name: str, rate: float, per_cluster: int) -> None:
    breaks, fixes = chances(7, rate)
    truth = 0.8 * breaks - 0.2 * fixes
    overall, named, naive, crossfit, values = [], [], [], [], []
    for seed in range(STUDIES):
        images = drawn(breaks, fixes, per_cluster, np.random.default_rng(seed))
        n_broken, n_fixed = images.ds.n_broken.values.astype(int), images.ds.n_fixed.values.astype(int)
        found = overall_intervals(images, n_broken, n_fixed, 0.95)
        whole = truth.mean(1)
        inside = (found["overall_drop_low"] <= whole) & (whole <= found["overall_drop_high"])
        # all at once; one-sided, unit by unit; no unit costs more
        one_sided = (whole <= found["overall_drop_upper"]).mean()
        overall.append([inside.all(), one_sided, whole.max() <= found["overall_drop_bound"]])
        worst = images.ds.accuracy_drop.values.argmax(1)
        cells = (ClusterCells if per_cluster > 1 else ImageCells)(images, n_broken, n_fixed)
        limits, of_worst, row = paired_intervals(cells, worst, 0.95), truth[np.arange(N_UNITS), worst], np.arange(N_UNITS)
        named.append((limits["max_class_drop_low"] <= of_worst) & (of_worst <= limits["max_class_drop_high"]))
        naive.append((limits["drop_low"][row, worst] <= of_worst) & (of_worst <= limits["drop_high"][row, worst]))
        of_halves = not_narrower(crossfit_and_reliability(images, 0)[0], cells, worst, 0.95)
        crossfit.append([of_halves[f"max_class_drop_crossfit{end}"] for end in ("_low", "_high")])
        values.append(of_halves["max_class_drop_crossfit"])
    expected = np.mean(values, 0)
    held = np.array(crossfit)
    all_units = float(np.mean(((held[:, 0] <= expected) & (expected <= held[:, 1])).all(1)))
    at_once, one_sided, bound = np.mean(overall, 0)
    if STUDIES > 60:
        shares = (at_once, one_sided, bound, np.mean(named), np.mean(naive), all_units)
        print("\n| " + " | ".join([name, *(f"{share:.3f}" for share in shares)]) + " |", end="")
    least = 0.95 - 3 * np.sqrt(0.05 * 0.95 / STUDIES)
    assert min(at_once, bound, all_units) >= least
    assert min(one_sided, np.mean(named)) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / STUDIES / 4)
    assert np.mean(naive) < np.mean(named)


def test_no_unit_costs_more_is_seldom_said_where_one_does() -> None:
    """A unit that costs exactly d among others that cost nothing: the bound is below d in one of twenty."""
    breaks, fixes = np.full((N_UNITS, N_CLASSES), 0.01), np.full((N_UNITS, N_CLASSES), 0.04)
    breaks[3] = 0.06
    d = 0.8 * 0.06 - 0.2 * 0.04
    below = []
    for seed in range(2 * STUDIES):
        images = drawn(breaks, fixes, 1, np.random.default_rng(seed))
        counts = images.ds.n_broken.values.astype(int), images.ds.n_fixed.values.astype(int)
        below.append(float(overall_intervals(images, *counts, 0.95)["overall_drop_bound"]) < d)
    assert np.mean(below) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(below))
