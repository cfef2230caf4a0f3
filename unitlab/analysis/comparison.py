"""What is compared: units with directions of rotated bases, and two ablations of the same images with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.damage import ClusterCells, ImageCells, exact_tests, paired_intervals
from unitlab.analysis.discrimination import discrimination
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import discrete_benjamini_hochberg, student_quantile
from unitlab.analysis.requirements import check_level, require
from unitlab.analysis.splits import crossfit_and_reliability
from unitlab.analysis.undefined import leading, mean_of_defined, ratio
from unitlab.errors import UnitlabError, check_seed
from unitlab.schema import COMPARISON_VARIABLES, PAIR_VARIABLES, described

Array = np.ndarray[Any, Any]

MEASURES = (
    "removed_energy", "overall_drop", "max_class_drop", "max_class_drop_crossfit", "max_class_d_prime", "max_class_auc",
)  # fmt: skip
CALIPER = 1.25


def compare_directions(
    units: xr.Dataset, directions: xr.Dataset | Sequence[xr.Dataset], *, level: float = LEVEL, seed: int = 0
) -> xr.Dataset:
    """Units of a layer beside directions of rotated bases of it, such as random ones of several seeds.

    A whole basis, of units or of directions, removes all of the layer's energy once, so that both remove the same on
    average ("whole basis"). But a direction through the mean activation removes far more than others do, and damage grows
    with what is removed. So each direction is also set beside the unit that removes most nearly as much ("matched energy"),
    if one removes between 1/1.25 and 1.25 times as much; how many directions have such a unit is told.

    Parameters
    ----------
    units
        The study of the layer's units.
    directions
        Studies by ``unitlab.ablate(model, images, layer, basis=...)`` of the same network, images and layer.
    level
        Coverage of the intervals, Student's t over the bases.
    seed
        Of the splits in halves of the cross-fitted maximum.

    Returns
    -------
    xarray.Dataset
        ``unit_value`` (measure, unit) and ``direction_value`` (measure, basis, direction): the distributions of the removed
        energy, the overall drop, the raw and the cross-fitted max class drop, and the max over classes of d′ and of the area
        under the ROC curve. ``matched_unit`` (basis, direction): number of the unit of like energy, or −1. ``difference``
        (comparison, measure, basis): mean of the directions minus mean of the units, over the whole bases or over the matched
        pairs; ``difference_mean``, ``difference_low``, ``difference_high`` (comparison, measure): over the bases.
        ``n_matched`` (basis).

    Raises
    ------
    UnitlabError
        Studies of other networks, images, layers or labels than the first; a study without ``removed_energy``.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.compute.networks import bundled_network
    >>> model, photos = bundled_network("vgg_fashion"), unitlab.images("fashion_mnist").subset(range(100))
    >>> options = {"layer": "conv3_2", "units": range(8), "progress": False}
    >>> rotated = [unitlab.ablate(model, photos, basis="random", seed=seed, **options) for seed in (0, 1)]
    >>> found = unitlab.compare_directions(unitlab.ablate(model, photos, **options), rotated)
    >>> found.difference.sizes["basis"]
    2
    """
    check_level(level)
    check_seed(seed)
    others = [directions] if isinstance(directions, xr.Dataset) else list(directions)
    _check(units, others)
    of_units = _values(units, seed)
    of_directions = np.stack([_values(ds, seed) for ds in others], 1)
    number = units["unit"].values
    matched = np.stack([_nearest(of_units[0], row) for row in of_directions[0]])
    difference = np.full((2, len(MEASURES), len(others)), np.nan)
    for place, found in enumerate(matched):
        difference[0, :, place] = mean_of_defined(of_directions[:, place]) - mean_of_defined(of_units)
        some = found >= 0
        if some.any():
            difference[1, :, place] = mean_of_defined(of_directions[:, place, some] - of_units[:, found[some]])
    mean = mean_of_defined(difference)
    n = np.isfinite(difference).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(np.nansum((difference - mean[..., None]) ** 2, -1) / (n - 1) / n)
        half = np.where(n > 1, student_quantile((1 + level) / 2, np.maximum(n - 1, 1)) * error, np.nan)
    values = {
        "measure": np.array(MEASURES, dtype=object),
        "basis_name": np.array([str(ds.attrs["ablation"]) for ds in others], dtype=object),
        "comparison": np.array(["whole basis", "matched energy"], dtype=object),
        "unit": number,
        "direction": others[0]["unit"].values,
        "unit_value": of_units,
        "direction_value": of_directions,
        "matched_unit": np.where(matched >= 0, number[np.maximum(matched, 0)], -1).astype(np.int32),
        "n_matched": (matched >= 0).sum(1).astype(np.int32),
        "difference": difference,
        "difference_mean": mean,
        "difference_low": mean - half,
        "difference_high": mean + half,
    }
    return described(COMPARISON_VARIABLES, values, {**units.attrs, "level": level, "seed": seed, "caliper": CALIPER})


def _check(units: xr.Dataset, others: list[xr.Dataset]) -> None:
    """Refuse studies that do not belong together."""
    if not others:
        raise UnitlabError(
            "directions is empty; give studies by unitlab.ablate(model, images, layer, basis='random', seed=...)"
        )
    for ds in [units, *others]:
        require(
            ds, ["unit", "category", "prediction", "overall_drop", "accuracy_drop", "activation_mean"], "compare_directions"
        )
        if "removed_energy" not in ds:
            raise UnitlabError(
                "the study does not tell the energy that an ablation removes: an earlier version computed it; compute it again "
                "with unitlab.ablate(model, images, layer)"
            )
    if "basis" in units:
        raise UnitlabError("units is a study of directions; give the layer's units first, then the directions")
    names = [str(ds.attrs.get("ablation")) for ds in others]
    for name, ds in zip(names, others, strict=True):
        if "basis" not in ds:
            raise UnitlabError(
                f"directions holds the study {name!r} of units; unitlab.ablate(..., basis='random') gives others"
            )
        for field in ("fingerprint_weights", "fingerprint_images", "fingerprint_labels", "site"):
            if ds.attrs.get(field) != units.attrs.get(field):
                what = field.removeprefix("fingerprint_")
                raise UnitlabError(f"the study {name!r} is of another {what} than the units' ({ds.attrs.get(field)!s:.24})")
        if ds.sizes["unit"] != others[0].sizes["unit"] or not np.array_equal(ds["unit"], others[0]["unit"]):
            raise UnitlabError(
                f"the study {name!r} has other directions than the first one; compute the same ones of each basis"
            )
    if len(set(names)) != len(names):
        raise UnitlabError(f"a basis occurs twice among {names}; give each once")


def _values(ds: xr.Dataset, seed: int) -> Array:
    """(measure, unit)."""
    told = discrimination(ds)
    found: dict[str, Array] = {
        "removed_energy": ds["removed_energy"].values,
        "overall_drop": ds["overall_drop"].values,
        "max_class_drop": leading(ds["accuracy_drop"].values)[0],
        "max_class_drop_crossfit": crossfit_and_reliability(PairedImages(ds, "compare_directions"), seed)[0],
        "max_class_d_prime": told["max_class_d_prime"].values,
        "max_class_auc": told["max_class_auc"].values,
    }
    return np.stack([found[name].astype(float) for name in MEASURES])


def _nearest(energy: Array, wanted: Array) -> Array:
    """For each wanted energy, the place of the nearest one in ratio, or −1 where none is within the caliper."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(wanted[:, None]) - np.log(energy[None]))
    distance = np.where(np.isfinite(distance), distance, np.inf)
    place = distance.argmin(1)
    return np.where(distance.min(1) <= np.log(CALIPER), place, -1)


