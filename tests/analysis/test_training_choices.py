"""The comparison of training choices: what is bundled, its intervals against scipy, and files that are not whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from simulated_study import simulated_study

import unitlab
from unitlab.analysis.comparisons.training_choices import (
    ARMS,
    effects,
    over_live_units,
    student_t_interval,
    write_training_choices,
)
from unitlab.analysis.correlations import measures
from unitlab.files import bundled_folder
from unitlab.schema import TRAINING_VARIABLES

BUNDLED = bundled_folder() / "training_choices" / "fashion.zarr.zip"


@pytest.fixture(scope="module")
def bundled() -> xr.Dataset:
    return unitlab.training_choices()


def test_twenty_networks_that_differ_in_two_choices(bundled: xr.Dataset) -> None:
    assert bundled.sizes["arm"] == 4 and bundled.sizes["seed"] == 5
    pairs = zip(bundled.batch_norm.values.tolist(), bundled.dropout.values.tolist(), strict=True)
    assert dict(zip(bundled.arm.values, pairs, strict=True)) == ARMS
    assert len(set(bundled.weights_sha256.values.ravel())) == 20
    assert (bundled.test_accuracy > 0.88).all() and (bundled.live_units <= bundled.sizes["unit"]).all()
    assert BUNDLED.stat().st_size < 600_000
    for name, variable in bundled.variables.items():
        row = TRAINING_VARIABLES[str(name)]
        assert variable.dims == row.dims and variable.attrs["comment"] == row.comment


def test_bundled_drops_belong_together(bundled: xr.Dataset) -> None:
    # as many images in each class, so that the mean over classes is the overall drop
    np.testing.assert_allclose(bundled.accuracy_drop.mean("category"), bundled.overall_drop, atol=1e-6)
    np.testing.assert_allclose(bundled.accuracy_drop.max("category"), bundled.max_class_drop, atol=1e-6)
    assert (bundled.max_class_drop_crossfit.mean("unit") < bundled.max_class_drop.mean("unit")).all()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    some = [(arm, seed) for arm in ARMS for seed in (3, 5)]
    studies = {key: simulated_study(6, 3, 60, place, dead_units=(2,)) for place, key in enumerate(some)}
    path = tmp_path / "choices.zarr.zip"
    write_training_choices(path, studies, dict.fromkeys(some, 0.5), {"epochs": 1})
    first = path.read_bytes()
    write_training_choices(path, studies, dict.fromkeys(some, 0.5), {"epochs": 1})
    assert path.read_bytes() == first
    found = unitlab.training_choices(path)
    assert found.attrs == {"epochs": 1} and (found.live_units == 5).all()
    for arm, seed in some:
        one, ds = found.sel(arm=arm, seed=seed), studies[arm, seed]
        np.testing.assert_array_equal(one.max_class_drop_crossfit, measures(ds).max_class_drop_crossfit)
        assert float(one.test_accuracy) == (ds.label == ds.baseline_prediction).values.mean()
    live = np.delete(np.arange(6), 2)
    np.testing.assert_allclose(over_live_units(found, "overall_drop"), found.overall_drop.values[:, :, live].mean(2))


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
    plain, norm, dropout, both = (values.sel(arm=arm).values for arm in ("plain", "batch norm", "dropout", "both"))
    found = effects(values[::-1])
    np.testing.assert_allclose(found.sel(choice="batch norm"), (norm + both - plain - dropout) / 2)
    np.testing.assert_allclose(found.sel(choice="dropout"), (dropout + both - plain - norm) / 2)
    np.testing.assert_allclose(found.sel(choice="batch norm × dropout"), both - dropout - norm + plain)


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


def test_bad_input_is_refused(bundled: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'overall_drop'"):
        over_live_units(bundled, "overall_drp")
    with pytest.raises(unitlab.UnitlabError, match="level is 95"):
        student_t_interval(bundled.test_accuracy, level=95)
    with pytest.raises(unitlab.UnitlabError, match="no dimension 'fold'"):
        student_t_interval(bundled.test_accuracy, "fold")
    with pytest.raises(unitlab.UnitlabError, match="four combinations"):
        effects(bundled.test_accuracy[:3])
