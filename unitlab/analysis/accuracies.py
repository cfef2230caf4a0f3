"""What follows from predictions alone: counts by class, balanced accuracy, intervals that respect clusters; curves of
accuracy over silenced units, and Shapley values from them; where the images go that one ablation moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.paired_tests import student_quantile
from unitlab.analysis.requirements import class_positions, require, unit_position
from unitlab.analysis.undefined import ratio
from unitlab.errors import UnitlabError
from unitlab.schema import SHAPLEY_VARIABLES, VARIABLES, described

Array = np.ndarray[Any, Any]


def class_counts(label: Array, prediction: Array, n_categories: int) -> tuple[Array, Array]:
    """Images of each class that are right, and images predicted as it, (…, category), from ``prediction`` (…, image)."""
    rows = prediction.reshape(-1, len(label))
    right, predicted = (np.empty((len(rows), n_categories), np.int32) for _ in range(2))
    for place, row in enumerate(rows):
        right[place] = np.bincount(label[row == label], minlength=n_categories)
        predicted[place] = np.bincount(row, minlength=n_categories)
    shape = (*prediction.shape[:-1], n_categories)
    return right.reshape(shape), predicted.reshape(shape)


def balanced_accuracy(right: Array, predicted: Array, n_images: Array, *, lost: bool = False) -> Array:
    """(Recall + true negative rate)/2 of each class against all others, from counts (…, category); NaN where undefined.

    With ``lost``, the counts are what an ablation took away, and so is the accuracy.
    """
    others = n_images.sum() - n_images
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (right / n_images + (not lost) - (predicted - right) / others) / 2
    return np.where((n_images > 0) & (others > 0), found, np.nan)


def accuracy_interval(right: Array, cluster: Array | None, level: float = LEVEL) -> tuple[Array, Array]:
    """Limits of the share of true entries along the last axis, (…, image) → (…).

    Wilson (1927); where images come in clusters (``cluster``, numbers), with the number of images divided by the design
    effect, and Student's t over clusters.
    """
    n = right.shape[-1]
    share = right.mean(-1)
    effective, z = np.full(share.shape, float(n)), NormalDist().inv_cdf((1 + level) / 2)
    if cluster is not None and len(np.unique(cluster)) < n:
        number = np.unique(cluster, return_inverse=True)[1]
        size = np.bincount(number)
        rows = right.reshape(-1, n)
        sums = np.stack([np.bincount(number, row, minlength=len(size)) for row in rows]).reshape(*share.shape, len(size))
        spread = np.square(sums - share[..., None] * size).sum(-1) * len(size) / max(len(size) - 1, 1)
        effect = np.where((share > 0) & (share < 1), ratio(spread, n * share * (1 - share)), size.max())
        effective, z = n / np.maximum(effect, 1), float(student_quantile((1 + level) / 2, max(len(size) - 1, 1)))
    centre = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def accuracy_curves(root: Mapping[str, Any], prediction: Array, *, own: bool, names: Sequence[str] = ()) -> dict[str, Array]:
    """Variables of `unitlab.schema.CURVE_VARIABLES` from predictions (order, k, image).

    ``root`` holds ``label``, ``n_images``, ``category`` and perhaps ``cluster``. With ``own``, the orders are those of the
    classes ``names``, and each class is told under its own.
    """
    label, n = np.asarray(root["label"], np.int64), np.asarray(root["n_images"])
    right, predicted = class_counts(label, prediction, len(n))
    balanced, by_class = balanced_accuracy(right, predicted, n), ratio(right, n)
    limits = [accuracy_interval(rows == label, root.get("cluster")) for rows in prediction]
    defined = np.isfinite(balanced[0, 0])
    values = {
        "accuracy": right.sum(-1) / len(label),
        "accuracy_low": np.stack([low for low, _ in limits]),
        "accuracy_high": np.stack([high for _, high in limits]),
        "mean_balanced_accuracy": balanced[..., defined].mean(-1) if defined.any() else np.full(prediction.shape[:2], np.nan),
        "class_accuracy": by_class.astype(np.float32),
        "balanced_accuracy": balanced.astype(np.float32),
    }
    if own:
        classes = [str(name) for name in root["category"]]
        place, at = np.arange(len(names)), [classes.index(name) for name in names]
        values["own_accuracy"], values["own_balanced_accuracy"] = by_class[place, :, at], balanced[place, :, at]
    return values


def shapley(curves: xr.Dataset) -> xr.Dataset:
    """What each unit costs when it joins those that are silenced already, averaged over random orders (Shapley 1953).

    Parameters
    ----------
    curves
        What ``unitlab.cumulative(model, images, layer, "random", n_random=…, ks=range(channels + 1))`` gives: every number of
        units of every order. 200 orders or more tell most units apart; the errors say whether they are enough.

    Returns
    -------
    xarray.Dataset
        Over ``unit``: ``shapley_drop`` (fraction of all images) and its standard error over the orders alone,
        ``shapley_drop_error``: the images are held as they are. Over ``unit, category``: ``class_shapley_drop`` with
        ``class_shapley_drop_error``. The values of all units sum to the accuracy that all of them together cost.

    Raises
    ------
    UnitlabError
        Curves over other orders than random ones, over one order, or not over every number of units.

    Notes
    -----
    Shapley, Contributions to the Theory of Games II (1953), with the sampling of Castro, Gómez and Tejada, Comput. Oper. Res.
    36 (2009).

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.compute.networks import bundled_network
    >>> few = unitlab.images("fashion_mnist").subset(range(40))
    >>> options = {"n_random": 2, "ks": range(65), "progress": False}
    >>> curves = unitlab.cumulative(bundled_network("vgg_fashion"), few, "conv3_2", "random", **options)
    >>> found = unitlab.shapley(curves)
    >>> bool(abs(found.shapley_drop.sum() - (curves.accuracy[0, 0] - curves.accuracy[0, -1])) < 1e-9)
    True
    """
    if not isinstance(curves, xr.Dataset) or "ranked_unit" not in curves or curves.attrs.get("order") != "random":
        raise UnitlabError('shapley takes curves over random orders: unitlab.cumulative(model, images, layer, "random", ks=…)')
    order = curves["ranked_unit"].values[0]
    n_orders, channels = order.shape
    if n_orders < 2 or not np.array_equal(curves["k"].values, np.arange(channels + 1)):
        raise UnitlabError(
            "shapley takes two orders or more and every number of units: give unitlab.cumulative n_random=200 and "
            f"ks=range({channels + 1})"
        )
    # with keep, accuracy rises as units join those that are kept
    sign = 1 if curves.attrs.get("keep") else -1
    place = np.argsort(order, axis=1)
    values = {"unit": np.arange(channels, dtype=np.int32), "category": curves["category"].values}
    for name, accuracy in (("shapley_drop", "accuracy"), ("class_shapley_drop", "class_accuracy")):
        joining = sign * np.diff(curves[accuracy].values.astype(float), axis=1)
        of_unit = np.take_along_axis(joining, place if joining.ndim == 2 else place[..., None], axis=1)
        values |= {name: of_unit.mean(0), f"{name}_error": of_unit.std(0, ddof=1) / np.sqrt(n_orders)}
    return described(SHAPLEY_VARIABLES, values, {**curves.attrs, "n_orders": n_orders})


def confusion(ds: xr.Dataset, unit: int) -> xr.Dataset:
    """Where the images go whose prediction the ablation of a unit changes.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    unit
        Number of the unit (a value of the coordinate ``unit``).

    Returns
    -------
    xarray.Dataset
        Numbers of images over ``category`` (the images' class) and ``predicted``: ``n_lost`` (right before, now predicted
        as that class), ``n_won`` (right now, before predicted as that class), ``n_swapped`` (wrong before, now predicted as
        that other wrong class). The attribute ``unit``.

    Raises
    ------
    UnitlabError
        ``ds`` is no study, or has no such unit.

    Examples
    --------
    >>> import unitlab
    >>> moved = unitlab.confusion(unitlab.load("vgg_fashion"), 3)
    >>> moved.n_lost.dims
    ('category', 'predicted')
    """
    require(ds, ["unit", "category", "label", "baseline_prediction", "prediction"], "confusion")
    place = unit_position(ds, unit)
    label = class_positions(ds, ds["label"].values)
    before = class_positions(ds, ds["baseline_prediction"].values)
    after = class_positions(ds, ds["prediction"][place].values)
    size = ds.sizes["category"]

    def counted(chosen: Array, to: Array) -> Array:
        pairs = np.bincount(label[chosen] * size + to[chosen], minlength=size * size)
        return pairs.reshape(size, size).astype(np.int32)

    moved, names = before != after, ds["category"].values
    values = {
        "category": names,
        "predicted": names,
        "n_lost": counted(moved & (before == label), after),
        "n_won": counted(moved & (after == label), before),
        "n_swapped": counted(moved & (before != label) & (after != label), after),
    }
    return described(VARIABLES, values, {**ds.attrs, "unit": int(unit)})
