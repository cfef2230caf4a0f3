"""Units beside directions: means over whole bases, pairs of like energy, intervals over bases."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from simulated_study import simulated_study

import unitlab
from unitlab import UnitlabError
from unitlab.schema import COMPARISON_VARIABLES

N = 12


def study(seed: int, energy: np.ndarray, basis: str | None = None) -> xr.Dataset:
    """A simulated study whose ablations remove given energies."""
    ds = simulated_study(N, 4, 80, seed, flip_rate=0.1).assign(removed_energy=("unit", energy))
    if basis is not None:
        ds = ds.assign(basis=(("unit", "channel"), np.eye(N)))
        ds.attrs["ablation"] = basis
    same = {f"fingerprint_{name}": name for name in ("weights", "images", "labels")}
    ds.attrs.update(same)
    return ds


def test_means_matches_and_intervals() -> None:
    energy = np.geomspace(0.001, 0.3, N)
    units = study(0, energy)
    rotated = [study(1, energy[::-1] * 1.1, "random-0"), study(2, np.full(N, 0.05), "random-1"), study(3, energy, "random-2")]
    rotated[0] = rotated[0].assign(removed_energy=("unit", np.where(np.arange(N) == 4, 40.0, energy[::-1] * 1.1)))
    found = unitlab.compare_directions(units, rotated)
    at = list(found.measure.values).index("overall_drop")
    for place, ds in enumerate(rotated):
        whole = float(ds.overall_drop.mean() - units.overall_drop.mean())
        assert float(found.difference[0, at, place]) == pytest.approx(whole)
    expected = np.arange(N)[::-1].copy()
    expected[4] = -1
    np.testing.assert_array_equal(found.matched_unit[0], expected)
    near = int(np.abs(np.log(energy) - np.log(0.05)).argmin())
    assert set(found.matched_unit.values[1]) == ({near} if max(energy[near] / 0.05, 0.05 / energy[near]) <= 1.25 else {-1})
    np.testing.assert_array_equal(found.matched_unit[2], np.arange(N))
    np.testing.assert_array_equal(found.n_matched, (found.matched_unit >= 0).sum("direction"))
    some = expected >= 0
    pairs = rotated[0].overall_drop.values[some] - units.overall_drop.values[expected[some]]
    assert float(found.difference[1, at, 0]) == pytest.approx(pairs.mean())
    values = found.difference.values[0, at]
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert float(found.difference_low[0, at]) == pytest.approx(low)
    assert float(found.difference_high[0, at]) == pytest.approx(high)
    np.testing.assert_array_equal(found.unit_value.sel(measure="removed_energy"), energy)
    np.testing.assert_array_equal(found.direction_value.sel(measure="overall_drop")[1], rotated[1].overall_drop)
    assert set(found.variables) <= set(COMPARISON_VARIABLES)
    for name, variable in found.variables.items():
        assert variable.dims == COMPARISON_VARIABLES[str(name)].dims


def test_the_same_study_shows_no_difference() -> None:
    energy = np.geomspace(0.01, 0.2, N)
    found = unitlab.compare_directions(study(0, energy), study(0, energy, "pca"))
    np.testing.assert_allclose(found.difference, 0, atol=1e-12)
    assert found.difference_low.isnull().all()


def test_dead_units_and_directions_match_nothing() -> None:
    energy = np.geomspace(0.01, 0.2, N)
    energy[[1, 5]] = 0
    found = unitlab.compare_directions(study(0, energy), study(1, energy, "pca"))
    assert (found.matched_unit[0, [1, 5]] == -1).all() and int(found.n_matched[0]) == N - 2


def test_studies_that_do_not_belong_together_are_refused() -> None:
    energy = np.full(N, 0.1)
    units, rotated = study(0, energy), study(1, energy, "random-0")
    for bad, message in (
        ([], "is empty"),
        ([rotated, rotated], "twice"),
        ([units], "of units"),
        ([rotated.drop_vars("removed_energy")], "compute it again"),
        ([rotated.assign_attrs(fingerprint_weights="other")], "another weights"),
        ([rotated, study(2, energy, "random-1").isel(unit=slice(3))], "other directions"),
    ):
        with pytest.raises(UnitlabError, match=message):
            unitlab.compare_directions(units, bad)
    with pytest.raises(UnitlabError, match="units first"):
        unitlab.compare_directions(rotated, rotated)