SAME = ("fingerprint_images", "fingerprint_labels")
KEPT = ("label", "category", "category_index", "image", "baseline_prediction", "baseline_margin", "cluster")


def compare(a: xr.Dataset, b: xr.Dataset, *, level: float = LEVEL) -> xr.Dataset:
    """Two ablations on the same images: both drops of every class, their paired difference, and the images that both lose.

    Parameters
    ----------
    a, b
        Studies with one unit chosen, such as ``ds.sel(unit=3)``, of the same images and labels; layer, ablation and network
        may differ.
    level
        Coverage of the intervals.

    Returns
    -------
    xarray.Dataset
        ``accuracy_drop``, ``drop_low``, ``drop_high`` (side, category) of "a" and "b", as in `unitlab.damage`.
        ``drop_difference`` (category): the drop under a minus that under b, with ``difference_low``, ``difference_high`` from
        the images that both have: Bonett and Price (2012) where both ablate one network, Student's t over clusters where not.
        ``difference_q`` (category): adjusted exact p-values of the difference; NaN for two networks. Of the images of every
        class, ``n_lost_both``, ``n_lost_a``, ``n_lost_b`` (by one alone) and ``n_lost_neither`` (category); ``jaccard``: those
        that both lose, of those that either loses, NaN where none is lost.

    Raises
    ------
    UnitlabError
        More or less than one unit is chosen, or the studies are of other images, labels or classes; the field is named.

    Examples
    --------
    >>> import unitlab
    >>> ds = unitlab.load("vgg_fashion")
    >>> found = unitlab.compare(ds.sel(unit=3), ds.sel(unit=5))
    >>> found.drop_difference.dims
    ('category',)
    """
    check_level(level)
    one, other = (_of_one_unit(ds, side) for ds, side in ((a, "a"), (b, "b")))
    _require_same_images(one, other)
    first, second = PairedImages(one, "compare"), PairedImages(other, "compare")
    flips = np.stack([first.flips(slice(1))[0], second.flips(slice(1))[0]])
    sides = [paired_intervals(_cells(images), level) for images in (first, second)]
    lost = flips > 0
    counts = {"both": lost.all(0), "a": lost[0] & ~lost[1], "b": lost[1] & ~lost[0], "neither": ~lost.any(0)}
    values = {
        "side": np.array(["a", "b"], object),
        "category": one["category"].values,
        "accuracy_drop": np.stack([_class_mean(first, one_side) for one_side in flips]),
        **{name: np.concatenate([side[name] for side in sides]) for name in ("drop_low", "drop_high")},
        "drop_difference": _class_mean(first, flips[0] - flips[1].astype(int)),
        **_paired_difference(one, other, flips, level),
        **{f"n_lost_{name}": _class_sum(first, some).astype(np.int64) for name, some in counts.items()},
        "jaccard": ratio(np.asarray(float(counts["both"].sum())), np.asarray(float(lost.any(0).sum()))),
    }
    return described(PAIR_VARIABLES, values, {"level": level, "a": _pair_name(one), "b": _pair_name(other)})


