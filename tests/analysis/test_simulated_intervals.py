"""How often intervals of correlations hold what they estimate: the mean estimate over units and images drawn anew.

With ``UNITLAB_SIMULATE=400`` (studies a case) what tests/benchmarks/README.md tables; ``-s`` prints its lines.
"""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from simulated_study import study_of_predictions

import unitlab

STUDIES = int(os.environ.get("UNITLAB_SIMULATE", "0"))
N_CLASSES = 6
PAIRS = (("mean_activation", "overall_drop"), ("class_selectivity", "max_class_drop_crossfit"))


def drawn_study(seed: int, *, n_units: int, n_images: int, rho: float, copies: int = 1, per_cluster: int = 1) -> xr.Dataset:
    """Units whose activation and selectivity go with the damage that they do, by ``rho``; ``copies`` units each are nearly
    the same one; images, of unequal difficulty, come in clusters."""
    random = np.random.default_rng(seed)
    n = -(-n_units // copies)
    level, harm = random.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
    sharp, aim = random.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
    favourite = random.integers(0, N_CLASSES, n)
    cluster = np.arange(n_images) // per_cluster
    label = (cluster % N_CLASSES).astype(np.int32)
    hardness = random.gamma(1.0, 1.0, cluster.max() + 1)[cluster]
    own = label == favourite[:, None]
    active = np.exp(0.5 * level[:, None] + own * np.exp(0.5 * sharp[:, None])) * random.gamma(2.0, 0.5, (n, n_images))
    chance = 0.02 * hardness * np.exp(0.6 * harm[:, None]) + own * 0.08 * np.exp(0.8 * aim[:, None])
    which = np.repeat(np.arange(n), copies)[:n_units]
    luck = random.random((n, cluster.max() + 1))[:, cluster]
    flipped = (
        np.where(random.random((n_units, n_images)) < 0.1, random.random((n_units, n_images)), luck[which]) < chance[which]
    )
    baseline = np.where(random.random(n_images) < 0.75, label, (label + 1) % N_CLASSES)
    fixed = flipped & (random.random((n_units, n_images)) < 0.3)
    right = np.where(baseline == label, ~flipped, fixed)
    ds = study_of_predictions(
        label, baseline, np.where(right, label, (label + 1) % N_CLASSES), N_CLASSES, cluster if per_cluster > 1 else None
    )
    values = (active[which] * random.gamma(100, 0.01, (n_units, n_images))).astype(np.float32)
    means = np.stack([values[:, label == k].mean(1, dtype=float) for k in range(N_CLASSES)], 1)
    return ds.assign(
        activation_mean=(("unit", "image"), values),
        activation_max=(("unit", "image"), 2 * values),
        mean_activation=("unit", values.mean(1, dtype=float)),
        class_activation=(("unit", "category"), means),
    )


def at_least(n: int) -> float:
    """What a coverage of 95 % stays above but for one time in a thousand."""
    return float(0.95 - 3 * np.sqrt(0.05 * 0.95 / n))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("40 units, 400 images", {"n_units": 40, "n_images": 400, "rho": 0.6}),
        ("40 units, 400 images, nothing to find", {"n_units": 40, "n_images": 400, "rho": 0.0}),
        ("60 units in near-copies of three", {"n_units": 60, "n_images": 400, "rho": 0.6, "copies": 3}),
        ("40 units, 600 images in clusters of three", {"n_units": 40, "n_images": 600, "rho": 0.6, "per_cluster": 3}),
    ],
)
def test_intervals_of_correlations_cover(name: str, options: dict[str, float]) -> None:
    n = STUDIES or 20
    drawn = [
        unitlab.correlations(drawn_study(seed, **options), [x for x, _ in PAIRS], [y for _, y in PAIRS], seed=seed)  # type: ignore[arg-type]
        for seed in range(n)
    ]
    for x, y in PAIRS:
        rows = pd.concat([table[(table.x == x) & (table.y == y)] for table in drawn])
        assert (rows.covers == "units and images").all()
        for kind in ("spearman", "pearson"):
            estimate, low, high = rows[kind], rows[f"{kind}_low"], rows[f"{kind}_high"]
            assert ((low < estimate) & (estimate < high)).all()
            covered = float(((low <= estimate.mean()) & (estimate.mean() <= high)).mean())
            found = float((rows[f"{kind}_p"] <= 0.05).mean())
            if STUDIES:
                cells = [name, f"{x}, {y}", kind, f"{estimate.mean():.2f}", f"{covered:.3f}", f"{(high - low).mean():.2f}"]
                print(f"\n| {' | '.join(cells)} | {found:.3f} |", end="")
            assert covered >= at_least(n)
            assert options["rho"] or found <= 1 - at_least(n)


def test_intervals_of_reliability_cover() -> None:
    """The share of the variance of the drops, unit and class means taken off, that is not the luck of the images."""
    n, sizes = STUDIES or 20, np.array([30, 60, 60, 120, 150])
    label, weight = np.repeat(np.arange(5), sizes), sizes / sizes.sum()
    covered, found, truth = [], [], []
    for seed in range(n):
        random = np.random.default_rng(seed)
        chance = np.clip(random.gamma(1, 0.06, (30, 5)), 0, 0.9)
        centred = chance - (chance @ weight)[:, None] - chance.mean(0) + (chance @ weight).mean()
        # noise loses one unit's and one class's mean
        noise = (chance * (1 - chance)).mean() / len(label) * 4 * 29 / 30
        signal = (centred**2 @ weight).mean()
        truth.append(signal / (signal + noise))
        broken = random.random((30, len(label))) < chance[:, label]
        damage = unitlab.damage(study_of_predictions(label, label, np.where(broken, (label + 1) % 5, label), 5), seed=seed)
        found.append(float(damage.reliability))
        covered.append(bool(damage.reliability_low <= truth[-1] <= damage.reliability_high))
    if STUDIES:
        print(f"\n| reliability {np.mean(found):.3f}, true {np.mean(truth):.3f} | {np.mean(covered):.3f} |", end="")
    assert np.mean(covered) >= at_least(n) - 0.02 and abs(np.mean(found) - np.mean(truth)) < 0.03


def test_intervals_of_selective_damage_cover() -> None:
    n = STUDIES or 20
    tables = [
        unitlab.selective_damage(drawn_study(seed, n_units=40, n_images=400, rho=0.6), seed=seed, progress=False)
        for seed in range(n)
    ]
    for row in tables[0].index:
        value, low, high = (np.array([table.loc[row, column] for table in tables]) for column in ("value", "low", "high"))
        covered = float(((low <= value.mean()) & (value.mean() <= high)).mean())
        if STUDIES:
            print(f"\n| {row} | {value.mean():.2f} | {covered:.3f} | {(high - low).mean():.2f} |", end="")
        assert covered >= at_least(n) and ((low < value) & (value < high)).all()
