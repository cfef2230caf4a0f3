"""Reliability, agreement of studies and selectivity against damage: by plain computation and with known truth."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from simulated_study import simulated_study, study_of_predictions

import unitlab
from unitlab.analysis.agreement import SPLITS
from unitlab.analysis.correlations import left_out_images


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(24, 5, 300, 3, flip_rate=0.15, dead_units=(7,), clusters=100)


def broken_by_chance(chance: np.ndarray, label: np.ndarray, random: np.random.Generator) -> xr.Dataset:
    """Every image is right before; a unit breaks one with the chance (unit, class) of its class."""
    broken = random.random((len(chance), len(label))) < chance[:, label]
    n = chance.shape[1]
    return study_of_predictions(label, label, np.where(broken, (label + 1) % n, label), n)


def test_reliability_is_the_share_of_the_variance_that_is_the_units() -> None:
    label = np.repeat(np.arange(6), 60)
    found: dict[str, list[float]] = {"overall_drop": [], "accuracy_drop": []}
    truth: dict[str, list[float]] = {"overall_drop": [], "accuracy_drop": []}
    covered = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        chance = np.clip(random.gamma(2, 0.03, (60, 1)) + random.gamma(1, 0.03, (60, 6)), 0, 0.9)
        table = unitlab.reliability(broken_by_chance(chance, label, random), list(found), seed=seed)
        noise = chance * (1 - chance) / 60
        for name, signal, of in (
            ("overall_drop", chance.mean(1).var(), (noise.mean(1) / 6).mean()),
            ("accuracy_drop", chance.var(), noise.mean()),
        ):
            truth[name].append(signal / (signal + of))
            found[name].append(table.reliability[name])
            covered.append(table.low[name] <= truth[name][-1] <= table.high[name])
            assert table.low[name] < table.reliability[name] < table.high[name]
    for name, values in found.items():
        assert np.mean(values) == pytest.approx(np.mean(truth[name]), abs=0.04)
    assert np.mean(covered) >= 0.8 and table.n.tolist() == [60, 360] and table.attrs["covers"] == "images"


def test_reliability_of_what_halves_cannot_tell(study: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="'l1_norm' cannot be measured on half"):
        unitlab.reliability(study, "l1_norm")


def test_studies_of_the_same_units(study: xr.Dataset) -> None:
    again = simulated_study(24, 5, 300, 3, flip_rate=0.3, clusters=100)
    third = study.assign_coords(image=np.array([f"other {i}" for i in range(300)], object))
    table = unitlab.agreement({"zero": study, "mean": again, "second": third}, ["overall_drop", "accuracy_drop"])
    assert list(zip(table.of, table.a, table.b, strict=True))[:3] == [
        ("overall_drop", "zero", "mean"), ("overall_drop", "zero", "second"), ("overall_drop", "mean", "second")
    ]  # fmt: skip
    rows = table.set_index(["of", "a", "b"])
    for name in ("overall_drop", "accuracy_drop"):
        expected = stats.spearmanr(study[name].values.ravel(), again[name].values.ravel()).statistic
        row = rows.loc[(name, "zero", "mean")]
        assert row.spearman == pytest.approx(expected) and row.covers == "units and images"
        assert row.spearman_low < row.spearman < row.spearman_high
        assert rows.loc[(name, "zero", "second")].spearman == pytest.approx(1)
    with pytest.raises(unitlab.UnitlabError, match="two studies or more"):
        unitlab.agreement({"zero": study})
    with pytest.raises(unitlab.UnitlabError, match="other classes"):
        unitlab.agreement({"zero": study, "other": simulated_study(24, 4, 300, 3)}, "accuracy_drop")


def selective_study(strength: float, seed: int = 0) -> xr.Dataset:
    """Units that respond to one class and, by ``strength``, damage it."""
    random = np.random.default_rng(seed)
    label = np.repeat(np.arange(6), 60)
    liked = random.integers(0, 6, 40)
    chance = 0.05 + strength * (liked[:, None] == np.arange(6)) * random.gamma(1, 0.2, (40, 1))
    ds = broken_by_chance(np.clip(chance, 0, 0.9), label, random)
    values = random.gamma(2, 0.5, (40, 360)) * (1 + 2 * (label == liked[:, None]))
    means = np.stack([values[:, label == k].mean(1) for k in range(6)], 1)
    return ds.assign(activation_mean=(("unit", "image"), values), class_activation=(("unit", "category"), means))


def test_selectivity_on_one_half_against_drops_on_the_other() -> None:
    ds = selective_study(1.0)
    found = unitlab.selective_damage(ds)
    left_out, random = left_out_images([ds], 0)[0], np.random.default_rng(0)
    order = left_out.images.order
    correlation, hit = [], []
    for _ in range(SPLITS):
        half = left_out.half(random)
        for here, there in ((half, ~half), (~half, half)):
            one, other = ds.isel(image=np.sort(order[here])), ds.isel(image=np.sort(order[there]))
            means = np.stack([one.activation_mean.values[:, one.label == k].mean(1) for k in range(6)], 1)
            rest = (means.sum(1, keepdims=True) - means) / 5
            selective = (means - rest) / (means + rest)
            drop = np.stack([(other.prediction.values[:, other.label == k] != k).mean(1) for k in range(6)], 1)
            correlation.append(np.mean([stats.spearmanr(selective[:, k], drop[:, k]).statistic for k in range(6)]))
            most = drop == drop.max(1, keepdims=True)
            hit.append(np.mean(most[np.arange(40), selective.argmax(1)] / most.sum(1)))
    np.testing.assert_allclose(found.value, [np.mean(correlation), np.mean(hit)], rtol=1e-6)
    assert (found.low < found.value).all() and (found.value < found.high).all() and (found.p <= 0.01).all()
    assert found.chance.iloc[1] == pytest.approx(1 / 6, abs=0.05) and found.value.iloc[1] > 0.5
    assert found.attrs["selectivity"] == "class_selectivity_by_class" and found.attrs["n_undefined"] == 0


def test_selectivity_that_goes_with_nothing() -> None:
    tables = [unitlab.selective_damage(selective_study(0.0, seed), seed=seed) for seed in range(30)]
    correlation = np.array([table.value.iloc[0] for table in tables])
    assert abs(correlation.mean()) < 3 * correlation.std(ddof=1) / np.sqrt(30)
    inside = np.mean([(table.low <= table.chance) & (table.chance <= table.high) for table in tables])
    assert inside >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean([table.p <= 0.05 for table in tables]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_signed_activations_use_the_area_under_the_curve() -> None:
    ds = selective_study(1.0)
    signed = ds.assign(activation_mean=ds.activation_mean - 1, class_activation=ds.class_activation - 1)
    found = unitlab.selective_damage(signed)
    assert found.attrs["selectivity"] == "class_auc" and found.p.iloc[0] <= 0.01
    left_out = left_out_images([signed], 0)[0]
    area = left_out.cells_of("class_auc")[0]
    np.testing.assert_allclose(area, unitlab.discrimination(signed).class_auc, rtol=1e-5)


def test_dead_units_and_too_few(study: xr.Dataset) -> None:
    found = unitlab.selective_damage(study)
    assert found.attrs["n_units"] == 23 and found.attrs["n_undefined"] == 1
    with pytest.raises(unitlab.UnitlabError, match="for 2 units"):
        unitlab.selective_damage(study.isel(unit=slice(2)))


def test_how_far_an_ablation_is_from_what_a_unit_does(study: xr.Dataset) -> None:
    values = study.activation_mean.values.astype(float)
    zero, mean, resample = (unitlab.attributes(study.assign_attrs(ablation=kind)) for kind in ("zero", "mean", "resample"))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(zero.ablated_distance, values.mean(1) / values.std(1), rtol=1e-6)
    np.testing.assert_allclose(np.delete(mean.ablated_distance.values, 7), 0, atol=1e-6)
    np.testing.assert_allclose(np.delete(resample.ablated_distance.values, 7), 1)
    # these units are silent on four images of ten: zero is what they often do
    at_zero = (values == 0).mean(1)
    np.testing.assert_allclose(zero.ablated_typicality, np.minimum(2 * at_zero, 1))
    never = unitlab.attributes(study.assign(activation_mean=study.activation_mean + 1))
    assert (never.ablated_typicality == 0).all() and np.isnan(zero.ablated_distance[7])
    own = [np.minimum(2 * np.minimum((row[:, None] >= row).mean(1), (row[:, None] <= row).mean(1)), 1).mean() for row in values]
    np.testing.assert_allclose(resample.ablated_typicality, own)


def test_a_study_of_some_of_its_images_is_refused(study: xr.Dataset) -> None:
    for call in (unitlab.damage, unitlab.correlations, unitlab.selective_damage, unitlab.reliability, unitlab.attributes):
        with pytest.raises(unitlab.UnitlabError, match="needs all images of the study"):
            call(study.isel(image=slice(0, None, 2)))


def test_too_few_clusters_leave_nothing_to_tell() -> None:
    ds = simulated_study(8, 3, 60, 0, clusters=3)
    assert np.isnan(unitlab.reliability(ds).reliability["accuracy_drop"])
    row = unitlab.correlations(ds, "class_selectivity").iloc[0]
    assert np.isfinite(row.spearman) and np.isnan(row.spearman_low), "three groups of images have no variance"
    with pytest.raises(unitlab.UnitlabError, match="0 classes"):
        unitlab.selective_damage(ds)
    with pytest.raises(unitlab.UnitlabError, match=r"held names 'iuo'.*'iou'"):
        unitlab.correlations(ds.assign(iou=("unit", np.arange(8.0))), "iou", held="iuo")
    with pytest.raises(unitlab.UnitlabError, match="selective_damage takes a study"):
        unitlab.selective_damage(3)  # type: ignore[arg-type]
