"""Partners are found where they are known, agree with SciPy and NumPy, and studies of other images are refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from planted_network import CLASSES, planted
from scipy import stats
from simulated_study import simulated_study

import unitlab
from unitlab.concepts.exchangeable import ImageClusters


def with_activations(ds: xr.Dataset, values: np.ndarray) -> xr.Dataset:
    return ds.assign(activation_max=(("unit", "image"), values.astype(np.float32)))


@pytest.fixture(scope="module")
def pair() -> tuple[xr.Dataset, xr.Dataset]:
    return simulated_study(9, 6, 240, 3, clusters=150, dead_units=(2,)), simulated_study(7, 6, 240, 3, clusters=150)


def test_correlations_are_those_of_numpy_and_scipy(pair: tuple[xr.Dataset, xr.Dataset]) -> None:
    a, b = pair
    found = unitlab.match(a, b)
    assert dict(found.sizes) == {"unit": 9, "unit_b": 7}
    live = [u for u in range(9) if u != 2]
    expected = np.corrcoef(a.activation_max.values[live], b.activation_max.values)[: len(live), len(live) :]
    np.testing.assert_allclose(found.activation_correlation.values[live], expected, atol=1e-6)
    assert np.isnan(found.activation_correlation.values[2]).all()

    centred = []
    for ds, some in ((a, live), (b, list(range(7)))):
        drop = ds.label_margin_drop.isel(unit=some).astype(float).groupby(ds.label).mean().values
        centred.append(drop - drop.mean(1, keepdims=True) - drop.mean(0) + drop.mean())
    for row, u in enumerate(live):
        for v in range(7):
            expected = stats.spearmanr(centred[0][row], centred[1][v]).statistic
            assert float(found.damage_correlation[u, v]) == pytest.approx(expected, abs=1e-9)

    # seven units for eight: every unit of b has one partner, the dead one of a has none
    assert sorted(found.partner.values[found.partner.values >= 0]) == list(range(7))
    assert found.partner.values[2] == found.best_partner.values[2] == -1 and found.attrs["n_dead_a"] == 1
    ordered = np.sort(found.activation_correlation.values[live], axis=1)
    np.testing.assert_allclose(found.best_gap.values[live], ordered[:, -1] - ordered[:, -2])
    np.testing.assert_allclose(found.best_excess, found.best_correlation - found.correlation_null)
    own = found.damage_correlation.values[live]
    own = [row[v] for row, v in zip(own, found.partner.values[live], strict=True) if v >= 0]
    assert float(found.mean_partner_damage_correlation) == pytest.approx(np.mean(own))
    xr.testing.assert_identical(found, unitlab.match(a, b))


def test_clusters_change_places_whole_and_within_their_classes() -> None:
    ds = simulated_study(2, 4, 90, 5, clusters=50)
    # one cluster with images of two classes
    label = ds.label.values.copy()
    first = np.flatnonzero(ds.cluster.values == 0)
    label[first[0]] = (label[first[0]] + 1) % 4
    ds = ds.assign(label=("image", label))
    moved = 0
    for within in (True, False):
        clusters = ImageClusters.of_study(ds, within_classes=within)
        for seed in range(5):
            other = clusters.shuffled(np.random.default_rng(seed))
            assert sorted(other) == list(range(90))
            for cluster in range(50):
                (of,) = {int(c) for c in ds.cluster.values[other[ds.cluster.values == cluster]]}
                assert clusters.size[of] == clusters.size[cluster]
                moved += of != cluster
            if within:
                np.testing.assert_array_equal(label[other], label)
    assert moved > 100


def test_units_that_share_only_their_class_have_no_excess() -> None:
    """Class means are shared, the rest is noise: the best partner of 20 stays below the limit for 95 % of the units."""
    rng, above = np.random.default_rng(1), []
    for seed in range(12):
        ds = simulated_study(20, 5, 200, seed, clusters=120)
        mean = rng.gamma(1.0, 3.0, (20, 5))[:, ds.label.values]
        of_cluster = rng.normal(size=(2, 20, 120))[:, :, ds.cluster.values]
        one, other = (with_activations(ds, mean + noise) for noise in of_cluster)
        found = unitlab.match(one, other, seed=seed)
        above.append((found.best_excess.values > 0).mean())
        assert float(found.best_correlation.mean()) > 0.6
    assert np.mean(above) == pytest.approx(0.05, abs=0.035)


def test_a_network_with_its_units_in_another_order_has_its_units_as_partners() -> None:
    network, images, unit, unit_class = planted(3)
    order = np.random.default_rng(0).permutation(len(unit_class))
    other = copy.deepcopy(network)
    with torch.no_grad():
        for part in (other.conv.weight, other.conv.bias):
            part.copy_(part[torch.from_numpy(order)])
        # the same concept, a little differently, and on another scale
        other.conv.weight.mul_(1 + 0.1 * torch.randn(other.conv.weight.shape, generator=torch.manual_seed(0)))
        other.fc.weight.copy_(other.fc.weight[:, torch.from_numpy(order)])
    source = unitlab.images(images, categories=[f"class {k}" for k in range(CLASSES)])
    studies = [unitlab.ablate(one, source, "relu", progress=False, device="cpu") for one in (network, other)]
    found = unitlab.match(*studies)
    partner = found.partner.values
    np.testing.assert_array_equal(unit_class[order[partner]], unit_class)
    assert order[partner[unit]] == unit and float(found.partner_excess[unit]) > 0.1
    assert float(found.mean_partner_damage_correlation) > 0.5 > float(found.mean_other_damage_correlation) + 0.4
    assert float(found.partner_damage_p) <= 0.002
    itself = unitlab.match(studies[0], studies[0])
    np.testing.assert_array_equal(itself.partner, itself.unit)
    np.testing.assert_allclose(itself.partner_damage_correlation, 1)


def test_damage_unrelated_to_partners_is_rarely_called_related() -> None:
    p = []
    for seed in range(40):
        a, b = (simulated_study(10, 6, 120, 2 * seed + side, clusters=None) for side in (0, 1))
        b = b.assign_attrs({name: a.attrs[name] for name in a.attrs if "fingerprint" in name}).assign(label=a.label)
        p.append(float(unitlab.match(a, b, seed=seed).partner_damage_p))
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.15) and min(p) > 0.001


def test_studies_of_other_images_are_refused_by_the_field(pair: tuple[xr.Dataset, xr.Dataset]) -> None:
    a, b = pair
    with pytest.raises(unitlab.UnitlabError, match="differ in fingerprint_images"):
        unitlab.match(a, simulated_study(7, 6, 240, 4))
    with pytest.raises(unitlab.UnitlabError, match=r"differ in 'image' \(240 and 200 images"):
        unitlab.match(a, b.isel(image=slice(200)))
    with pytest.raises(unitlab.UnitlabError, match="differ in 'label'"):
        unitlab.match(a, b.assign(label=("image", b.label.values[::-1])))
    with pytest.raises(unitlab.UnitlabError, match="has no 'cluster'"):
        unitlab.match(a, b.drop_vars("cluster"))
    with pytest.raises(unitlab.UnitlabError, match="differ in fingerprint_labels"):
        unitlab.match(a, b.assign_attrs(fingerprint_labels="predicted"))
    with pytest.raises(unitlab.UnitlabError, match="match takes a study"):
        unitlab.match(a, a.activation_max)
    with pytest.raises(unitlab.UnitlabError, match="match needs 'activation_max'"):
        unitlab.match(a.drop_vars("activation_max"), b)
    with pytest.raises(unitlab.UnitlabError, match="needs one unit or more"):
        unitlab.match(a.isel(unit=[]), b)


def test_no_live_units_or_too_few_have_no_partners(pair: tuple[xr.Dataset, xr.Dataset]) -> None:
    a, b = pair
    dead = with_activations(b, np.zeros((7, 240)))
    for one, other in ((a, dead), (dead, a)):
        found = unitlab.match(one, other)
        assert (found.partner == -1).all() and (found.best_partner == -1).all() and found.best_excess.isnull().all()
        assert np.isnan(found.partner_damage_p)
    alone = unitlab.match(a.isel(unit=[0]), b.isel(unit=[4]))
    assert alone.partner.values.tolist() == [4] and np.isnan(alone.best_gap[0]) and np.isnan(alone.partner_damage_p)
