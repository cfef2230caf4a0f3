"""Specific margin drops against least squares by hand, all permutations, and damage that is no class's own."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control
from simulated_study import simulated_study, study_of_predictions

import unitlab
from unitlab.analysis.margins import MarginContrasts
from unitlab.analysis.paired_images import PairedImages


def with_margins(drops: np.ndarray, label: np.ndarray, cluster: np.ndarray | None = None) -> xr.Dataset:
    """The study in which the ablations lower the margins by so much."""
    n_categories = int(label.max()) + 1
    after = np.where(drops > 1, (label + 1) % n_categories, label)
    ds = study_of_predictions(label, label, after, n_categories, cluster)
    return ds.assign(label_margin_drop=(("unit", "image"), drops.astype(np.float32)))


def by_hand(drops: np.ndarray, label: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Class means less those of the other units, less the weighted line along them; level over plain classes. For drops that no
    class departs from by three standard errors."""
    means = np.stack([drops[:, label == k].mean(1) for k in range(label.max() + 1)], 1)
    found = np.empty(means.shape)
    for unit, own in enumerate(means):
        others = np.delete(means, unit, 0).mean(0)
        slope = np.polyfit(others, own - others, 1, w=np.sqrt(counted))[0]
        rest = own - others - slope * others
        found[unit] = rest - rest.mean()
    return found


@pytest.mark.parametrize("clustered", [False, True])
def test_specific_drops_are_what_a_line_along_the_other_units_leaves(clustered: bool) -> None:
    random = np.random.default_rng(9)
    label = np.repeat(np.arange(6), (15, 18, 24, 30, 36, 60))
    cluster = np.arange(183) // 3 if clustered else None
    drops = random.gamma(2, 0.2, (7, 1)) * random.gamma(2, 0.5, 6)[label] + random.normal(0, 0.3, (7, 183))
    found = unitlab.damage(with_margins(drops, label, cluster))
    counted = np.bincount(label) / (3 if clustered else 1)
    expected = by_hand(drops.astype(np.float32).astype(float), label, counted)
    np.testing.assert_allclose(found.margin_specific, expected, atol=1e-6)
    np.testing.assert_allclose(found.margin_specific.mean("category"), 0, atol=1e-9)
    p = found.margin_specific_p_value.values
    np.testing.assert_allclose(found.margin_specific_q_value, false_discovery_control(p.ravel()).reshape(p.shape))
    np.testing.assert_allclose(
        found.margin_q_value, false_discovery_control(found.margin_p_value.values.ravel()).reshape(p.shape)
    )
    inside = (found.margin_specific_low <= 0) & (found.margin_specific_high >= 0)
    np.testing.assert_array_equal(inside, p >= 0.05)


def test_variances_are_those_of_the_fitted_means() -> None:
    """Fresh noise on the same study, in which a class holds the line nearly alone: each class is found in one of twenty."""
    random = np.random.default_rng(1)
    label = np.repeat(np.arange(5), (10, 20, 20, 40, 80))
    sensitivity = np.array([0.2, 0.5, 1.0, 1.5, 3.0])[label]
    drawn, found_in = [], []
    for _ in range(300):
        drops = 0.3 * sensitivity + random.normal(0, 0.4, (12, 170))
        found = MarginContrasts(PairedImages(with_margins(drops, label), "damage")).cells(0.95)
        drawn.append(found["margin_specific"])
        found_in.append(found["margin_specific_p_value"] <= 0.05)
    rate = np.mean(found_in, (0, 1))
    # other units' means are noisy, too, which flattens the line a little
    assert (np.abs(np.mean(drawn, (0, 1))) < 0.4 * np.std(drawn, (0, 1))).all()
    assert (rate <= 0.08).all() and (rate >= 0.02).all()


