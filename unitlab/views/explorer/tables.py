"""Selected rows as tables, for CSV: units with all their measures, and unit × class cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unitlab.views.explorer.measured_study import MeasuredStudy

if TYPE_CHECKING:
    import pandas as pd


def units_table(study: MeasuredStudy, units: Sequence[int]) -> pd.DataFrame:
    """One row a unit (index ``unit``), one column a measure, in the units of the schema (drops are fractions)."""
    import pandas as pd

    rows = study.measures.isel(unit=[study.position(unit) for unit in units])
    columns = {name: rows[name].values for name in study.variables}
    table = pd.DataFrame(columns, index=pd.Index(np.asarray(units, int), name="unit"))
    if "max_class" in rows:
        table.insert(0, "most_damaged_class", [study.names[k] if k >= 0 else "" for k in rows["max_class"].values])
    return table


def cells_table(study: MeasuredStudy, units: Sequence[int]) -> pd.DataFrame:
    """One row a (unit, class): drop with interval, tests, counts and whatever else the study measures of it."""
    import pandas as pd

    rows = study.measures.isel(unit=[study.position(unit) for unit in units])
    names = [str(name) for name, variable in rows.data_vars.items() if variable.dims == ("unit", "category")]
    index = pd.MultiIndex.from_product([np.asarray(units, int), study.names], names=["unit", "class"])
    table = pd.DataFrame({name: rows[name].values.ravel() for name in names}, index=index)
    table.insert(0, "n_images", np.tile(rows["n_images"].values, len(units)))
    return table
