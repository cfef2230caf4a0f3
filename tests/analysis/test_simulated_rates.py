"""How often the tests of `unitlab.damage` find something where there is nothing, and where there is something.

Flips and margins are drawn here, image by image: classes differ in size and ease, margins within them. With
``UNITLAB_SIMULATE=100`` (studies a case) also the large cases; ``-s`` prints a line for the table in tests/benchmarks/README.md
for each.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control
from simulated_study import study_of_predictions

import unitlab
from unitlab.analysis.damage import ClusterCells, ImageCells, exact_tests
from unitlab.analysis.margins import MarginContrasts
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import discrete_benjamini_hochberg, mcnemar, mcnemar_p_values
from unitlab.analysis.specificity import Specificity

STUDIES = int(os.environ.get("UNITLAB_SIMULATE", "0"))
UNEQUAL = tuple(np.geomspace(1, 1000, 24).astype(int))
EMOJI, PLACES, IMAGENET = (74,) * 60, (100,) * 365, (50,) * 1000
LARGE = pytest.mark.skipif(STUDIES < 4, reason="UNITLAB_SIMULATE=4 or more")


class Drawn(NamedTuple):
    """Images without units: class, cluster and baseline margin of each."""

    label: np.ndarray
    cluster: np.ndarray
    margin: np.ndarray

    @classmethod
    def of(cls, sizes: tuple[int, ...], per_cluster: int, random: np.random.Generator) -> Drawn:
        label = np.repeat(np.arange(len(sizes)), sizes)
        within = np.arange(label.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        cluster = np.unique(label * 10**6 + within // per_cluster, return_inverse=True)[1]
        ease = random.normal(1.5, 0.8, len(sizes))[label]
        shared = random.normal(0, 1.0, cluster.max() + 1)[cluster]
        return cls(label, cluster, ease + shared + random.normal(0, 1.2, label.size))

    def study(self, right_after: np.ndarray) -> xr.Dataset:
        """The study in which each unit leaves these images right."""
        n_classes = int(self.label.max()) + 1
        wrong = (self.label + 1) % n_classes
        cluster = self.cluster if self.cluster.max() + 1 < len(self.label) else None
        baseline = np.where(self.margin > 0, self.label, wrong)
        ds = study_of_predictions(self.label, baseline, np.where(right_after, self.label, wrong), n_classes, cluster)
        return ds.assign(baseline_margin=("image", self.margin))

    def flips(self, n_units: int, rate: float, random: np.random.Generator, *, even: bool) -> np.ndarray:
        """Which images each unit flips, a share of ``rate``; clusters mostly as a whole.

        By small margin, whatever the class; or ``even``: in every class as many breaks as fixes are expected.
        """
        right = self.margin > 0
        if even:
            n_right, n_wrong = (np.bincount(self.label[of], minlength=self.label.max() + 1) for of in (right, ~right))
            each_way = np.minimum(rate * (n_right + n_wrong), np.minimum(n_right, n_wrong)) / 2
            chance = each_way[self.label] / np.where(right, n_right[self.label], n_wrong[self.label])
        else:
            chance = np.exp(-np.abs(self.margin))
            chance *= rate / chance.mean()
        together = random.random((n_units, self.cluster.max() + 1))[:, self.cluster]
        alone, by_itself = random.random((2, n_units, len(self.label)))
        return np.where(by_itself < 0.3, alone, together) < chance


def nothing(sizes: tuple[int, ...], per_cluster: int, rate: float, seed: int, *, even: bool) -> PairedImages:
    random = np.random.default_rng(seed)
    drawn = Drawn.of(sizes, per_cluster, random)
    return PairedImages(drawn.study((drawn.margin > 0) ^ drawn.flips(16, rate, random, even=even)), "damage")


def p_of_any_class(images: PairedImages) -> np.ndarray:
    cells = (ClusterCells if images.clustered else ImageCells)(images, images.ds.n_broken.values, images.ds.n_fixed.values)
    return exact_tests(cells)["p_any"]


def planted(sizes: tuple[int, ...], per_cluster: int, loss: float, least: int, seed: int) -> tuple[xr.Dataset, np.ndarray]:
    """Damage where half of sixteen units break ``loss`` of a class of ``least`` images or more besides; those cells."""
    random = np.random.default_rng(seed)
    drawn = Drawn.of(sizes, per_cluster, random)
    right = drawn.margin > 0
    after = right ^ drawn.flips(16, 0.01, random, even=True)
    cells = np.zeros((16, len(sizes)), bool)
    for unit in range(8):
        category = random.choice(np.flatnonzero(np.array(sizes) >= least))
        cells[unit, category] = True
        of = np.flatnonzero((drawn.label == category) & right)
        # cluster by cluster, in random order
        order = np.argsort(random.random(drawn.cluster.max() + 1)[drawn.cluster[of]], kind="stable")
        after[unit, of[order[: round(loss * sizes[category])]]] = False
    return unitlab.damage(drawn.study(after), seed=seed), cells


def share_of_false(discovered: np.ndarray, cells: np.ndarray) -> float:
    return (discovered & ~cells).sum() / max(discovered.sum(), 1)


def at_most(n: int) -> float:
    """What 5 % of ``n`` stays below but for one time in a thousand; 0.06 from 4,300 on."""
    return float(0.05 + 3 * np.sqrt(0.05 * 0.95 / n))


def told(*cells: object) -> None:
    if STUDIES:
        print("\n| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", end="")


@pytest.mark.parametrize(
    ("name", "sizes", "per_cluster", "rate"),
    [
        ("24 classes of 1 to 1,000", UNEQUAL, 1, 0.01),
        ("24 classes of 1 to 1,000, many flips", UNEQUAL, 1, 0.06),
        ("emoji 60 × 74", EMOJI, 1, 0.01),
        ("emoji 60 × 74, clusters of three", EMOJI, 3, 0.02),
        pytest.param("Places 365 × 100", PLACES, 1, 0.01, marks=LARGE),
        pytest.param("ImageNet 1,000 × 50", IMAGENET, 1, 0.01, marks=LARGE),
    ],
)
def test_size_where_there_is_nothing(name: str, sizes: tuple[int, ...], per_cluster: int, rate: float) -> None:
    seeds = range(STUDIES or 6)
    p_any = float(np.mean([p_of_any_class(nothing(sizes, per_cluster, rate, seed, even=True)) <= 0.05 for seed in seeds]))
    by_margin = [Specificity(nothing(sizes, per_cluster, rate, seed, even=False), seed) for seed in seeds]
    p_specific = float(np.mean([found.p_value <= 0.05 for found in by_margin]))
    told(name, p_any, p_specific)
    assert max(p_any, p_specific) <= at_most(16 * len(seeds))


@pytest.mark.parametrize(
    ("name", "sizes", "rate"),
    [
        ("24 classes of 1 to 1,000", UNEQUAL, 0.01),
        ("24 classes of 1 to 1,000, many flips", UNEQUAL, 0.06),
        ("emoji 60 × 74", EMOJI, 0.02),
        ("ImageNet 1,000 × 50", IMAGENET, 0.06),
    ],
)
def test_false_discoveries_where_there_are_none(name: str, sizes: tuple[int, ...], rate: float) -> None:
    """Flips with random signs in sixteen units: in how many studies any cell has q ≤ 0.05."""
    random = np.random.default_rng(0)
    any_false = []
    for _ in range(20 * STUDIES or 200):
        changed = random.poisson(rate * np.array(sizes), (16, len(sizes)))
        broken = random.binomial(changed, 0.5)
        attainable = [(mcnemar_p_values(int(m)), int(n)) for m, n in zip(*np.unique(changed, return_counts=True), strict=True)]
        any_false.append((discrete_benjamini_hochberg(mcnemar(broken, changed - broken), attainable) <= 0.05).any())
    told(name, float(np.mean(any_false)))
    assert np.mean(any_false) <= at_most(len(any_false))


@pytest.mark.parametrize(
    ("name", "sizes", "per_cluster", "loss", "least", "at_least"),
    [
        ("a class of 100 or more of 1 to 1,000 loses 20 points", UNEQUAL, 1, 0.2, 100, (0.95, 0.95, 0.9)),
        ("an emoji class loses 10 points", EMOJI, 1, 0.1, 1, (0.6, 0.6, 0.3)),
        ("an emoji class in clusters of three loses 20 points", EMOJI, 3, 0.2, 1, (0.6, 0.6, 0.3)),
        pytest.param("a Places class loses 10 points", PLACES, 1, 0.1, 1, (0.5, 0.5, 0.3), marks=LARGE),
        pytest.param("an ImageNet class loses 20 points", IMAGENET, 1, 0.2, 1, (0.5, 0.5, 0.3), marks=LARGE),
    ],
)
def test_power_where_there_is_something(
    name: str, sizes: tuple[int, ...], per_cluster: int, loss: float, least: int, at_least: tuple[float, float, float]
) -> None:
    found = [planted(sizes, per_cluster, loss, least, seed) for seed in range(STUDIES or 3)]
    power = [float(np.mean([false_discovery_control(one[p])[:8] <= 0.05 for one, _ in found])) for p in ("p_any", "p_specific")]
    power.append(float(np.mean([one.damaged.values[cells] for one, cells in found])))
    false = float(np.mean([share_of_false(one.q_value.values <= 0.05, cells) for one, cells in found]))
    told(name, *power, false)
    assert all(power[i] >= at_least[i] for i in range(3)) and false <= (0.06 if STUDIES >= 20 else 0.12)


@pytest.mark.parametrize(("shift", "noise"), [(0.02, 0.01), (0.05, 0.02), (0.1, 0.05), (0.2, 0.1)])
def test_damage_to_all_classes_alike_is_not_specific(shift: float, noise: float) -> None:
    """Every unit lowers every margin of resnet_emoji's baseline alike, give or take the noise (in standard deviations)."""
    ds = unitlab.load("resnet_emoji")
    margin = ds.baseline_margin.values.astype(float)
    drawn = Drawn(ds.label.values, ds.cluster.values, margin)
    p_any, p_specific = [], []
    for seed in range(max(STUDIES // 5, 1)):
        random = np.random.default_rng(seed)
        lowered = margin - margin.std() * (shift + noise * random.normal(size=(40, margin.size)))
        found = unitlab.damage(drawn.study(lowered > 0), seed=seed)
        p_any.append(found.p_any <= 0.05)
        p_specific.append(found.p_specific <= 0.05)
    told(f"all margins less {shift}, noise {noise}", float(np.mean(p_any)), float(np.mean(p_specific)))
    assert np.mean(p_specific) <= at_most(40 * len(p_specific))
    assert np.mean(p_any) >= 0.5 or shift < 0.05


class Lowered(NamedTuple):
    """What sixteen ablations take from the margins of a study's images where no class is singled out."""

    study: xr.Dataset
    drops: np.ndarray

    @classmethod
    def of(cls, sizes: tuple[int, ...], per_cluster: int, kind: str, seed: int) -> Lowered:
        random = np.random.default_rng(seed)
        drawn = Drawn.of(sizes, per_cluster, random)
        shape = (16, len(drawn.label))
        together = random.normal(size=(16, drawn.cluster.max() + 1))[:, drawn.cluster]
        noise = 0.3 * (together + random.normal(size=shape)) / np.sqrt(2)
        sensitivity = np.exp(0.5 * random.normal(size=len(sizes)))[drawn.label]
        strength = random.gamma(2, 0.3, (16, 1))
        drops = {
            "noise that differs by class": noise * sensitivity,
            "all classes alike": noise + strength,
            "in proportion to a class's sensitivity": noise + strength * sensitivity * random.lognormal(0, 0.5, shape[1]),
            "in proportion to the margin": noise + strength * np.abs(drawn.margin) / 2,
        }[kind]
        return cls(drawn.study(drawn.margin - drops > 0), drops)

    def contrasts(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Cells, and p of the units."""
        ds = self.study.assign(label_margin_drop=(("unit", "image"), self.drops.astype(np.float16)))
        contrasts = MarginContrasts(PairedImages(ds, "damage"))
        return contrasts.cells(0.95), contrasts.p_value(0, False)


@pytest.mark.parametrize(
    "kind",
    [
        "noise that differs by class",
        "all classes alike",
        "in proportion to a class's sensitivity",
        "in proportion to the margin",
    ],
)
@pytest.mark.parametrize(
    ("name", "sizes", "per_cluster"),
    [
        ("24 classes of 1 to 1,000", UNEQUAL, 1),
        ("emoji 60 × 74", EMOJI, 1),
        ("emoji 60 × 74, clusters of three", EMOJI, 3),
        pytest.param("Places 365 × 100", PLACES, 1, marks=LARGE),
        pytest.param("ImageNet 1,000 × 50", IMAGENET, 1, marks=LARGE),
    ],
)
def test_margins_that_single_out_no_class(name: str, sizes: tuple[int, ...], per_cluster: int, kind: str) -> None:
    found = [Lowered.of(sizes, per_cluster, kind, seed).contrasts() for seed in range(STUDIES or 4)]
    p = np.stack([cells["margin_specific_p_value"] for cells, _ in found])
    cell = float(np.mean(p[np.isfinite(p)] <= 0.05))
    unit = float(np.mean([of_units <= 0.05 for _, of_units in found]))
    any_cell = float(np.mean([np.nanmin(cells["margin_specific_q_value"]) <= 0.05 for cells, _ in found]))
    told(f"{name}, {kind}", cell, unit, any_cell)
    assert cell <= 0.06 and unit <= at_most(16 * len(found))
    assert any_cell <= max(at_most(len(found)), 0.5 if len(found) < 20 else 0)


@pytest.mark.parametrize(
    ("name", "sizes", "per_cluster", "loss", "at_least"),
    [
        ("a class of 100 or more of 1 to 1,000 loses 0.2 logits", UNEQUAL, 1, 0.2, (0.85, 0.8)),
        ("an emoji class loses 0.2 logits", EMOJI, 1, 0.2, (0.6, 0.5)),
        ("an emoji class in clusters of three loses 0.3 logits", EMOJI, 3, 0.3, (0.6, 0.5)),
        pytest.param("a Places class loses 0.2 logits", PLACES, 1, 0.2, (0.6, 0.5), marks=LARGE),
        pytest.param("an ImageNet class loses 0.3 logits", IMAGENET, 1, 0.3, (0.6, 0.5), marks=LARGE),
    ],
)
def test_margins_of_a_class_that_a_unit_singles_out(
    name: str, sizes: tuple[int, ...], per_cluster: int, loss: float, at_least: tuple[float, float]
) -> None:
    """Besides damage in proportion to sensitivity, half of the units take ``loss`` from one class."""
    cell, unit, false = [], [], []
    for seed in range(STUDIES or 4):
        lowered = Lowered.of(sizes, per_cluster, "in proportion to a class's sensitivity", seed)
        random, cells = np.random.default_rng(seed), np.zeros((16, len(sizes)), bool)
        large = np.flatnonzero(np.array(sizes) >= (100 if sizes == UNEQUAL else 1))
        cells[np.arange(8), random.choice(large, 8)] = True
        lowered.drops[cells[:, lowered.study.label.values]] += loss
        of_cells, of_units = lowered.contrasts()
        found = (of_cells["margin_specific_q_value"] <= 0.05) & (of_cells["margin_specific"] > 0)
        cell.append(found[cells].mean())
        unit.append(np.mean(false_discovery_control(of_units)[:8] <= 0.05))
        false.append(share_of_false(found, cells))
    told(name, float(np.mean(cell)), float(np.mean(unit)), float(np.mean(false)))
    assert np.mean(cell) >= at_least[0] and np.mean(unit) >= at_least[1]
    assert np.mean(false) <= (0.06 if STUDIES >= 20 else 0.12)