def test_damage_to_all_classes_or_to_sensitive_ones_is_nobody_s_own() -> None:
    random = np.random.default_rng(2)
    label = np.repeat(np.arange(8), 25)
    sensitivity = random.gamma(2, 0.5, 8)[label] * random.uniform(0.5, 1.5, 200)
    strength = random.gamma(2, 0.5, (9, 1))
    for drops in (strength * sensitivity, strength + 0 * sensitivity, strength[::-1] + strength * sensitivity):
        found = MarginContrasts(PairedImages(with_margins(drops, label), "damage")).cells(0.95)
        np.testing.assert_allclose(found["margin_specific"], 0, atol=1e-6)
    # and what one unit does to one class is that class's
    drops = strength * sensitivity + random.normal(0, 0.1, (9, 200))
    drops[4, label == 3] += 0.5
    found = unitlab.damage(with_margins(drops, label))
    lost = (found.margin_specific_q_value <= 0.05) & (found.margin_specific > 0)
    assert np.argwhere(lost.values).tolist() == [[4, 3]]
    assert float(found.margin_specific[4, 3]) == pytest.approx(0.5 * 7 / 8, abs=0.15)
    assert float(found.p_margin_specific[4]) == found.p_margin_specific.min() <= 0.01


def test_few_classes_are_compared_without_a_line() -> None:
    random = np.random.default_rng(3)
    label = np.repeat(np.arange(3), 20)
    drops = random.normal(0, 0.5, (4, 60))
    found = unitlab.damage(with_margins(drops, label))
    for unit in range(4):
        contrast = drops[unit] - np.delete(drops, unit, 0).mean(0)
        means = np.array([contrast[label == k].mean() for k in range(3)])
        np.testing.assert_allclose(found.margin_specific[unit], means - means.mean(), atol=1e-6)


def test_the_p_value_of_a_unit_is_that_of_all_permutations() -> None:
    random = np.random.default_rng(4)
    label = np.repeat(np.arange(2), 5)
    drops = random.normal(0, 0.4, (5, 10)) + np.array([0.0, 0.1, 0.3, 0.5, 0.8])[:, None] * label
    contrasts = MarginContrasts(PairedImages(with_margins(drops, label), "damage"))
    contrasts.cells(0.95)
    found = contrasts.p_value(0, False)
    for unit, row in enumerate(contrasts.of(slice(None))):
        # ten images are one stratum; each in the spread of its class
        weight = 1 / contrasts.of_class[label] ** 2
        values = (row - row @ weight / weight.sum()) / contrasts.of_class[label]
        centre, deviation = 5 * values.mean(), np.sqrt(5 * 5 / 9 / 10 * ((values - values.mean()) ** 2).sum())
        sums = np.array([values[list(some)].sum() for some in combinations(range(10), 5)])
        # of two classes the other one has what the one has not
        z = np.abs(sums - centre) / deviation
        exact = (z >= abs(values[5:].sum() - centre) / deviation - 1e-5).mean()
        assert found[unit] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20 * exact) + 0.01)


def test_small_classes_are_undefined_and_take_no_part() -> None:
    ds = simulated_study(6, 7, 120, 2, empty_categories=(1,), flip_rate=0.2)
    few = ds.isel(image=np.flatnonzero((ds.label != 2) | (np.arange(120) < 24)))
    counts = np.bincount(few.label, minlength=7)
    few = few.assign(n_images=("category", counts))
    assert counts[1] == 0 and 0 < counts[2] < 5
    images = PairedImages(few, "damage")
    contrasts = MarginContrasts(images)
    found = contrasts.cells(0.95)
    undefined = np.isnan(found["margin_specific"])
    np.testing.assert_array_equal(undefined, np.broadcast_to(counts < 5, (6, 7)))
    np.testing.assert_array_equal(np.isnan(found["margin_specific_q_value"]), undefined)
    assert np.isfinite(contrasts.p_value(0, False)).all()


@pytest.mark.parametrize("sizes", [(1, 3, 60), (1, 8, 80), (3, 1, 20), (3, 2, 1), (2, 6, 90)])
def test_small_studies(sizes: tuple[int, int, int]) -> None:
    found = unitlab.damage(simulated_study(*sizes, flip_rate=0.3))
    p = found.p_margin_specific.values
    assert (np.isnan(p) | ((p > 0) & (p <= 1))).all()
    assert np.isfinite(found.margin_specific).all() == (sizes[2] // sizes[1] >= 5)


def test_an_ablation_that_changes_no_margin_is_not_specific() -> None:
    ds = simulated_study(4, 5, 100, 1)
    found = unitlab.damage(ds.assign(label_margin_drop=0.0 * ds.label_margin_drop))
    assert (found.margin_specific == 0).all() and (found.margin_specific_p_value == 1).all()
    assert (found.p_margin_specific == 1).all()
