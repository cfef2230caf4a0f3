"""What the statistics find where there is nothing, and where something was put."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from simulated_study import study_of_predictions

import unitlab
from unitlab.analysis.paired_tests import bonett_price


def null_study(seed: int, *, n_units: int = 40, n_categories: int = 12, n: int = 40, clusters: int = 1) -> xr.Dataset:
    """Predictions flip at random, as often from right to wrong as back; images of a cluster flip together."""
    random = np.random.default_rng(seed)
    label = np.repeat(np.arange(n_categories), n)
    cluster = np.arange(len(label)) // clusters
    right = random.random(cluster.max() + 1)[cluster] < 0.5
    wrong = (label + 1) % n_categories
    baseline = np.where(right, label, wrong)
    flips = (random.random((n_units, cluster.max() + 1)) < 0.12)[:, cluster]
    prediction = np.where(flips, np.where(right, wrong, label), baseline)
    return study_of_predictions(label, baseline, prediction, n_categories, cluster if clusters > 1 else None)


def permuted_labels(ds: xr.Dataset, seed: int) -> xr.Dataset:
    """Labels permuted among images that are alike at the baseline, so that damage knows nothing of classes."""
    random = np.random.default_rng(seed)
    label, baseline = ds.label.values, ds.baseline_prediction.values
    broken = np.stack([baseline == label] * ds.sizes["unit"]) & (ds.prediction.values != label)
    shuffled, new_baseline = label.copy(), baseline.copy()
    after = ds.prediction.values == label
    for right in (True, False):
        some = np.flatnonzero((baseline == label) == right)
        shuffled[some] = random.permutation(label[some])
    n_categories = ds.sizes["category"]
    new_baseline = np.where(baseline == label, shuffled, (shuffled + 1) % n_categories)
    prediction = np.where(after, shuffled, (shuffled + 1) % n_categories)
    assert broken.any()
    return study_of_predictions(shuffled, new_baseline, prediction, n_categories)


@pytest.mark.parametrize("clusters", [1, 4])
def test_no_discovery_where_flips_are_random(clusters: int) -> None:
    found = [unitlab.damage(null_study(seed, clusters=clusters)) for seed in range(60)]
    with_discovery = np.mean([bool((one.q_value <= 0.05).any()) for one in found])
    assert with_discovery <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    p_any = np.concatenate([one.p_any.values for one in found])
    p_specific = np.concatenate([one.p_specific.values for one in found])
    error = 3 * np.sqrt(0.05 * 0.95 / p_any.size * 4)
    assert (p_any <= 0.05).mean() <= 0.05 + error
    assert (p_specific <= 0.05).mean() <= 0.05 + error
    crossfit = np.array([one.max_class_drop_crossfit.mean() for one in found])
    raw = np.array([one.max_class_drop.mean() for one in found])
    assert abs(crossfit.mean()) < 3 * crossfit.std(ddof=1) / np.sqrt(len(found)) + 1e-4
    assert raw.mean() > 0.05
    for name in ("max_class_drop", "max_class_drop_crossfit"):
        beyond = np.mean([(one[name] > one[f"{name}_null"]).mean() for one in found])
        assert 0.01 <= beyond <= 0.05 + error  # neither too narrow nor so wide that nothing could be found
    assert abs(np.nanmean([float(one.reliability) for one in found])) < 0.1


def test_no_discovery_where_labels_are_permuted() -> None:
    """Labels permuted outright, predictions of images flipped from class to class: nothing to find in any cell."""
    found = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        ds = null_study(seed, n_units=20)
        label = random.permutation(ds.label.values)
        permuted = study_of_predictions(label, ds.baseline_prediction.values, ds.prediction.values, 12)
        found.append(unitlab.damage(permuted))
    rate = np.mean([bool((one.q_value <= 0.05).any()) for one in found])
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    crossfit = np.array([one.max_class_drop_crossfit.mean() for one in found])
    assert abs(crossfit.mean()) < 3 * crossfit.std(ddof=1) / np.sqrt(60) + 1e-4
    assert np.mean([one.max_class_drop.mean() for one in found]) > 0.02


def test_no_specific_damage_where_labels_are_permuted() -> None:
    p = []
    for seed in range(25):
        random = np.random.default_rng(100 + seed)
        label = np.repeat(np.arange(10), 40)
        baseline = np.where(random.random(400) < 0.7, label, (label + 1) % 10)
        harmed = random.random((20, 400)) < np.where(label < 3, 0.5, 0.02)
        prediction = np.where(harmed, (label + 1) % 10, baseline)
        ds = study_of_predictions(label, baseline, prediction, 10)
        assert (unitlab.damage(ds).p_specific.values <= 0.05).all()
        p.append(unitlab.damage(permuted_labels(ds, seed)).p_specific.values)
    rejected = (np.concatenate(p) <= 0.05).mean()
    assert rejected <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 25)


def test_a_unit_that_hurts_all_classes_alike_is_found_by_p_any_alone() -> None:
    any_class, specific = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        label = np.repeat(np.arange(20), 50)
        baseline = np.where(random.random(1000) < 0.75, label, (label + 1) % 20)
        prediction = np.where(random.random((1, 1000)) < 0.15, (label + 1) % 20, baseline)
        found = unitlab.damage(study_of_predictions(label, baseline, prediction, 20))
        any_class.append(float(found.p_any[0]) <= 0.05)
        specific.append(float(found.p_specific[0]) <= 0.05)
    assert np.mean(any_class) > 0.9
    assert np.mean(specific) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 40)


@pytest.mark.parametrize(("clusters", "n"), [(1, 90), (3, 150)])
def test_a_planted_unit_is_found_with_its_class(clusters: int, n: int) -> None:
    """A unit that breaks 30 % of the images of one class (90 images, 50 clusters of three) among 240 cells: power 95 %."""
    hits = []
    for seed in range(20):
        ds = null_study(seed, n_units=20, n=n, clusters=clusters)
        prediction = ds.prediction.values.copy()
        random = np.random.default_rng(seed)
        prediction[5] = ds.baseline_prediction.values
        of = (ds.label.values == 7) & (ds.baseline_prediction.values == 7)
        of &= (random.random(ds.sizes["image"]) < 0.6)[np.arange(ds.sizes["image"]) // clusters * clusters]
        prediction[5, of] = 8
        cluster = ds.cluster.values if clusters > 1 else None
        found = unitlab.damage(study_of_predictions(ds.label.values, ds.baseline_prediction.values, prediction, 12, cluster))
        hits.append(bool(found.damaged[5, 7]) and int(found.max_class[5]) == 7 and float(found.p_specific[5]) <= 0.01)
    assert np.mean(hits) >= 0.95


@pytest.mark.parametrize(("n", "broken", "fixed"), [(20, 0.15, 0.05), (20, 0.3, 0.0), (100, 0.1, 0.08), (22, 0.02, 0.02)])
def test_intervals_cover(n: int, broken: float, fixed: float) -> None:
    random = np.random.default_rng(0)
    counts = random.multinomial(n, [broken, fixed, 1 - broken - fixed], 4000)
    low, high = bonett_price(counts[:, 0], counts[:, 1], np.full(4000, n), 0.95)
    assert ((low <= broken - fixed) & (broken - fixed <= high)).mean() >= 0.94


@pytest.mark.parametrize("n_clusters", [8, 20])
def test_intervals_cover_with_clusters(n_clusters: int) -> None:
    """Three images a cluster; three quarters of the clusters that change at all change as a whole."""
    random = np.random.default_rng(1)
    n_units = 400
    label = np.repeat(np.arange(2), 3 * n_clusters)
    cluster = np.arange(len(label)) // 3
    baseline = label
    whole = (random.random((n_units, cluster.max() + 1)) < 0.15)[:, cluster]
    alone = random.random((n_units, len(label))) < 0.05
    prediction = np.where(whole | alone, 1 - label, baseline)
    truth = 1 - 0.85 * 0.95
    found = unitlab.damage(study_of_predictions(label, baseline, prediction, 2, cluster))
    covered = (found.drop_low.values <= truth) & (truth <= found.drop_high.values)
    assert covered.mean() >= 0.94
