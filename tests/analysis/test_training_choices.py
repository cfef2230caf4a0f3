"""The comparison of training choices: what is bundled, its intervals against scipy, and files that are not whole."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from simulated_study import simulated_study

import unitlab
from unitlab.analysis.comparisons.bundled_results import read_results
from unitlab.analysis.comparisons.training_choices import (
    ARMS,
    MEMORISING_ARMS,
    effects,
    memorising_measures,
    over_live_units,
    per_removed_energy,
    student_t_interval,
    write_memorising,
    write_training_choices,
)
from unitlab.analysis.correlations import measures
from unitlab.files import bundled_folder
from unitlab.schema import MEMORISING_VARIABLES, TRAINING_VARIABLES

BUNDLED = bundled_folder() / "training_choices" / "fashion.zarr.zip"


@pytest.fixture(scope="module")
def bundled() -> xr.Dataset:
    return unitlab.training_choices()


@pytest.mark.parametrize(("name", "n_seeds", "target", "apart"), [("fashion", 5, 0.89, 0.01), ("emoji", 3, 0.33, 0.03)])
def test_networks_that_differ_in_how_they_are_trained_alone(name: str, n_seeds: int, target: float, apart: float) -> None:
    ds = unitlab.training_choices(name)
    assert ds.sizes["arm"] == 5 and ds.sizes["seed"] == n_seeds
    pairs = zip(ds.batch_norm.values.tolist(), ds.dropout.values.tolist(), strict=True)
    assert dict(zip(ds.arm.values, pairs, strict=True)) == ARMS
    assert len(set(ds.weights_sha256.values.ravel())) == 5 * n_seeds
    # matched: each stopped at the first look at which it was right for the target, none before
    assert (ds.validation_accuracy >= target).all() and (ds.validation_accuracy < target + apart).all()
    of_arms = ds.test_accuracy.mean("seed")
    assert float(of_arms.max() - of_arms.min()) < apart
    assert (ds.live_units <= ds.sizes["unit"]).all()
    np.testing.assert_allclose(ds.removed_energy.sum("unit"), 1, atol=1e-5)
    for one, variable in ds.variables.items():
        row = TRAINING_VARIABLES[str(one)]
        assert variable.dims == row.dims and variable.attrs["comment"] == row.comment


def test_units_of_networks_that_differ_in_their_seed_alone() -> None:
    ds = unitlab.training_choices("partners")
    assert list(ds.arm.values) == list(ARMS) and ds.sizes["pair"] == 10
    assert sorted(zip(ds.seed_a.values.tolist(), ds.seed_b.values.tolist(), strict=True)) == list(combinations(range(5), 2))
    networks = unitlab.training_choices()
    for place, (a, b) in enumerate(zip(ds.seed_a.values, ds.seed_b.values, strict=True)):
        fewest = np.minimum(networks.live_units.sel(seed=a), networks.live_units.sel(seed=b))
        assert (ds.n_partners.isel(pair=place) <= fewest).all()
    assert (ds.n_above_chance <= ds.n_partners).all()
    # what the notebook says of them
    assert (ds.partner_damage_p <= 0.05).all() and (ds.partner_damage_correlation > ds.other_damage_correlation).all()


def test_bundled_files_are_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.parent.glob("*.zip")) < 1_500_000


def test_bundled_drops_belong_together(bundled: xr.Dataset) -> None:
    # as many images in each class, so that the mean over classes is the overall drop
    np.testing.assert_allclose(bundled.accuracy_drop.mean("category"), bundled.overall_drop, atol=1e-6)
    np.testing.assert_allclose(bundled.accuracy_drop.max("category"), bundled.max_class_drop, atol=1e-6)
    assert (bundled.max_class_drop_crossfit.mean("unit") < bundled.max_class_drop.mean("unit")).all()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    some = [(arm, seed) for arm in ARMS for seed in (3, 5)]
    studies = {key: simulated_study(6, 3, 60, place, dead_units=(2,)) for place, key in enumerate(some)}
    path = tmp_path / "choices.zarr.zip"
    record = {"train_accuracy": 0.5, "validation_accuracy": 0.4, "steps": 300, "learning_rate": 0.1}
    studies = {key: ds.assign(removed_energy=("unit", np.arange(6.0))) for key, ds in studies.items()}
    write_training_choices(path, studies, dict.fromkeys(some, record), {"epochs": 1})
    first = path.read_bytes()
    write_training_choices(path, studies, dict.fromkeys(some, record), {"epochs": 1})
    assert path.read_bytes() == first
    found = unitlab.training_choices(path)
    assert found.attrs == {"epochs": 1} and (found.live_units == 5).all()
    for arm, seed in some:
        one, ds = found.sel(arm=arm, seed=seed), studies[arm, seed]
        np.testing.assert_array_equal(one.max_class_drop_crossfit, measures(ds).max_class_drop_crossfit)
        assert float(one.test_accuracy) == (ds.label == ds.baseline_prediction).values.mean()
    live = np.delete(np.arange(6), 2)
    drops = found.overall_drop.values[:, :, live]
    np.testing.assert_allclose(over_live_units(found, "overall_drop"), drops.mean(2))
    np.testing.assert_allclose(per_removed_energy(found, "overall_drop"), drops.sum(2) / live.sum())


def test_intervals_are_scipys() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5))
    found = student_t_interval(xr.DataArray(values, dims=("arm", "seed")), level=0.9)
    assert found.attrs == {"level": 0.9, "covers": "seeds"}
    for row, one in enumerate(values):
        low, high = stats.t.interval(0.9, 4, one.mean(), stats.sem(one))
        assert (float(found.low[row]), float(found.high[row])) == pytest.approx((low, high))
    one = student_t_interval(xr.DataArray([1.0, np.nan], dims="seed"))
    assert float(one["mean"]) == 1 and int(one.n) == 1 and np.isnan(one.low) and np.isnan(one.high)


def test_effects_are_differences_of_the_arms(bundled: xr.Dataset) -> None:
    values = over_live_units(bundled, "max_class_drop_crossfit")
    arms = ("plain", "batch norm", "dropout", "both", "channel dropout")
    plain, norm, dropout, both, channels = (values.sel(arm=arm).values for arm in arms)
    found = effects(values[::-1])
    np.testing.assert_allclose(found.sel(choice="batch norm"), (norm + both - plain - dropout) / 2)
    np.testing.assert_allclose(found.sel(choice="dropout"), (dropout + both - plain - norm) / 2)
    np.testing.assert_allclose(found.sel(choice="batch norm × dropout"), both - dropout - norm + plain)
    np.testing.assert_allclose(found.sel(choice="channel dropout"), channels - plain)
    told = unitlab.training_effects(bundled, "max_class_drop_crossfit")
    xr.testing.assert_allclose(told.drop_vars("without"), student_t_interval(found))
    assert float(told.without) == pytest.approx(plain.mean())
    of_energy = unitlab.training_effects(bundled, "overall_drop", per_energy=True)
    xr.testing.assert_allclose(of_energy["mean"], effects(per_removed_energy(bundled, "overall_drop")).mean("seed"))
    of_networks = unitlab.training_effects(bundled, "test_accuracy")
    xr.testing.assert_allclose(of_networks["mean"], effects(bundled.test_accuracy).mean("seed"))


def test_networks_that_know_random_labels() -> None:
    ds = unitlab.training_choices("memorising")
    assert ds.random_labels.values.tolist() == [0, 0.2, 0.5, 1] and ds.sizes["seed"] == 5
    assert ds.measured_on.values.tolist() == ["training images", "test images"]
    whole = ds.accuracy.sel(k=0)
    # every label is known; on test images only those trained on true labels know anything
    assert (whole.sel(measured_on="training images") == 1).all()
    tested = whole.sel(measured_on="test images").mean("seed").values
    assert (np.diff(tested) < 0).all() and tested[-1] < 0.15
    area = np.trapezoid(ds.accuracy, ds.k / ds.sizes["unit"])
    np.testing.assert_allclose(ds.curve_area, area)
    np.testing.assert_allclose(ds.relative_area, area / whole)
    chosen = ds.sel(measured_on="training images")
    assert over_live_units(chosen, "overall_drop").dims == ("arm", "seed")
    told = unitlab.training_effects(chosen, "curve_area")
    assert told.choice.values.tolist() == ds.arm.values[1:].tolist() and told.attrs["covers"] == "seeds"
    change = (chosen.curve_area[1:] - chosen.curve_area[0].values).mean("seed")
    np.testing.assert_allclose(told["mean"], change)
    for name in ("overall_drop", "curve_area"):
        with pytest.raises(unitlab.UnitlabError, match="choose the images first"):
            unitlab.training_effects(ds, name)


def test_what_is_written_of_memorising_is_read(tmp_path: Path) -> None:
    k, path = np.array([0, 3, 6]), tmp_path / "memorising.zarr.zip"
    order = np.random.default_rng(0).random((4, 3))
    curve = xr.Dataset({"accuracy": (("order", "k"), order), "k": k})
    found, records = {}, {}
    for place, key in enumerate((arm, seed) for arm in MEMORISING_ARMS for seed in (0, 1)):
        study = simulated_study(6, 3, 60, place).assign(removed_energy=("unit", np.arange(6.0)))
        found[key] = {name: memorising_measures(study, curve) for name in ("training images", "test images")}
        records[key] = {"epochs": place, "weights_sha256": f"{place}"}
    write_memorising(path, found, records, {"layer": "one"})
    written = read_results(path, "", MEMORISING_VARIABLES, "")
    assert written.attrs == {"layer": "one"} and written.epochs.values.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    mean = order.mean(0)
    np.testing.assert_allclose(written.accuracy[0, 0, 0], mean)
    np.testing.assert_allclose(written.curve_area, (mean[0] + 2 * mean[1] + mean[2]) / 4)
    np.testing.assert_array_equal(written.overall_drop[3, 1, 1], study.overall_drop)


def test_a_file_with_a_flipped_or_a_missing_byte_is_no_number(tmp_path: Path, bundled: xr.Dataset) -> None:
    whole = BUNDLED.read_bytes()
    path = tmp_path / "choices.zarr.zip"
    random = np.random.default_rng(0)
    refused = 0
    for place in [*random.integers(0, len(whole), 25), *range(len(whole) - 600, len(whole), 40)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(damaged)
        try:
            xr.testing.assert_identical(unitlab.training_choices(path), bundled)
        except unitlab.UnitlabError:
            refused += 1
    assert refused > 20
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(unitlab.UnitlabError, match="cannot be read"):
        unitlab.training_choices(path)
    with pytest.raises(unitlab.UnitlabError, match=r"data/rebuild/training_choices\.py"):
        unitlab.training_choices(tmp_path / "nothing.zip")
    with pytest.raises(unitlab.UnitlabError, match="no such comparison"):
        unitlab.training_choices(BUNDLED.with_name("memorising.zarr.zip"))


def test_bad_input_is_refused(bundled: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'overall_drop'"):
        over_live_units(bundled, "overall_drp")
    with pytest.raises(unitlab.UnitlabError, match="level is 95"):
        student_t_interval(bundled.test_accuracy, level=95)
    with pytest.raises(unitlab.UnitlabError, match="no dimension 'fold'"):
        student_t_interval(bundled.test_accuracy, "fold")
    with pytest.raises(unitlab.UnitlabError, match="the arms are to be"):
        effects(bundled.test_accuracy[:3])
