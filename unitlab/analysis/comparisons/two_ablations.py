"""Two ablations of the same images beside each other: units, layers, kinds of ablation or networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.damage import ClusterCells, ImageCells, exact_tests, paired_intervals
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import discrete_benjamini_hochberg, student_quantile
from unitlab.analysis.requirements import check_level
from unitlab.analysis.undefined import ratio
from unitlab.errors import UnitlabError
from unitlab.schema import PAIR_VARIABLES, described

Array = np.ndarray[Any, Any]

SAME = ("fingerprint_images", "fingerprint_labels")
NONE = np.array([-1])  # no class is singled out as the worst
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
    sides = [paired_intervals(_cells(images), NONE, level) for images in (first, second)]
    lost = flips > 0
    counts = {"both": lost.all(0), "a": lost[0] & ~lost[1], "b": lost[1] & ~lost[0], "neither": ~lost.any(0)}
    values = {
        "side": np.array(["a", "b"], object),
        "category": one["category"].values,
        "accuracy_drop": np.stack([_class_mean(first, one_side) for one_side in flips]),
        **{name: np.concatenate([side[name] for side in sides]) for name in ("drop_low", "drop_high")},
        "drop_difference": _class_mean(first, flips[0] - flips[1].astype(int)),
        **_difference(one, other, flips, level),
        **{f"n_lost_{name}": _class_sum(first, some).astype(np.int64) for name, some in counts.items()},
        "jaccard": ratio(np.asarray(float(counts["both"].sum())), np.asarray(float(lost.any(0).sum()))),
    }
    return described(PAIR_VARIABLES, values, {"level": level, "a": _name(one), "b": _name(other)})


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


def _difference(one: xr.Dataset, other: xr.Dataset, flips: Array, level: float) -> dict[str, Array]:
    """Interval and adjusted p-values of the drop under one less that under the other."""
    if np.array_equal(one["baseline_prediction"].values, other["baseline_prediction"].values):
        # what is right under b and wrong under a counts for a, the other way round for b
        paired = PairedImages(one.assign(baseline_prediction=("image", other["prediction"].values[0])), "compare")
        cells = _cells(paired)
        found, p = paired_intervals(cells, NONE, level), exact_tests(cells)["p_value"]
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


def _name(ds: xr.Dataset) -> str:
    parts = [str(ds.attrs[name]) for name in ("name", "layer", "ablation") if ds.attrs.get(name)]
    return " ".join([*parts, f"unit {int(ds['unit'].values[0])}"])
