"""The units that a class depends on: what it loses without each, how sure that is, and whether the unit prefers the class."""

from __future__ import annotations

import numpy as np
import scipy
import xarray as xr

from unitlab.analysis import ALPHA
from unitlab.analysis.correlations import measures
from unitlab.analysis.damage import LEAST_CHANGED, enough_images
from unitlab.analysis.requirements import category_position, require
from unitlab.errors import UnitlabError, units_in_ranges
from unitlab.schema import described_like

OF_MEASURES = (
    "accuracy_drop", "drop_low", "drop_high", "p_value", "q_value", "damaged", "n_changed", "n_broken", "n_fixed",
    "margin_drop", "margin_drop_low", "margin_drop_high", "margin_q_value", "margin_specific", "margin_specific_low",
    "margin_specific_high", "margin_specific_q_value", "class_selectivity_by_class",
)  # fmt: skip
OF_OUTCOMES = ("class_outcome_drop", "class_outcome_drop_low", "class_outcome_drop_high", "outcome_q_value")


def units_of(ds: xr.Dataset, category: str | int, *, progress: bool = True) -> xr.Dataset:
    """The units that a class depends on: the most damaging first, those without which it does better last.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    category
        The class, by its name or number (``category_index``).
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    xarray.Dataset
        Over ``unit``, sorted by ``accuracy_drop`` (a fraction of the images of the class, positive = damage), equal ones by
        ``margin_drop``: ``drop_low`` and ``drop_high``, ``p_value``, ``q_value`` (over all cells of the study), ``damaged`` and
        ``helped`` (q ≤ 0.05, drop above or below zero), ``n_broken``, ``n_fixed``, ``n_changed``; ``margin_drop`` and
        ``margin_specific`` (logits) with ``_low``, ``_high`` and their q, ``margin_q_value`` and ``margin_specific_q_value``;
        ``class_selectivity_by_class``, ``selectivity_rank`` (1: the class that the unit prefers) and ``selective``; of a study
        with an outcome ``class_outcome_drop`` with ``_low``, ``_high`` and ``outcome_q_value``. Attributes: ``finding``, the
        units that damage and help the class, in words; ``tested``, for how many of them that can be told, with what would help
        where these are few.

    Raises
    ------
    UnitlabError
        ``ds`` is no study, it has no such class (the nearest names are suggested), or no image of it.

    Notes
    -----
    The intervals are of each unit by itself; the largest of many drops is biased upward. A class that was chosen because a
    unit damages it most is judged by ``max_class_drop_crossfit`` of `unitlab.damage`.

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.units_of("vgg_fashion", "Sandal")
    >>> bool((found.accuracy_drop.diff("unit") <= 0).all())
    True
    """
    require(ds, ["unit", "category"], "units_of")
    place = category_position(ds, category)
    name = str(ds["category"].values[place])
    known = measures(ds, progress=progress)
    if not int(known["n_images"][place]):
        raise UnitlabError(f"the study has no image of {name!r}, so nothing of this class was measured")
    selectivity = known["class_selectivity_by_class"].values
    some = np.isfinite(selectivity)
    rank = np.where(some, scipy.stats.rankdata(np.where(some, -selectivity, np.inf), method="min", axis=1), 0).astype(np.int32)
    values = {
        **{name: known[name].values for name in (*OF_MEASURES, *OF_OUTCOMES) if name in known},
        "helped": (known["q_value"].values <= ALPHA) & (known["accuracy_drop"].values < 0),
        "selectivity_rank": rank,
        "selective": rank == 1,
    }
    found = described_like(known, values, {}).isel(category=place)
    margin = np.nan_to_num(found["margin_drop"].values, nan=-np.inf)
    found = found.isel(unit=np.lexsort((-margin, -found["accuracy_drop"].values)))
    can = int((found["n_changed"] >= LEAST_CHANGED).sum())
    observations = "clusters of images" if "cluster" in ds else "images"
    found.attrs |= {
        "n_tested": can,
        "n_cells": found.sizes["unit"],
        "tested": enough_images(can, found.sizes["unit"], cells="units", observations=observations),
        "finding": _finding(found, name),
    }
    return found


def _finding(found: xr.Dataset, name: str) -> str:
    """Which units the class depends on, in words."""

    def of(some: xr.DataArray) -> str:
        units = found["unit"].values[some.values]
        return f"{count(len(units))} ({units_in_ranges(units)})" if len(units) else "none"

    def count(n: int) -> str:
        return f"{n} unit{'' if n == 1 else 's'}"

    own = (found["margin_specific_q_value"] <= ALPHA) & (found["margin_specific"] > 0)
    both = found["damaged"] & found["selective"]
    return (
        f"Of {found.sizes['unit']:,} units, {name!r} loses accuracy without {of(found['damaged'])} and wins without "
        f"{of(found['helped'])} (q ≤ {ALPHA:g}); it loses margin of its own without {of(own)}. Selective for it, of all units: "
        f"{of(found['selective'])}; of those that damage it: {of(both)}."
    )
