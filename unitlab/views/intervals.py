"""Estimates with their intervals, row by row: correlations, coefficients, differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from unitlab.analysis import ALPHA
from unitlab.analysis.correlations import KINDS
from unitlab.errors import UnitlabError, nearest_names
from unitlab.views.legend import legend_entry
from unitlab.views.look import FIGURE, GREY, LEGEND_ABOVE, SERIES
from unitlab.views.words import distinct, quantity, shortened

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle")
ROW, ROW_OF_SEVERAL, LEAST_HEIGHT = 26, 17, 280  # pixels


def intervals(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame],
    value: str = "value",
    low: str = "low",
    high: str = "high",
    *,
    filled: str | None = None,
    xlabel: str = "",
) -> hv.Overlay:
    """A dot and a line for every row of a table, or of several tables side by side.

    Parameters
    ----------
    tables
        A table whose index names the rows, from the top down, or several under the labels of the legend; rows of the same
        name share a line. Variables of the schema are shown by their label.
    value, low, high
        Columns: the estimate and the ends of its interval. A row without an estimate is left blank.
    filled
        Column of booleans: dots are filled where it holds, and the axis says so, and hollow elsewhere; default all filled.
    xlabel
        What the estimates are, with their unit.

    Returns
    -------
    holoviews.Overlay
        Tables differ in colour and in marker; a line stands at zero.

    Raises
    ------
    UnitlabError
        No table or no row, a column that is not there, rows of the same name in one table.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> found = unitlab.regression(unitlab.load("vgg_fashion"), "overall_drop", ["l1_norm", "mean_activation"])
    >>> columns = ["coefficient", "coefficient_low", "coefficient_high"]
    >>> figure = plots.intervals(found.set_index("attribute"), *columns, xlabel="standard deviations")
    """
    named = {"": tables} if isinstance(tables, pd.DataFrame) else dict(tables) if isinstance(tables, Mapping) else {}
    if not isinstance(tables, pd.DataFrame | Mapping) or not all(isinstance(table, pd.DataFrame) for table in named.values()):
        raise UnitlabError(
            f"plots.intervals takes a table (pandas.DataFrame) of estimates, or several by label; given: "
            f"{type(tables).__name__}. unitlab.correlations and unitlab.regression give such "
            "tables, ds[['overall_drop', …]].to_dataframe() makes one"
        )
    rows = list(dict.fromkeys(row for table in named.values() for row in table.index))
    if not rows:
        raise UnitlabError("there is nothing to plot; give a table with a row for every estimate")
    for label, table in named.items():
        _check(label, table, [value, low, high, *([filled] if filled else [])])
    position = {row: float(len(rows) - 1 - place) for place, row in enumerate(rows)}
    beside = np.linspace(0.3, -0.3, len(named)) if len(named) > 1 else np.zeros(1)
    across, up = hv.Dimension("estimate", label=xlabel or value), hv.Dimension("row")
    mixed = filled is not None and len(named) > 1  # filled and hollow dots under one entry of the legend
    layers: list[Any] = [hv.VLine(0).opts(color=GREY, line_width=1)]
    for place, (label, table) in enumerate(named.items()):
        colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
        known = table[table[value].notna()]
        at = [position[row] + beside[place] for row in known.index]
        ends = hv.Segments(list(zip(known[low], at, known[high], at, strict=True)), [across, up, "high", "row2"])
        fill = np.where(known[filled].astype(bool), 0.9, 0.0) if filled else np.full(len(known), 0.9)
        columns = (known[value], at, map(_label, known.index), known[low], known[high], fill)
        extra = [hv.Dimension("name", label="of"), "low", "high", "fill"]
        dots = hv.Points(list(zip(*columns, strict=True)), [across, up], extra, label="" if mixed else label)
        style = {"color": colour, "line_color": colour, "marker": marker}
        dots = dots.opts(fill_alpha=hv.dim("fill"), line_width=1.5, size=8, tools=["hover"], **style)
        layers += [ends.opts(color=colour, line_width=1.5), dots]
        layers += [legend_entry([across, up], label, fill_alpha=0.9, **style)] if mixed else []
    xlabel = (xlabel or value) + (f"; filled: {filled}" if filled else "")
    labels = distinct(shortened(_label(row), 46) for row in rows)
    height = max(LEAST_HEIGHT, 110 + len(rows) * max(ROW, ROW_OF_SEVERAL * len(named)))
    ticks = list(zip(position.values(), labels, strict=True))
    return hv.Overlay(layers).opts(
        width=700, height=height, xlabel=xlabel, ylabel="", yticks=ticks, ylim=(-0.6, len(rows) - 0.4),
        show_grid=True, show_legend=len(named) > 1, padding=0.05, **LEGEND_ABOVE, **FIGURE,
    )  # fmt: skip


def _check(label: str, table: pd.DataFrame, columns: list[str]) -> None:
    for column in columns:
        if column not in table:
            near = nearest_names(column, map(str, table.columns))
            raise UnitlabError(f"the table {label!r} has no column {column!r}. {near}")
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise UnitlabError(f"the table {label!r} has the row {twice!r} twice; name every row once")


def _label(row: Any) -> str:
    """What a row is called: a variable by its label, a row of several levels by all of them."""
    return ", ".join(quantity(str(part)).label for part in (row if isinstance(row, tuple) else (row,)))


def correlations(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame], y: str = "max_class_drop_crossfit", *, kind: str = "spearman"
) -> hv.Overlay:
    """How every attribute of the units correlates with an importance: coefficients with 95 % intervals over units and images.

    Filled where q ≤ 0.05 within the table, hollow elsewhere.

    Parameters
    ----------
    tables
        What `unitlab.correlations` gives, or several of it under the labels of the legend.
    y
        The importance.
    kind
        "spearman" or "pearson".

    Returns
    -------
    holoviews.Overlay
        Attributes from the top down by their coefficient in the first table.

    Raises
    ------
    UnitlabError
        Another table, an importance that it does not have, another kind.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.correlations(unitlab.correlations(unitlab.load("vgg_fashion")), "overall_drop")
    """
    if kind not in KINDS:
        raise UnitlabError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    named = {"": tables} if isinstance(tables, pd.DataFrame) else dict(tables)
    shown, sure = {}, f"q ≤ {ALPHA:g}"
    for label, table in named.items():
        if not isinstance(table, pd.DataFrame) or not {"x", "y", kind, f"{kind}_q"} <= set(table.columns):
            raise UnitlabError("plots.correlations takes tables that unitlab.correlations(ds) gives")
        rows = table[table.y == y]
        if rows.empty:
            raise UnitlabError(f"the table {label!r} has no {y!r}. {nearest_names(y, sorted(set(table.y)))}")
        rows = rows.sort_values(kind, ascending=False, na_position="last")
        shown[label] = rows.assign(**{sure: rows[f"{kind}_q"] <= ALPHA}).set_index("x")
    what = f"{kind.capitalize()} correlation with {quantity(y).label}"
    return intervals(shown, kind, f"{kind}_low", f"{kind}_high", filled=sure, xlabel=what).opts(xlim=(-1, 1))
