"""How well a unit, or a direction, tells one class from all others: measures that make sense for signed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitlab.analysis.requirements import class_positions, require
from unitlab.analysis.undefined import leading, ratio
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
    n_categories = ds.sizes["category"]
    inside = np.eye(n_categories)[label]
    n = inside.sum(0)
    others = len(label) - n
    shape = (ds.sizes["unit"], n_categories)
    d_prime, auc = np.full(shape, np.nan), np.full(shape, np.nan)
    for start in range(0, shape[0], UNITS_AT_ONCE):
        some = slice(start, start + UNITS_AT_ONCE)
        values = ds["activation_mean"][some].values.astype(np.float64)
        constant = np.ptp(values, axis=1) == 0
        # around the unit's own mean, so that squares keep their digits
        values = values - values.mean(1, keepdims=True)
        total, square = values.sum(1, keepdims=True), (values**2).sum(1, keepdims=True)
        sums, squares = values @ inside, values**2 @ inside
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, rest = sums / n, (total - sums) / others
            variance = np.maximum(squares / n - mean**2, 0) + np.maximum((square - squares) / others - rest**2, 0)
            d_prime[some] = np.where(variance > 0, np.abs(mean - rest) / np.sqrt(variance / 2), np.nan)
        d_prime[some][constant] = np.nan
        auc[some] = area_under_roc(values, label, n_categories)
    d_prime[:, (n == 0) | (others == 0)] = np.nan
    largest = {"max_class_d_prime": leading(d_prime)[0], "max_class_auc": leading(auc)[0]}
    return described_like(ds, {"class_d_prime": d_prime, "class_auc": auc, **largest}, {})


def area_under_roc(values: Array, label: Array, n_categories: int) -> Array:
    """(unit, category): area under the ROC curve of values (unit, image) or of their negatives, whichever is larger."""
    inside = np.eye(n_categories)[label]
    n = inside.sum(0)
    ranks = pd.DataFrame(values.T).rank().to_numpy().T @ inside
    area = ratio(ranks - n * (n + 1) / 2, n * (len(label) - n))
    return np.where((np.ptp(values, axis=1) == 0)[:, None], np.nan, np.maximum(area, 1 - area))
