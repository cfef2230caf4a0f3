"""How well a unit, or a direction, tells one class from all others: measures that make sense for signed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.requirements import class_positions, require
from unitlab.analysis.undefined import leading
from unitlab.schema import described_like

Array = np.ndarray[Any, Any]

UNITS_AT_ONCE = 64


def discrimination(ds: xr.Dataset) -> xr.Dataset:
    """Class d′ and the area under the ROC curve, of units and of directions alike.

    Parameters
    ----------
    ds
        A study of units or, with ``basis=``, of directions, as `unitlab.load` or `unitlab.ablate` give it.

    Returns
    -------
    xarray.Dataset
        Over ``unit, category``: ``class_d_prime`` and ``class_auc`` of the spatial mean activation (for a direction v, of the
        spatial mean of its coordinate), each the larger of what v and −v have: d′ is 0 or more, the area ½ or more. Over
        ``unit``: ``max_class_d_prime``, ``max_class_auc``. NaN for a unit that is constant, and for a class without
        images or without others.

    Raises
    ------
    UnitlabError
        ``ds`` is no study (the message says what it lacks).

    Notes
    -----
    d′ = |μ₁ − μ₀| / √((σ₁² + σ₀²)/2), with the images of the class and all others. Area: Mann–Whitney's U / (n₁·n₀), ties
    counted half.

    Examples
    --------
    >>> import unitlab
    >>> unitlab.discrimination(unitlab.load("vgg_fashion")).class_auc.dims
    ('unit', 'category')
    """
    require(ds, ["category", "unit", "label", "activation_mean"], "discrimination")
    label = class_positions(ds, ds["label"].values)
    shape = (ds.sizes["unit"], ds.sizes["category"])
    d_prime, auc = np.empty(shape), np.empty(shape)
    for start in range(0, shape[0], UNITS_AT_ONCE):
        some = slice(start, start + UNITS_AT_ONCE)
        told = weighted_discrimination(ds["activation_mean"][some].values, label, shape[1], np.ones((len(label), 1)))
        d_prime[some], auc[some] = (found[0] for found in told)
    largest = {"max_class_d_prime": leading(d_prime)[0], "max_class_auc": leading(auc)[0]}
    return described_like(ds, {"class_d_prime": d_prime, "class_auc": auc, **largest}, {})


def weighted_discrimination(values: Array, label: Array, n_categories: int, weights: Array) -> tuple[Array, Array]:
    """Class d′ and area (sample, unit, category) of values (unit, image) where images count ``weights`` (image, sample)."""
    order = np.argsort(label, kind="stable")
    # around the unit's own mean, so that squares keep their digits
    values = values[:, order].astype(np.float64)
    values -= values.mean(1, keepdims=True)
    weights = weights[order].astype(np.float64)
    shape = (n_categories, len(values), weights.shape[1])
    n, sums, squares, above = np.zeros((n_categories, 1, shape[2])), *np.zeros((3, *shape))
    ks, start = np.unique(label[order], return_index=True)
    for k, first, stop in zip(ks, start, [*start[1:], len(label)], strict=True):
        some = slice(first, stop)
        n[k], sums[k], squares[k] = weights[some].sum(0), values[:, some] @ weights[some], values[:, some] ** 2 @ weights[some]
    for unit, row in enumerate(values):
        above[ks, unit] = np.add.reduceat(weights * _weight_below(row, weights), start, axis=0)
    others = n.sum(0) - n
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, rest = sums / n, (sums.sum(0) - sums) / others
        variance = np.maximum(squares / n - mean**2, 0) + np.maximum((squares.sum(0) - squares) / others - rest**2, 0)
        d_prime = np.where(variance > 0, np.abs(mean - rest) / np.sqrt(variance / 2), np.nan)
        # pairs within the class count half, in whatever order they are
        area = (above - n**2 / 2) / (n * others)
    auc = np.maximum(area, 1 - area)
    undefined = (n == 0) | (others == 0) | (np.ptp(values, axis=1) == 0)[:, None]
    return tuple(np.where(undefined, np.nan, found).transpose(2, 1, 0) for found in (d_prime, auc))  # type: ignore[return-value]


def _weight_below(row: Array, weights: Array) -> Array:
    """(image, sample): the weight of the images with smaller values than each, and half of that with the same."""
    order = np.argsort(row, kind="stable")
    new = np.append(True, np.diff(row[order]) != 0)
    start = np.flatnonzero(new)
    tied = np.add.reduceat(weights[order], start, axis=0)
    below = tied.cumsum(0) - tied / 2
    place = np.empty(len(row), np.int64)
    place[order] = new.cumsum() - 1
    return np.asarray(below[place])


def area_under_roc(values: Array, label: Array, n_categories: int) -> Array:
    """(unit, category): area under the ROC curve of values (unit, image) or of their negatives, whichever is larger."""
    return weighted_discrimination(values, label, n_categories, np.ones((len(label), 1)))[1][0]
