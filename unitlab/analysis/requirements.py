"""What an analysis needs of a dataset: variables, classes, units; refused with the call that gives what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import shorten
from typing import Any

import numpy as np
import xarray as xr

from unitlab.errors import UnitlabError, nearest_names, units_in_ranges

# what of a screened study is not that of all pairs
OF_ALL_PAIRS = {
    "prediction", "label_margin_drop", "n_broken", "n_fixed", "n_predicted", "accuracy_drop", "overall_drop",
}  # fmt: skip


def is_screened(ds: xr.Dataset) -> bool:
    """Whether pairs (unit, image) were left out (`unitlab.ablate` with ``screen``)."""
    return "evaluated" in ds.variables or "screen_evaluated_share" in ds.attrs


def require_all_pairs(ds: xr.Dataset, what: str) -> None:
    """Refuse a study of which pairs were left out."""
    if is_screened(ds):
        share = float(ds.attrs.get("screen_evaluated_share", np.nan))
        raise UnitlabError(
            f"{what} needs every pair (unit, image), and this study is screened: {share:.1%} of them were evaluated. "
            "ds.overall_drop with ds.overall_drop_error, unitlab.damage, unitlab.attributes, unitlab.discrimination, "
            "unitlab.plots.images and unitlab.verify take it; unitlab.ablate without screen= gives one of every pair"
        )


def require(ds: xr.Dataset, names: Iterable[str], what: str, *, screened: bool = False) -> None:
    """Refuse a dataset that lacks a variable, or in which one is not of all pairs, unless ``screened`` ones will do."""
    if not isinstance(ds, xr.Dataset):
        raise UnitlabError(f"{what} takes a study (xarray.Dataset); given: {type(ds).__name__}. unitlab.load(name) opens one")
    names = list(names)
    if "group" in ds.dims or "curve_prediction" in ds.variables:
        raise UnitlabError(
            f"{what} takes a study of single units, and these are curves"
            if "curve_prediction" in ds.variables
            else f"{what} takes a study of single units, and these are groups of units; where they have numbers and no names, "
            'ds.drop_dims("unit").rename(group="unit") makes units of them'
        )
    missing = [name for name in names if name not in ds.variables]
    if missing:
        raise UnitlabError(
            f"{what} needs {', '.join(map(repr, missing))}, which this dataset lacks; "
            "unitlab.load(name) and unitlab.ablate(model, images, layer) give datasets with them"
        )
    empty = [name for name in ("unit", "category", "image") if ds.sizes.get(name) == 0]
    if empty:
        raise UnitlabError(f"{what} needs one {empty[0]} or more; this dataset has none")
    if not screened and OF_ALL_PAIRS & set(names):
        require_all_pairs(ds, what)


def require_all_images(ds: xr.Dataset, n_images: np.ndarray[Any, Any], what: str) -> None:
    """Refuse a study of which images were left out: its counts and means are still of all."""
    if "n_images" in ds and not np.array_equal(n_images, ds["n_images"].values):
        raise UnitlabError(
            f"{what} needs all images of the study: it counts {int(ds['n_images'].sum())}, and {int(n_images.sum())} are "
            "here, or they have other labels. Units may be left out, ds.sel(unit=...), images not; compute a study of these"
        )


def class_positions(ds: xr.Dataset, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Positions along ``category`` of the class indices that label and prediction hold."""
    known = ds["category_index"].values if "category_index" in ds.variables else np.arange(ds.sizes["category"])
    order = np.argsort(known)
    place = np.clip(np.searchsorted(known, index, sorter=order), 0, len(known) - 1)
    position = order[place]
    if not np.array_equal(known[position], index):
        raise UnitlabError(
            "a label or prediction is no class of this dataset: give the study with all its classes (units may be left out, "
            "ds.sel(unit=...), classes not); where nothing was left out, compute the study again"
        )
    return position


def unit_position(ds: xr.Dataset, unit: int) -> int:
    """Position along ``unit`` of the unit with this number."""
    units = ds["unit"].values
    if isinstance(unit, bool) or not isinstance(unit, int | np.integer):
        raise UnitlabError(f"a unit is given by its number; given: {unit!r}")
    found = np.flatnonzero(units == unit)
    if len(found) == 0:
        raise UnitlabError(
            f"the study has no unit {unit}; it has {len(units)}: {shorten(units_in_ranges(units), 60, placeholder=' …')}"
        )
    return int(found[0])


def category_position(ds: xr.Dataset, category: str | int) -> int:
    """Position along ``category`` of the class with this name, or with this number (``category_index``)."""
    names = [str(name) for name in ds["category"].values]
    if isinstance(category, str):
        if category not in names:
            raise UnitlabError(f"the study has no class {category!r}. {nearest_names(category, names)}")
        return names.index(category)
    if isinstance(category, bool) or not isinstance(category, int | np.integer):
        raise UnitlabError(f"a class is given by its name or number; given: {category!r}")
    known = ds["category_index"].values if "category_index" in ds.variables else np.arange(len(names))
    found = np.flatnonzero(known == category)
    if len(found) == 0:
        raise UnitlabError(
            f"the study has no class number {category}; its {len(names)} are "
            f"{shorten(units_in_ranges(known), 60, placeholder=' …')}"
        )
    return int(found[0])


def check_level(level: float) -> None:
    """Refuse a coverage that is none."""
    if isinstance(level, bool) or not isinstance(level, int | float | np.floating) or not 0 < level < 1:
        raise UnitlabError(f"level is {level!r}; expected a number between 0 and 1, for example 0.95")


def check_n_boot(n_boot: int) -> None:
    """Refuse a number of bootstrap samples that is none, or too small for an interval."""
    if isinstance(n_boot, bool) or not isinstance(n_boot, int | np.integer) or n_boot < 100:
        raise UnitlabError(f"n_boot is {n_boot!r}; expected a whole number, 100 or more")


def units_in(text: str, what: str) -> list[int]:
    """Units in "3,5,10-20", in that order; ``what`` names the text in the error.

    Raises
    ------
    UnitlabError
        The text is no list of units.
    """
    units: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise UnitlabError(f"{what} {text!r} is not a list of units; give something like 3,5,10-20")
        units += range(int(first), int(last if dash else first) + 1)
    return units
