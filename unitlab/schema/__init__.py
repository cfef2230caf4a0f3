"""The one table of every variable of a study: name, level, dimensions, dtype, unit and definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from unitlab.errors import UnitlabError
from unitlab.schema.comparisons import COMPARISON, PAIR, PARTNERS, PARTNERS_OF_SEEDS
from unitlab.schema.concepts import CONCEPTS, DISSECTION
from unitlab.schema.outcomes import INTERACTION, OUTCOMES, SHAPLEY
from unitlab.schema.results import ATTRIBUTES, CURVES, DAMAGE, GROUPS, VARIANCE
from unitlab.schema.stored import ABLATION, LAYER, STUDY
from unitlab.schema.training import MEMORISING, TRAINING
from unitlab.schema.variable import Variable

__all__ = [
    "COMPARISON_VARIABLES", "CURVE_VARIABLES", "DISSECTION_VARIABLES", "GROUP_VARIABLES", "INTERACTION_VARIABLES",
    "MEMORISING_VARIABLES", "PAIR_VARIABLES", "PARTNER_VARIABLES", "RESULTS", "SCHEMA_VERSION", "SEED_PARTNER_VARIABLES",
    "SHAPLEY_VARIABLES", "TRAINING_VARIABLES", "VARIABLES", "Variable", "check", "describe", "described", "described_like",
    "variable_attrs",
]  # fmt: skip

SCHEMA_VERSION = 1


def _by_name(*rows: Variable) -> dict[str, Variable]:
    return {row.name: row for row in rows}


VARIABLES = _by_name(*STUDY, *LAYER, *ABLATION, *DAMAGE, *OUTCOMES, *ATTRIBUTES, *CONCEPTS, *VARIANCE)
# results whose dimensions are other than a study's have tables of their own
GROUP_VARIABLES, CURVE_VARIABLES = _by_name(*GROUPS), _by_name(*CURVES)
COMPARISON_VARIABLES, PAIR_VARIABLES, TRAINING_VARIABLES = _by_name(*COMPARISON), _by_name(*PAIR), _by_name(*TRAINING)
PARTNER_VARIABLES, MEMORISING_VARIABLES = _by_name(*PARTNERS), _by_name(*MEMORISING)
SEED_PARTNER_VARIABLES = _by_name(*PARTNERS_OF_SEEDS)
INTERACTION_VARIABLES, SHAPLEY_VARIABLES = _by_name(*INTERACTION), _by_name(*SHAPLEY)
RESULTS = {"groups": GROUP_VARIABLES, "curves": CURVE_VARIABLES}  # kept in a store beside studies
DISSECTION_VARIABLES = {name: VARIABLES[name] for name in ("unit", *DISSECTION)}


def variable_attrs(name: str) -> dict[str, str]:
    """``long_name``, ``units`` and ``comment`` of a variable, as they go onto arrays."""
    return VARIABLES[name].attrs


def described(table: Mapping[str, Variable], values: Mapping[str, Any], attrs: Mapping[str, Any]) -> xr.Dataset:
    """Dataset of ``values``, with the dimensions and attributes that ``table`` gives each; every value must be in it."""
    names = [name for name in table if name in values]
    assert len(names) == len(values), sorted(set(values) - set(names))
    # not asked whether they are arrays of dask, which xarray would import for it
    about = ((name, table[name].dims, np.asarray(values[name]), table[name].attrs) for name in names)
    variables = {name: xr.Variable(dims, array, attrs, fastpath=True) for name, dims, array, attrs in about}
    coords = {name: variables.pop(name) for name in names if table[name].coordinate}
    return xr.Dataset(variables, coords=coords, attrs=dict(attrs))


def described_like(ds: xr.Dataset, values: Mapping[str, Any], attrs: Mapping[str, Any]) -> xr.Dataset:
    """Dataset of ``values`` about the units and classes of a study ``ds``, whose attributes it has beside ``attrs``."""
    found = described(VARIABLES, values, {**ds.attrs, **attrs})
    return found.assign_coords({name: ds[name] for name in ("unit", "category", "category_index") if name in ds.variables})


def describe(ds: xr.Dataset) -> xr.Dataset:
    """Copy of ``ds`` whose variables carry the attributes of this table (dimension names are not changed)."""
    out = ds.copy()
    for name in out.variables:
        if name in VARIABLES:
            out[name].attrs = {**variable_attrs(str(name)), **out[name].attrs}
    return out


def check(arrays: Mapping[str, Any], level: str, *, dims: Mapping[str, int], where: str) -> None:
    """Refuse arrays that are not what a group of this level holds.

    Parameters
    ----------
    arrays
        Name → anything with ``shape`` and ``dtype``.
    level
        ``"study"``, ``"layer"`` or ``"ablation"``.
    dims
        Dimension name → size, where known (it is extended as the arrays are read).
    where
        What is being checked, for the message.

    Raises
    ------
    UnitlabError
        A required variable is missing, a variable is unknown, or one has the wrong shape or dtype.
    """
    sizes = dict(dims)
    for row in VARIABLES.values():
        if row.level == level and row.required and row.name not in arrays:
            raise UnitlabError(f"{where} lacks the variable '{row.name}' ({row.comment})")
    for name, array in arrays.items():
        levels = (level, "layer") if level == "ablation" and "basis" in arrays else (level,)
        if name not in VARIABLES or (VARIABLES[name].level not in levels and not VARIABLES[name].coordinate):
            raise UnitlabError(f"{where} holds '{name}', which the schema does not know at the level '{level}'")
        row = VARIABLES[name]
        if len(array.shape) != len(row.dims):
            raise UnitlabError(f"{where}: '{name}' has shape {tuple(array.shape)}, expected {row.dims}")
        for dim, size in zip(row.dims, array.shape, strict=True):
            if sizes.setdefault(dim, int(size)) != size:
                raise UnitlabError(f"{where}: '{name}' has {size} along '{dim}', expected {sizes[dim]}")
        kind = np.dtype(array.dtype).kind
        if kind not in {"T": "TOU"}.get(row.kind, row.kind):
            raise UnitlabError(f"{where}: '{name}' has dtype {array.dtype}, expected kind '{row.kind}'")
