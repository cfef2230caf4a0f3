"""The studentised maximum under shuffled classes: exact moments and p, strata, and how long units are drawn on."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control
from simulated_study import study_of_predictions

import unitlab
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.specificity import LEAST_IN_STRATUM, MARGIN_STRATA, Specificity, _hopeless, _joined, _settled

SIZES = (1, 2, 5)


@pytest.fixture
def study() -> xr.Dataset:
    """Eight images in three classes, of which every unit breaks some."""
    label = np.repeat(np.arange(3), SIZES)
    broken = np.array([[1, 0, 1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0, 0]])
    return study_of_predictions(label, label, np.where(broken, (label + 1) % 3, label), 3)


def test_the_p_value_is_that_of_all_permutations(study: xr.Dataset) -> None:
    label = study.label.values
    broken = (study.prediction.values != label).astype(float)
    shuffled = np.array(list(permutations(label)))
    found = Specificity(PairedImages(study, "damage"), 0)
    for unit, flips in enumerate(broken):
        net = np.stack([(flips * (shuffled == k)).sum(1) for k in range(3)], 1)
        np.testing.assert_allclose(found.mean[unit], net.mean(0), rtol=1e-9)
        np.testing.assert_allclose(found.scale[unit], 1 / np.sqrt(net.var(0) + 0.25), rtol=1e-9)
        z = ((net - net.mean(0)) / np.sqrt(net.var(0) + 0.25)).max(1)
        of_unit = (study.n_broken.values[unit] - net.mean(0)) / np.sqrt(net.var(0) + 0.25)
        exact = (z >= of_unit.max() - 1e-9).mean()
        assert found.p_value[unit] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20 * exact) + 0.003)


def test_moments_are_those_of_the_shuffle_within_strata_and_clusters() -> None:
    random = np.random.default_rng(1)
    label = np.repeat(np.arange(4), (12, 60, 120, 288))
    cluster = np.arange(480) // 3
    right = random.random(480) < 0.6
    prediction = np.where(random.random((3, 480)) < 0.2, (label + right) % 4, np.where(right, label, (label + 1) % 4))
    ds = study_of_predictions(label, np.where(right, label, (label + 1) % 4), prediction, 4, cluster)
    ds = ds.assign(baseline_margin=("image", np.where(right, 1, -1) * random.gamma(2.0, 1.0, 480)))
    found = Specificity(PairedImages(ds, "damage"), 0)
    blocks, flips = found.blocks, np.zeros((3, found.blocks.n))
    flips[np.repeat(np.arange(3), np.diff(found.start)), found.column] = found.value
    nets = np.empty((4000, 3, 4))
    for draw in nets:
        position = blocks.position.copy()
        for stratum in np.unique(found.stratum):
            position[found.stratum == stratum] = random.permutation(position[found.stratum == stratum])
        draw[:] = flips @ np.eye(4)[position]
    error = nets.std(0) / np.sqrt(len(nets))
    assert (np.abs(nets.mean(0) - found.mean) <= 4.5 * error + 1e-9).all()
    np.testing.assert_allclose(1 / found.scale**2 - 0.25, nets.var(0), rtol=0.15, atol=1e-9)
    assert len(np.unique(found.stratum)) > len(np.unique(blocks.kind))


def test_strata_are_of_one_kind_and_as_many_blocks_as_a_shuffle_needs() -> None:
    assert _joined(np.array([30, 5, 5, 12, 25, 19])).tolist() == [0, 1, 1, 1, 2, 2]
    assert _joined(np.array([3, 4])).tolist() == [0, 0] and _joined(np.array([20])).tolist() == [0]
    random = np.random.default_rng(0)
    label = np.arange(4000) % 5
    margin = random.normal(1, 2, 4000)
    baseline = np.where(margin > 0, label, (label + 1) % 5)
    prediction = np.where(random.random((20, 4000)) < np.exp(-np.abs(margin)), (label + 2) % 5, baseline)
    ds = study_of_predictions(label, baseline, prediction, 5).assign(baseline_margin=("image", margin))
    found = Specificity(PairedImages(ds, "damage"), 0)
    right = found.blocks.margin > 0
    flipped = np.bincount(found.column, minlength=found.blocks.n) > 0
    for kind in (right, ~right):
        of = found.stratum[kind]
        assert np.bincount(of)[np.unique(of)].min() >= LEAST_IN_STRATUM
    shares = np.bincount(found.stratum[right & flipped]) / (right & flipped).sum()
    np.testing.assert_allclose(shares[np.unique(found.stratum[right])], 1 / MARGIN_STRATA, atol=0.03)
    assert not set(found.stratum[right]) & set(found.stratum[~right])


def test_units_are_settled_where_the_limits_of_their_p_suffice() -> None:
    reached, drawn = np.array([0, 0, 5, 40, 0]), np.array([999, 999, 999, 999, 0])
    # 99.9 % limits of 0 and 5 in 999: 0.0069 and 0.0163; two and three of five units need 0.02 and 0.03
    assert _settled(reached, drawn).tolist() == [True, True, True, False, False]
    # one of 512 needs 0.0001
    assert not _settled(np.append(0, np.full(511, 500)), np.full(512, 999)).any()
    assert _settled(np.append(0, np.full(511, 500)), np.append(80_000, np.full(511, 999)))[0]


def test_units_are_hopeless_where_not_even_the_lower_limits_of_their_p_suffice() -> None:
    # 0.1 % lower limit of 19 in 199: 0.044; one of five needs 0.01
    assert _hopeless(np.array([19, 60, 60, 60, 60]), np.full(5, 199)).all()
    assert not _hopeless(np.array([0, 60, 60, 60, 60]), np.full(5, 199))[0]
    # with four others that are found it needs 0.05
    assert _hopeless(np.array([19, 0, 0, 0, 0]), np.full(5, 199)).tolist() == [False] * 5


@pytest.mark.parametrize("n_units", [512, 2048])
def test_ten_sure_units_are_found_among_many(n_units: int) -> None:
    random = np.random.default_rng(2)
    label = np.repeat(np.arange(8), 30)
    prediction = np.where(random.random((n_units, 240)) < 0.04, (label + 1) % 8, label)
    sure = np.arange(10) * (n_units // 10)
    for unit in sure:
        prediction[unit, np.flatnonzero(label == unit % 8)[:14]] = (unit + 1) % 8
    p = Specificity(PairedImages(study_of_predictions(label, label, prediction, 8), "damage"), 0).p_value
    q = false_discovery_control(p)
    assert (q[sure] <= 0.05).all() and (q <= 0.05).sum() <= 11
    assert p.min() >= 1 / (20 * n_units)


def test_a_large_class_that_loses_much_is_found_among_small_ones() -> None:
    """The raw maximum is often that of a class of few images."""
    random = np.random.default_rng(3)
    sizes = np.array([1, 1, 1, 2, 2, 3, 5, 8, 20, 50, 100, 300])
    label = np.repeat(np.arange(12), sizes)
    prediction = np.where(random.random((30, label.size)) < 0.06, (label + 1) % 12, label)
    large = (label == 10) & (random.random((30, label.size)) < 0.2)
    prediction[large] = 11
    found = unitlab.damage(study_of_predictions(label, label, prediction, 12))
    assert (found.p_specific <= 0.05).mean() >= 0.8 and (found.max_class == 10).mean() < 0.7
