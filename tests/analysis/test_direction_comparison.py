"""Units beside directions: means over whole bases, pairs of like energy, intervals over bases and images.

With ``UNITLAB_SIMULATE=N`` the intervals' coverage comes from N comparisons, and ``-s`` prints it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from simulated_study import simulated_study, study_of_predictions

import unitlab
from unitlab import UnitlabError
from unitlab.analysis.comparisons.direction_comparison import CALIPER, crossed_interval, write_random_bases
from unitlab.files import bundled_folder
from unitlab.schema import COMPARISON_VARIABLES

N = 12
COMPARISONS = int(os.environ.get("UNITLAB_SIMULATE", "0")) or 25
SAME = {f"fingerprint_{name}": name for name in ("weights", "images", "labels")}


def study(seed: int, energy: np.ndarray, basis: str | None = None) -> xr.Dataset:
    """A simulated study whose ablations remove given energies."""
    ds = simulated_study(N, 4, 80, seed, flip_rate=0.1).assign(removed_energy=("unit", energy))
    if basis is not None:
        ds = ds.assign(basis=(("unit", "channel"), np.eye(N)))
        ds.attrs["ablation"] = basis
    return ds.assign_attrs(SAME)


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
    assert float(found.difference_error_bases[0, at]) == pytest.approx(stats.sem(values))
    by_bases = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    by_images = stats.t.interval(0.95, 199, values.mean(), float(found.difference_error_images[0, at]))
    half = np.hypot(by_bases[1] - values.mean(), by_images[1] - values.mean())
    assert float(found.difference_low[0, at]) == pytest.approx(values.mean() - half)
    assert float(found.difference_high[0, at]) == pytest.approx(values.mean() + half)
    np.testing.assert_array_equal(found.unit_value.sel(measure="removed_energy"), energy)
    np.testing.assert_array_equal(found.direction_value.sel(measure="overall_drop")[1], rotated[1].overall_drop)
    assert set(found.variables) <= set(COMPARISON_VARIABLES)
    for name, variable in found.variables.items():
        assert variable.dims == COMPARISON_VARIABLES[str(name)].dims


def test_images_are_resampled_for_units_and_all_bases_at_once() -> None:
    """The error over images, against a bootstrap image by image and class by class."""
    energy = np.geomspace(0.01, 0.2, N)
    units, rotated = study(0, energy), [study(1, energy, "random-0"), study(2, energy, "random-1")]
    found = unitlab.compare_directions(units, rotated, n_boot=400).sel(comparison="whole basis")
    random, label = np.random.default_rng(5), units.label.values
    flips = [(ds.baseline_prediction == label).values * 1.0 - (ds.prediction == label).values for ds in (units, *rotated)]
    drops = []
    for _ in range(400):
        drawn = np.concatenate([random.choice(np.flatnonzero(label == k), (label == k).sum()) for k in range(4)])
        means = [one[:, drawn].mean() for one in flips]
        drops.append(np.mean(means[1:]) - means[0])
    expected = np.std(drops, ddof=1)
    assert float(found.difference_error_images.sel(measure="overall_drop")) == pytest.approx(expected, rel=0.15)
    assert float(found.difference_error_images.sel(measure="removed_energy")) == 0
    errors = found.difference_error_images.drop_sel(measure="removed_energy")
    assert (errors > 0).all() and errors.sizes["measure"] == 5


def compared(seed: int, n_bases: int, of_bases: float, of_images: float) -> xr.Dataset:
    """Units and directions whose drops are equal but for the bases and the images that happen to be drawn."""
    random = np.random.default_rng(seed)
    label = np.repeat(np.arange(3), 60)

    def drawn(deviation: float, size: int | tuple[int, int]) -> np.ndarray:
        """Factors of mean 1."""
        return np.exp(deviation * random.normal(size=size) - deviation**2 / 2)

    def broken(weak: np.ndarray, basis: int | None = None) -> xr.Dataset:
        strength = 0.08 * weak * (1 if basis is None else drawn(of_bases, 1) * drawn(0.4, (N, 1)))
        prediction = np.where(random.random((N, 180)) < strength, (label + 1) % 3, label)
        ds = study_of_predictions(label, label, prediction, 3).assign(removed_energy=("unit", np.full(N, 0.1)))
        if basis is not None:
            ds = ds.assign(basis=(("unit", "channel"), np.eye(N))).assign_attrs(ablation=f"random-{basis}")
        return ds.assign_attrs(SAME)

    units, weak = broken(drawn(of_images, 180)), drawn(of_images, 180)
    found = unitlab.compare_directions(units, [broken(weak, basis) for basis in range(n_bases)], n_boot=100)
    return found.sel(comparison="whole basis", measure="overall_drop")


@pytest.mark.parametrize(("n_bases", "of_bases", "of_images"), [(3, 0.4, 0.4), (3, 0.0, 0.8), (5, 0.3, 0.8)])
def test_intervals_cover_other_bases_and_other_images(n_bases: int, of_bases: float, of_images: float) -> None:
    found = [compared(seed, n_bases, of_bases, of_images) for seed in range(COMPARISONS)]
    covered = float(np.mean([bool(one.difference_low <= 0 <= one.difference_high) for one in found]))
    t = stats.t.ppf(0.975, n_bases - 1)
    by_bases = float(np.mean([abs(one.difference_mean) <= t * one.difference_error_bases for one in found]))
    if COMPARISONS > 25:
        print(f"\n| {n_bases} | {of_bases} | {of_images} | {covered:.3f} | {by_bases:.3f} |", end="")
    assert covered >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / COMPARISONS)
    assert of_images < 0.8 or by_bases < covered


def test_bases_that_are_not_comparable_are_left_out() -> None:
    difference, resampled = np.array([[1.0, np.nan, 3.0]]), np.full((1, 3, 100), np.nan)
    resampled[0, [0, 2]] = np.random.default_rng(0).normal(2, 0.5, (2, 100))
    found = crossed_interval(difference, resampled, 0.95)
    images = resampled[0, [0, 2]].mean(0).std(ddof=1)
    half = np.hypot(stats.t.ppf(0.975, 1) * 1.0, stats.t.ppf(0.975, 99) * images)
    assert [found["difference_low"][0], found["difference_high"][0]] == pytest.approx([2 - half, 2 + half])
    alone = crossed_interval(difference[:, :2], resampled[:, :2], 0.95)
    assert alone["difference_mean"] == 1 and np.isnan([alone["difference_low"], alone["difference_error_bases"]]).all()


def test_ten_bundled_bases_of_all_images(tmp_path: Path) -> None:
    found, ds = unitlab.random_bases(), unitlab.load("vgg_fashion")
    assert found.sizes["basis"] == 10 and found.sizes["unit"] == found.sizes["direction"] == 64
    assert (bundled_folder() / "random_bases" / "vgg_fashion.zarr.zip").stat().st_size < 100_000
    for name in ("weights", "images", "labels", "site"):
        assert found.attrs[f"fingerprint_{name}"] == ds.attrs[f"fingerprint_{name}"]
    value = found.unit_value
    np.testing.assert_array_equal(value.sel(measure="overall_drop"), ds.overall_drop)
    crossfit = unitlab.damage(ds).max_class_drop_crossfit
    np.testing.assert_allclose(value.sel(measure="max_class_drop_crossfit"), crossfit, atol=1e-9)
    # what is told of the pairs and of the bases follows from the values of single units and directions
    whole = found.direction_value.mean("direction") - value.mean("unit")
    np.testing.assert_allclose(found.difference.sel(comparison="whole basis"), whole, atol=1e-12)
    energy = found.direction_value.sel(measure="removed_energy") / value.sel(measure="removed_energy", unit=found.matched_unit)
    assert (np.maximum(energy, 1 / energy) <= CALIPER).all()
    pairs = (found.direction_value - value.sel(unit=found.matched_unit)).mean("direction")
    np.testing.assert_allclose(found.difference.sel(comparison="matched energy"), pairs, atol=1e-12)
    np.testing.assert_allclose(found.difference_error_bases, found.difference.std("basis", ddof=1) / np.sqrt(10), atol=1e-12)
    write_random_bases(tmp_path / "again.zarr.zip", found)
    xr.testing.assert_identical(unitlab.random_bases(tmp_path / "again.zarr.zip"), found)
    with pytest.raises(UnitlabError, match=r"data/rebuild/random_bases\.py"):
        unitlab.random_bases(tmp_path / "nothing.zip")


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
    with pytest.raises(UnitlabError, match="n_boot is 10; expected a whole number, 100 or more"):
        unitlab.compare_directions(units, rotated, n_boot=10)
    with pytest.raises(UnitlabError, match="units first"):
        unitlab.compare_directions(rotated, rotated)
