"""Two ablations of the same images beside each other: of one unit each, or of all units of two studies."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.comparisons.whole_studies import compared_studies, t_by_class
from unitlab.analysis.damage import ClusterCells, ImageCells, exact_tests, paired_intervals
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import discrete_benjamini_hochberg
from unitlab.analysis.requirements import check_level, require
from unitlab.analysis.undefined import ratio
from unitlab.errors import UnitlabError, check_seed
from unitlab.schema import PAIR_VARIABLES, described

Array = np.ndarray[Any, Any]

SAME = ("fingerprint_images", "fingerprint_labels")
NONE = np.array([-1])  # no class is singled out as the worst
NEEDED = ("image", "label", "category", "baseline_prediction", "prediction")
KEPT = ("label", "category", "category_index", "image", "baseline_prediction", "baseline_margin", "cluster")


def compare(a: xr.Dataset, b: xr.Dataset, *, level: float = LEVEL, seed: int = 0, progress: bool = True) -> xr.Dataset:
    """Two ablations on the same images beside each other: two units, or all units of two layers, kinds of ablation or networks.

    Parameters
    ----------
    a, b
        Studies of the same images and labels, or their names or paths: both with all units, or both with one unit chosen,
        such as ``ds.sel(unit=3)``. Layer, kind of ablation and network may differ.
    level
        Coverage of the intervals of drops; those of correlations are 95 %.
    seed
        Of groups and halves.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    xarray.Dataset
        ``accuracy_drop``, ``drop_low``, ``drop_high`` (side, category) of "a" and "b", of all units their mean.
        ``drop_difference`` (category): the drop under a minus that under b, with ``difference_low``, ``difference_high`` from
        the images that both have, and ``difference_q``, adjusted over the classes.

        *Of one unit each*: limits after Bonett and Price (2012) and exact tests where both ablate one network, Student's t over
        clusters and no q where not. Of the images of every class, ``n_lost_both``, ``n_lost_a``, ``n_lost_b`` (by one alone)
        and ``n_lost_neither`` (category); ``jaccard``: those that both lose, of those that either loses, NaN where none is.

        *Of all units*: Student's t over clusters of images. ``mean_drop`` (side, measure), the mean over the units of the
        overall drop and of the cross-fitted max class drop, and ``mean_difference`` (measure), with ``_low``, ``_high`` and
        ``mean_difference_p`` by a jackknife over images. Of the same units of one network (two kinds of ablation)
        ``unit_drop`` (side, unit), the overall drops, and their paired ``unit_difference`` with ``_low``, ``_high`` and
        ``_q``. How alike both sides' drops are (correlated): ``spearman`` and ``pearson`` with ``_low``, ``_high`` and ``_p``,
        over units and over cells (unit, class) where these are the same, and over classes; ``sampling`` says what each interval
        covers: the images of both sides always.

    Raises
    ------
    UnitlabError
        One unit on one side and several on the other; studies of other images, labels or classes: the field is named.

    Notes
    -----
    Where the networks are two, their accuracies differ, and one that is right more often has more to lose: each drop is a share
    of all images of the class. Units of two layers or networks are not paired; `unitlab.match` looks for partners.

    Examples
    --------
    >>> import unitlab
    >>> ds = unitlab.load("vgg_fashion")
    >>> found = unitlab.compare(ds.sel(unit=3), ds.sel(unit=5))
    >>> found.drop_difference.dims
    ('category',)
    >>> layers = unitlab.compare(unitlab.load("alexnet_fashion", "conv3"), "alexnet_fashion", progress=False)
    >>> layers.attrs["a"]
    'alexnet_fashion conv3 zero'
    """
    check_level(level)
    check_seed(seed)
    units = [_units(ds, side) for ds, side in ((a, "a"), (b, "b"))]
    if max(units) > 1:
        for ds, n, side in ((a, units[0], "a"), (b, units[1], "b")):
            if min(units) == 1 and n > 1:
                unit = int(ds["unit"].values[0])
                raise UnitlabError(
                    f"{side} has {n} units and the other side one; choose one, such as ds.sel(unit={unit}), or give all of both"
                )
        _require_same_images(a, b)
        values = compared_studies(a, b, level, seed, progress)
        values |= {"side": np.array(["a", "b"], object), "category": a["category"].values}
        return described(PAIR_VARIABLES, values, {"level": level, "a": _name(a), "b": _name(b), "seed": seed})
    one, other = (_of_one_unit(ds) for ds in (a, b))
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


def _units(ds: xr.Dataset, side: str) -> int:
    """How many units are compared."""
    if not isinstance(ds, xr.Dataset) or "unit" not in ds.variables:
        raise UnitlabError(f"unitlab.compare takes a study as {side}, or one with a unit chosen, such as ds.sel(unit=3)")
    require(ds, ["unit", *NEEDED], "compare")
    return int(np.atleast_1d(ds["unit"].values).size)


def _of_one_unit(ds: xr.Dataset) -> xr.Dataset:
    units = np.atleast_1d(ds["unit"].values)
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
    mean, low, high, _ = t_by_class(PairedImages(one, "compare"), (flips[0] - flips[1].astype(int)).astype(float), level)
    return {"difference_low": low, "difference_high": high, "difference_q": np.full(len(mean), np.nan)}


def _class_sum(images: PairedImages, values: Array) -> Array:
    return np.bincount(images.position, values, images.n_categories)


def _class_mean(images: PairedImages, values: Array) -> Array:
    return ratio(_class_sum(images, values), images.n_images.astype(float))


def _name(ds: xr.Dataset) -> str:
    parts = [str(ds.attrs[name]) for name in ("name", "layer", "ablation") if ds.attrs.get(name)]
    return " ".join([*parts, *([f"unit {int(ds['unit'].values[0])}"] if ds["unit"].size == 1 else [])])
