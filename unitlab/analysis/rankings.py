"""Orders of units by an attribute or an importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.attributes import attributes
from unitlab.analysis.damage import damage
from unitlab.analysis.discrimination import discrimination
from unitlab.analysis.requirements import require_all_pairs
from unitlab.errors import UnitlabError, nearest_names
from unitlab.schema import VARIABLES
from unitlab.schema.variable import CELL, UNIT

Array = np.ndarray[Any, Any]

LEVELS = ("layer", "attributes", "discrimination", "ablation", "damage")


@dataclass(frozen=True)
class Ranking:
    """One or several orders: ``units`` (order, rank), with a label for each."""

    labels: list[str]
    units: Array

    def of(self, labels: Sequence[str]) -> Ranking:
        """The orders with these labels."""
        return Ranking(list(labels), self.units[[self.labels.index(label) for label in labels]])


def rankable(name: str) -> tuple[str, ...]:
    """Dimensions of a variable that units can be ranked by.

    Raises
    ------
    UnitlabError
        There is none of that name.
    """
    valid = {
        row.name: row.dims
        for row in VARIABLES.values()
        if row.level in LEVELS and row.dims in (UNIT, CELL) and row.kind in "fi" and not row.coordinate
    }
    for other in ("max_class", "max_correlation_class"):
        valid.pop(other)
    if name not in valid:
        raise UnitlabError(f"units cannot be ordered by {name!r}. {nearest_names(name, ['random', *valid])}")
    return valid[name]


def ranking(study: xr.Dataset, name: str, *, ascending: bool = False, category: str | None = None, seed: int = 0) -> Ranking:
    """Units ordered by a variable of `unitlab.attributes`, `unitlab.discrimination` or `unitlab.damage`, largest first.

    Undefined ones come last, equal ones by their number. A variable over classes gives an order for each class that has a
    value, labelled with the class, or for one class alone; another one gives one order, labelled with its name.

    Raises
    ------
    UnitlabError
        No such variable or class, or a study that lacks what it is computed from.
    """
    dims = rankable(name)
    if VARIABLES[name].level in ("ablation", "damage") and name not in ("overall_drop", "removed_energy"):
        require_all_pairs(study, f"an order by {name}")
    if name in ("accuracy_drop", "overall_drop") and name in study:
        found = study
    elif VARIABLES[name].level == "discrimination":
        found = discrimination(study)
    elif VARIABLES[name].level in ("layer", "attributes"):
        found = attributes(study)
    else:
        found = damage(study, seed=seed)
    if name not in found:
        raise UnitlabError(f"the study holds no {name!r}; compute one that does with unitlab.ablate(model, images, layer)")
    values = found[name].values.astype(float)
    units, classes = study["unit"].values, [str(label) for label in study["category"].values]
    if dims == UNIT:
        return Ranking([name], _ordered(values, ascending, units)[None])
    if category is not None:
        if category not in classes:
            raise UnitlabError(f"the study has no class {category!r}. {nearest_names(category, classes)}")
        return Ranking([category], _ordered(values[:, classes.index(category)], ascending, units)[None])
    some = np.flatnonzero(np.isfinite(values).any(0))
    orders = [_ordered(values[:, k], ascending, units) for k in some]
    return Ranking([classes[k] for k in some], np.array(orders, dtype=int).reshape(len(some), len(units)))


def _ordered(values: Array, ascending: bool, units: Array) -> Array:
    key = np.where(np.isnan(values), np.inf, values if ascending else -values)
    return units[np.argsort(key, kind="stable")]
