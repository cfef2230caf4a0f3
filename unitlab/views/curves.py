"""Curves of accuracy over the number of units silenced or kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import xarray as xr

from unitlab.errors import UnitlabError, nearest_names
from unitlab.schema import CURVE_VARIABLES
from unitlab.views.look import FIGURE, GREY, LEGEND_ABOVE, SERIES

DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")


def cumulative(
    curves: xr.Dataset | Mapping[str, xr.Dataset], y: str = "accuracy", *, category: str | None = None
) -> hv.Overlay:
    """Accuracy over the number of units silenced, or kept: one curve for each result of `unitlab.cumulative`.

    Parameters
    ----------
    curves
        A result, or several under the labels of the legend.
    y
        "accuracy", "mean_balanced_accuracy"; of one ``category``, "class_accuracy" or "balanced_accuracy"; where every class
        has its own order, "own_accuracy" or "own_balanced_accuracy", meaned over classes.
    category
        Name of a class, with the second pair.

    Returns
    -------
    holoviews.Overlay
        In per cent. Several random orders are their mean, in grey, with a band from the lowest to the highest; the accuracy
        of one order has its 95 % interval as band.

    Raises
    ------
    UnitlabError
        An unknown variable or class, or a curve without it.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> photos = unitlab.images("fashion_mnist").subset(range(100))
    >>> curve = unitlab.cumulative(unitlab.network("vgg_fashion"), photos, "conv3_2", "random", n_random=2, progress=False)
    >>> figure = plots.cumulative({"random orders": curve})
    """
    named = {_label(curves): curves} if isinstance(curves, xr.Dataset) else dict(curves)
    if not named:
        raise UnitlabError("curves is empty; give results of unitlab.cumulative(model, images, layer, order)")
    kept = {bool(_checked(ds, y, category).attrs.get("keep")) for ds in named.values()}
    words = {True: "units kept", False: "units silenced"}
    across = hv.Dimension("k", label=words[kept.pop()] if len(kept) == 1 else "units silenced, or kept")
    what = CURVE_VARIABLES[y].long_name + (f" of {category}" if category else "")
    up = hv.Dimension("value", label=what, unit="%")
    bands: list[Any] = []
    lines: list[Any] = []
    place = 0
    for label, ds in named.items():
        random = ds.attrs.get("order") == "random"
        colour, dash = (GREY, "solid") if random else (SERIES[place % len(SERIES)], DASHES[place % len(DASHES)])
        place += not random
        values = ds[y] if category is None else ds[y].sel(category=category)
        rows, k = 100 * values.values, ds["k"].values
        limits = None
        if random:
            limits = rows.min(0), rows.max(0)
        elif y == "accuracy" and len(rows) == 1:
            limits = 100 * ds["accuracy_low"].values[0], 100 * ds["accuracy_high"].values[0]
        if limits is not None:
            area = hv.Area((k, *limits), across, [up, hv.Dimension("high", label="upper limit")])
            bands.append(area.opts(color=colour, alpha=0.2, line_alpha=0))
        line = hv.Curve((k, rows.mean(0)), across, up, label=label)
        lines.append(line.opts(color=colour, line_width=2, line_dash=dash, tools=["hover"]))
    first = next(iter(named.values()))
    title = f"{what[:1].upper()}{what[1:]}" + (f" ({first.attrs['layer']})" if first.attrs.get("layer") else "")
    # no curve runs beneath it, wherever it falls
    above = LEGEND_ABOVE | {"legend_opts": LEGEND_ABOVE["legend_opts"] | {"ncols": 2}}
    return hv.Overlay([*bands, *lines]).opts(
        width=600, height=350 + 25 * -(-len(lines) // 2), show_grid=True, title=title, padding=0.03, **above, **FIGURE
    )  # fmt: skip


def _label(ds: Any) -> str:
    """What a single curve is called."""
    order = str(ds.attrs.get("order", "curve"))
    if order in ("random", "given"):
        return f"{order} order"
    named = CURVE_LABELS.get(str(ds.attrs.get("rank_on")), "")
    return f"by {order.replace('_', ' ')}{named}"


CURVE_LABELS = {"same": ", ranked on the same images (biased)", "crossfit": ", cross-fitted", "study": ", ranked on a study"}


def _checked(ds: Any, y: str, category: str | None) -> xr.Dataset:
    """A result of `unitlab.cumulative` that has the variable."""
    if not isinstance(ds, xr.Dataset) or "ranked_unit" not in ds:
        raise UnitlabError(f"curves are results of unitlab.cumulative(model, images, layer, order); given: {type(ds).__name__}")
    valid = [name for name, row in CURVE_VARIABLES.items() if row.dims[:2] == ("order", "k") and row.kind == "f"]
    if y not in valid:
        raise UnitlabError(f"curves have no {y!r}. {nearest_names(y, valid)}")
    by_class = "category" in CURVE_VARIABLES[y].dims
    if y not in ds:
        raise UnitlabError(f"this curve has no {y!r}: every class has an order of its own only with an order over classes")
    if by_class and category is None:
        raise UnitlabError(f"y={y!r} is of one class; name it: category={str(ds['category'].values[0])!r}")
    if category is not None and not by_class:
        raise UnitlabError(f"y={y!r} is not of one class; leave out category, or give y='class_accuracy'")
    if category is not None and category not in ds["category"].values:
        raise UnitlabError(f"the curve has no class {category!r}. {nearest_names(category, map(str, ds['category'].values))}")
    return ds