def _of_one_unit(ds: xr.Dataset, side: str) -> xr.Dataset:
    if not isinstance(ds, xr.Dataset) or "unit" not in ds.variables:
        raise UnitlabError(f"unitlab.compare takes a study with one unit chosen as {side}, such as ds.sel(unit=3)")
    units = np.atleast_1d(ds["unit"].values)
    if len(units) != 1:
        raise UnitlabError(f"{side} has {len(units)} units; choose one, such as ds.sel(unit={int(units[0])})")
    prediction = np.atleast_2d(ds["prediction"].values)
    # what else there is of units is left out: a unit that was chosen by `sel` has no dimension
    kept = ds[[name for name in KEPT if name in ds.variables]].drop_vars("unit", errors="ignore")
    return kept.assign(prediction=(("unit", "image"), prediction)).assign_coords(unit=units)


def _require_same_images(one: xr.Dataset, other: xr.Dataset) -> None:
    for name in SAME:
        if one.attrs.get(name) != other.attrs.get(name) and name in one.attrs and name in other.attrs:
            raise UnitlabError(f"a and b are of other images: {name} differs")
    for name in ("image", "label", "category"):
        if not np.array_equal(one[name].values, other[name].values):
            raise UnitlabError(f"a and b are of other images or classes: {name!r} differs")


def _cells(images: PairedImages) -> Any:
    flips = images.flips(slice(1))
    broken, fixed = (np.stack([_class_sum(images, row)]) for row in (flips[0] > 0, flips[0] < 0))
    return (ClusterCells if images.clustered else ImageCells)(images, broken.astype(np.int64), fixed.astype(np.int64))


def _paired_difference(one: xr.Dataset, other: xr.Dataset, flips: Array, level: float) -> dict[str, Array]:
    """Interval and adjusted p-values of the drop under one less that under the other."""
    if np.array_equal(one["baseline_prediction"].values, other["baseline_prediction"].values):
        # what is right under b and wrong under a counts for a, the other way round for b
        paired = PairedImages(one.assign(baseline_prediction=("image", other["prediction"].values[0])), "compare")
        cells = _cells(paired)
        found, p = paired_intervals(cells, level), exact_tests(cells)["p_value"]
        q = discrete_benjamini_hochberg(p, cells.attainable(np.isfinite(p)))
        return {"difference_low": found["drop_low"][0], "difference_high": found["drop_high"][0], "difference_q": q[0]}
    images = PairedImages(one, "compare")
    difference = (flips[0] - flips[1].astype(int)).astype(float)
    mean, n = _class_mean(images, difference), images.n_images
    blocks = np.bincount(images.block_position, minlength=images.n_categories)
    rest = np.add.reduceat(difference - np.nan_to_num(mean)[images.position], images.block_start)
    square = np.bincount(images.block_position, rest**2, images.n_categories)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(blocks > 1, np.sqrt(square * blocks / np.maximum(blocks - 1, 1)) / n, np.nan)
    half = student_quantile((1 + level) / 2, np.maximum(blocks - 1, 1)) * error
    return {"difference_low": mean - half, "difference_high": mean + half, "difference_q": np.full(len(mean), np.nan)}


def _class_sum(images: PairedImages, values: Array) -> Array:
    return np.bincount(images.position, values, images.n_categories)


def _class_mean(images: PairedImages, values: Array) -> Array:
    return ratio(_class_sum(images, values), images.n_images.astype(float))


def _pair_name(ds: xr.Dataset) -> str:
    parts = [str(ds.attrs[name]) for name in ("name", "layer", "ablation") if ds.attrs.get(name)]
    return " ".join([*parts, f"unit {int(ds['unit'].values[0])}"])
