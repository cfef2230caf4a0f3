"""Where the images go that an ablation moves."""

from __future__ import annotations

import numpy as np
import xarray as xr

from unitlab.analysis.requirements import class_positions, require, unit_position
from unitlab.schema import variable_attrs

__all__ = ["confusion"]


def confusion(ds: xr.Dataset, unit: int) -> xr.Dataset:
    """Where the images go whose prediction the ablation of a unit changes.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it.
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

    def counted(chosen: np.ndarray, to: np.ndarray) -> xr.Variable:
        counts = np.bincount(label[chosen] * size + to[chosen], minlength=size * size).reshape(size, size)
        return xr.Variable(("category", "predicted"), counts.astype(np.int32))

    moved = before != after
    found = {
        "n_lost": counted(moved & (before == label), after),
        "n_won": counted(moved & (after == label), before),
        "n_swapped": counted(moved & (before != label) & (after != label), after),
    }
    for name, variable in found.items():
        variable.attrs = variable_attrs(name)
    names = ds["category"].values
    coords = {
        "category": ("category", names, variable_attrs("category")),
        "predicted": ("predicted", names, variable_attrs("predicted")),
    }
    return xr.Dataset(found, coords=coords, attrs={**ds.attrs, "unit": int(unit)})
