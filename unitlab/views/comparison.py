"""Two studies beside each other: what every unit, or every class, loses under one and under the other."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA
from unitlab.errors import UnitlabError
from unitlab.views.findings import coefficient
from unitlab.views.legend import legend_entry
from unitlab.views.look import BLUE, FIGURE, GREY, LEGEND_ABOVE
from unitlab.views.words import isolated, shortened

WHAT = ("units", "classes")


def comparison(found: xr.Dataset, of: str | None = None) -> hv.Overlay:
    """What two studies lose, unit by unit or class by class: a to the right, b up; on the line both lose alike.

    Parameters
    ----------
    found
        What `unitlab.compare` gives.
    of
        "units", their overall drops, where both sides have the same ones, or "classes". Default units where there are such.

    Returns
    -------
    holoviews.Overlay
        Drops in points of 100, classes with their 95 % intervals. Filled: the paired difference has q ≤ 0.05. The title has
        the Spearman correlation with its 95 % interval.

    Raises
    ------
    UnitlabError
        Another dataset, or no such points in it.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.comparison(unitlab.compare("vgg_emoji", "resnet_emoji"))
    """
    if not isinstance(found, xr.Dataset) or "drop_difference" not in found:
        raise UnitlabError("plots.comparison takes what unitlab.compare(a, b) gives")
    of = of or ("units" if "unit_drop" in found else "classes")
    if of not in WHAT or (of == "units" and "unit_drop" not in found):
        raise UnitlabError(
            f"of is {of!r}; expected 'classes', or 'units' where both sides have the same units: two ablations of one layer"
        )
    values = 100 * found["unit_drop" if of == "units" else "accuracy_drop"].values
    q = found["unit_difference_q" if of == "units" else "difference_q"].values
    named = found["unit"].values if of == "units" else [isolated(shortened(str(name))) for name in found["category"].values]
    short = "overall drop" if of == "units" else "accuracy drop"
    across, up = (hv.Dimension(side, label=f"{short}, {found.attrs[side]}", unit="points") for side in "ab")
    ends = float(np.nanmin(values, initial=0)), float(np.nanmax(values, initial=0))
    layers: list[Any] = [hv.Curve([(end, end) for end in ends], across, up, label="alike").opts(color=GREY, line_width=1)]
    if of == "classes":
        low, high = 100 * found["drop_low"].values, 100 * found["drop_high"].values
        lines = np.concatenate([
            np.stack([low[0], values[1], high[0], values[1]], 1), np.stack([values[0], low[1], values[0], high[1]], 1)
        ])  # fmt: skip
        layers.append(hv.Segments([*map(tuple, lines)], [across, up, "to_a", "to_b"]).opts(color=GREY, alpha=0.5, line_width=1))
    extra = [hv.Dimension("which", label=of.removesuffix("es") if of == "classes" else "unit"), hv.Dimension("q")]
    for label, some, fill in (("q ≤ 0.05", q <= ALPHA, 0.85), ("not significant", ~(q <= ALPHA), 0.0)):
        rows = [(values[0, at], values[1, at], named[at], q[at]) for at in np.flatnonzero(some & np.isfinite(values).all(0))]
        style = {"color": BLUE, "line_color": BLUE, "fill_alpha": fill}
        points = hv.Points(rows, [across, up], extra, label=label if rows else "")
        layers.append(points.opts(size=8, line_width=1.5, tools=["hover"], **style))
        if not rows:
            layers.append(legend_entry([across, up], label, **style))
    title = f"{len(named):,} {of}"
    correlated = [str(name) for name in found["correlated"].values] if "correlated" in found else []
    if (wanted := "overall_drop of units" if of == "units" else "mean accuracy_drop of classes") in correlated:
        row = found.isel(correlated=correlated.index(wanted))
        r, low_r, high_r = (coefficient(float(row[f"spearman{end}"])) for end in ("", "_low", "_high"))
        title += f"; Spearman {r} ({low_r} to {high_r})"
    return hv.Overlay(layers).opts(
        width=600, height=430, show_grid=True, title=title, padding=0.06, **LEGEND_ABOVE, **FIGURE
    )  # fmt: skip
