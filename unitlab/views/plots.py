"""Plots of studies and of what the analysis makes of them, as HoloViews objects."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA
from unitlab.analysis.accuracies import confusion as moved_images
from unitlab.analysis.correlations import chosen, fitted_line, measures
from unitlab.analysis.damage import damage
from unitlab.analysis.requirements import require_all_pairs, unit_position
from unitlab.errors import UnitlabError, nearest_names
from unitlab.named_studies import takes_names
from unitlab.views import notebook as notebook
from unitlab.views.comparison import comparison as comparison
from unitlab.views.curves import cumulative as cumulative
from unitlab.views.findings import coefficient
from unitlab.views.importance import important as important
from unitlab.views.intervals import correlations as correlations
from unitlab.views.intervals import intervals as intervals
from unitlab.views.legend import legend_entry
from unitlab.views.look import BLUE, FIGURE, GREEN, GREY, LEGEND_ABOVE, ORANGE
from unitlab.views.partners import partners as partners
from unitlab.views.rotation import rotation as rotation
from unitlab.views.saving import save as save
from unitlab.views.seeds import seeds as seeds
from unitlab.views.top_images import top_images as images
from unitlab.views.words import distinct, isolated, quantity, shortened

Array = np.ndarray[Any, Any]

__all__ = [
    "accuracies",
    "classes",
    "comparison",
    "confusion",
    "correlation",
    "correlations",
    "cumulative",
    "images",
    "important",
    "intervals",
    "partners",
    "rotation",
    "save",
    "seeds",
    "units",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# what marks say, as legends have it
FILLED, HOLLOW = f"p ≤ {ALPHA:g}, specific classes", f"hollow: p > {ALPHA:g}"


def _dimension(name: str) -> tuple[hv.Dimension, float]:
    """Axis of a variable of the schema, and what its values are multiplied with: drops are shown in points of 100."""
    shown = quantity(name)
    return hv.Dimension(name, label=shown.label, unit=shown.unit or None), shown.factor


def _titled(ds: xr.Dataset, text: str) -> str:
    where = ", ".join(str(ds.attrs[name]) for name in ("name", "layer") if ds.attrs.get(name))
    return f"{text} ({where})" if where else text


def _known(ds: xr.Dataset) -> xr.Dataset:
    """Measures of a study; a dataset that has them already is taken as it is."""
    require_all_pairs(ds, "the plot")
    return ds if "p_specific" in ds and "class_selectivity" in ds else measures(ds, progress=True)


def null_band(x: Array, limit: Array) -> tuple[Array, Array]:
    """``x`` in order, and over it the mean of the limits of neighbouring units.

    Each unit's limit comes from few shuffles; neighbours along x have nearly the same. At the ends the last one counts
    for those beyond.
    """
    some = np.flatnonzero(np.isfinite(x) & np.isfinite(limit))
    order = some[np.argsort(x[some], kind="stable")]
    if not len(order):
        return x[order], limit[order]
    size = max(3, len(order) // 8)
    padded = np.pad(limit[order], (size // 2, size - 1 - size // 2), mode="edge")
    return x[order], np.lib.stride_tricks.sliding_window_view(padded, size).mean(1)


@takes_names
def units(
    ds: xr.Dataset,
    x: str = "overall_drop",
    y: str = "max_class_drop_crossfit",
    *,
    color: str | None = None,
    unit: int | None = None,
) -> hv.Overlay:
    """Every unit as a point: filled where its damage to specific classes is significant (p ≤ 0.05), hollow elsewhere.

    Parameters
    ----------
    ds
        A study, its name or path, or measures of it.
    x, y, color
        Variables over ``unit`` of `unitlab.attributes` or `unitlab.damage`.
    unit
        Number of a unit to mark.

    Returns
    -------
    holoviews.Overlay
        Drops in points of 100. With a largest drop (cross-fitted or raw) as ``y`` over ``overall_drop``, a shade gives what
        95 % of the units would stay below if flips fell on images regardless of class.

    Raises
    ------
    UnitlabError
        An unknown variable or unit.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.units(unitlab.load("vgg_fashion"))
    """
    known = _known(ds)
    chosen(known, [x, y, *([color] if color else [])], [("unit",)])
    (across, by_x), (up, by_y) = _dimension(x), _dimension(y)
    values_x, values_y = known[x].values * by_x, known[y].values * by_y
    number, p = known["unit"].values, known["p_specific"].values
    damaged = known["max_class_drop"].values > 0
    worst = np.where(damaged, known["category"].values[known["max_class"].values].astype(str), "none")
    labelled = {"worst": "most damaged class", "p": "p, specific classes"}
    extra = [hv.Dimension("unit"), *(hv.Dimension(name, label=label) for name, label in labelled.items())]
    columns: list[Any] = [values_x, values_y, number, worst, p]
    style: dict[str, Any] = {"color": BLUE}
    if "unit_label" in ds.coords:
        extra.append(hv.Dimension("name"))
        columns.append(ds["unit_label"].values)
    if color is not None:
        shade, by_color = _dimension(color)
        extra.append(shade)
        columns.append(known[color].values * by_color)
        style = {
            "color": color,
            "cmap": "viridis",
            "colorbar": True,
            "colorbar_position": "right",
            "clabel": shade.pprint_label,
        }
    significant = p <= ALPHA
    layers: list[Any] = []
    if f"{y}_null" in known and x == "overall_drop":
        band = null_band(values_x, known[f"{y}_null"].values * by_y)
        layers.append(hv.Area(band, across, up, label="95 % of chance").opts(color=GREY, alpha=0.25, line_alpha=0))
    for label, some, fill in ((FILLED, significant, 0.85), (HOLLOW, ~significant, 0.0)):
        rows = [tuple(column[place] for column in columns) for place in np.flatnonzero(some)]
        points = hv.Points(rows, [across, up], extra, label=label if color is None else "")
        layers.append(points.opts(size=8, fill_alpha=fill, line_color=style["color"], line_width=1.5, tools=["hover"], **style))
        if color is not None:
            layers.append(legend_entry([across, up], label, color=GREY, line_color=GREY, fill_alpha=fill))
    if unit is not None:
        place = unit_position(known, unit)
        mark = hv.Points(([values_x[place]], [values_y[place]]), [across, up], label=f"unit {unit}")
        layers.append(mark.opts(size=18, fill_alpha=0, line_color=ORANGE, line_width=3))
    title = _titled(ds, f"{len(number)} units")
    return hv.Overlay(layers).opts(
        width=600, height=410, show_grid=True, title=title, padding=0.06, **LEGEND_ABOVE, **FIGURE
    )  # fmt: skip


@takes_names
def classes(ds: xr.Dataset, unit: int, *, n_damaged: int = 10, n_helped: int = 3) -> hv.Overlay:
    """What one unit's ablation costs the classes: the most damaged and the most helped, with 95 % intervals.

    Filled bars are significant (q ≤ 0.05); the label gives each class's number of images.

    Raises
    ------
    UnitlabError
        No such unit.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.classes(unitlab.load("vgg_fashion"), 3)
    """
    require_all_pairs(ds, "plots.classes")
    found = ds if "q_value" in ds else damage(ds)
    row = found.isel(unit=unit_position(found, unit))
    drop = 100 * row["accuracy_drop"].values
    some = np.flatnonzero(np.isfinite(drop))
    if not len(some):
        raise UnitlabError("no class of the study has images, so there is no drop to show")
    order = some[np.argsort(-drop[some], kind="stable")]
    rest = order[n_damaged:]
    shown = np.concatenate([order[:n_damaged], rest[len(rest) - min(n_helped, len(rest)) :]])[::-1]
    categories, images_of = found["category"].values.astype(str), row["n_images"].values
    names = distinct([f"{isolated(shortened(categories[k]))} ({int(images_of[k])})" for k in shown])
    significant = row["q_value"].values[shown] <= ALPHA
    low, high = 100 * row["drop_low"].values[shown], 100 * row["drop_high"].values[shown]
    kind = hv.Dimension("class", label="class (images)")
    size = hv.Dimension("drop", label="accuracy drop", unit=f"points; filled: q ≤ {ALPHA:g}")
    face = [ORANGE if value > 0 else GREEN if value < 0 else GREY for value in drop[shown]]
    q = row["q_value"].values[shown]
    extra = [size, hv.Dimension("q"), "face", "fill"]
    fill = np.where(significant, 0.85, 0.15)
    bars = hv.Bars(list(zip(names, drop[shown], q, face, fill, strict=True)), kind, extra).opts(
        color="face", line_color="face", fill_alpha=hv.dim("fill"), line_width=1.5, tools=["hover"], show_legend=False
    )
    limits = hv.Segments(
        [(name, a, name, b) for name, a, b in zip(names, low, high, strict=True)], [kind, "low", "class2", "high"]
    )
    overlay = bars * limits.opts(color="black", line_width=1.5)
    title = _titled(ds, f"Unit {unit}: accuracy drop by class")
    return overlay.opts(
        hv.opts.Bars(invert_axes=True),
        hv.opts.Segments(invert_axes=True),
        hv.opts.Overlay(width=600, height=90 + 22 * len(shown), title=title, show_legend=False, **FIGURE),
    )


@takes_names
def accuracies(ds: xr.Dataset, *, unit: int | None = None) -> hv.Overlay:
    """What damage is made of: drop of precision (up) against drop of recall (across), in points, of cells (unit, class).

    Cells that are damaged (q ≤ 0.05), or with ``unit`` all classes of that unit. Those above zero lose precision with recall;
    those below gain it: the class is predicted less often, a shifted decision. The larger the dot, the larger the mean drop of
    the margin; balanced accuracy, margin and q are in the tooltip.

    Parameters
    ----------
    ds
        A study, its name or path, or what `unitlab.damage` gives.
    unit
        Number of a unit.

    Raises
    ------
    UnitlabError
        No such unit, or no cell to show.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.accuracies(unitlab.load("vgg_fashion"))
    """
    require_all_pairs(ds, "plots.accuracies")
    found = ds if "q_value" in ds else damage(ds)
    names = ["accuracy_drop", "precision_drop", "balanced_accuracy_drop", "margin_drop", "q_value"]
    some = found["damaged"].values & True
    if unit is not None:
        some = np.zeros_like(some)
        some[unit_position(found, unit)] = True
    some = some & np.isfinite(found["accuracy_drop"].values) & np.isfinite(found["precision_drop"].values)
    if not some.any():
        raise UnitlabError("no cell is damaged (q ≤ 0.05) and has a precision; give a unit to see all of its classes")
    recall, precision, balanced, margin, q = (found[name].values[some] for name in names)
    at, k = np.nonzero(some)
    size = 5 + 13 * np.sqrt(np.abs(margin) / max(float(np.abs(margin).max()), 1e-9))
    (across, _), (up, _) = (_dimension(name) for name in names[:2])
    labels = {"class": "class", "balanced": "balanced-accuracy drop (points)", "margin": "margin drop (logits)", "q": "q"}
    extra = [hv.Dimension("unit"), *(hv.Dimension(name, label=label) for name, label in labels.items()), hv.Dimension("size")]
    classes_ = found["category"].values.astype(str)[k]
    columns = (100 * recall, 100 * precision, found["unit"].values[at], classes_, 100 * balanced, margin, q, size)
    layers: list[Any] = [line(0).opts(color=GREY, line_width=1) for line in (hv.HLine, hv.VLine)]
    for label, those, colour in (("precision rises", precision < 0, BLUE), ("precision falls", precision >= 0, ORANGE)):
        rows = [tuple(column[place] for column in columns) for place in np.flatnonzero(those)]
        dots = hv.Points(rows, [across.clone(label="recall drop"), up], extra, label=f"{label} ({len(rows)})")
        layers.append(dots.opts(color=colour, size="size", fill_alpha=0.4, line_color=colour, tools=["hover"]))
    title = _titled(found, f"{len(recall)} {'damaged cells' if unit is None else f'classes of unit {unit}'}")
    return hv.Overlay(layers).opts(
        width=600, height=410, show_grid=True, title=title, padding=0.06, xlabel="recall drop (points)", ylabel=up.pprint_label,
        **LEGEND_ABOVE, **FIGURE,
    )  # fmt: skip


@takes_names
def confusion(ds: xr.Dataset, unit: int, category: str | None = None, *, most: int = 12) -> hv.Overlay:
    """Where the images go that an ablation moves: lost ones of each pair of classes to the right, won ones to the left.

    Parameters
    ----------
    ds
        A study, or its name or path.
    unit
        Number of the unit.
    category
        Name of one class, or all.
    most
        Pairs shown, those with the most images.

    Raises
    ------
    UnitlabError
        No such unit or class.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.confusion(unitlab.load("vgg_fashion"), 3)
    """
    moved = moved_images(ds, unit)
    names = moved["category"].values.astype(str)
    if category is not None and category not in names:
        raise UnitlabError(f"the study has no class {category!r}. {nearest_names(category, names)}")
    lost, won = moved["n_lost"].values, moved["n_won"].values
    pairs = [
        (" → ".join(isolated(shortened(names[k], 20)) for k in (a, b)), int(lost[a, b]), -int(won[a, b]))
        for a, b in np.argwhere(lost + won)
        if category is None or names[a] == category
    ]
    pairs = sorted(pairs, key=lambda pair: pair[1] - pair[2])[-most:]
    labels = distinct([pair[0] for pair in pairs])
    kind = hv.Dimension("pair", label="class → other class")
    size = hv.Dimension("moved", label="images lost (negative: won)")
    bars = []
    for column, label, colour in ((1, "lost to", ORANGE), (2, "won from", GREEN)):
        rows = [(name, pair[column]) for name, pair in zip(labels, pairs, strict=True)]
        bars.append(hv.Bars(rows, kind, size, label=label).opts(color=colour, line_alpha=0, fill_alpha=0.85))
    title = _titled(ds, f"Unit {unit}: images moved" if pairs else f"Unit {unit} moves no image")
    return hv.Overlay(bars).opts(
        hv.opts.Bars(invert_axes=True, tools=["hover"]),
        hv.opts.Overlay(
            width=600, height=150 + 22 * len(pairs), title=title, **LEGEND_ABOVE, **FIGURE
        ),
    )  # fmt: skip


@takes_names
def correlation(ds: xr.Dataset, x: str = "class_selectivity", y: str = "max_class_drop_crossfit") -> hv.Overlay:
    """Every unit as a point, the least-squares line with the 95 % band of the mean, and both coefficients.

    Raises
    ------
    UnitlabError
        An unknown variable, or fewer than three units with both values.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.correlation(unitlab.load("vgg_fashion"), "mean_activation", "overall_drop")
    """
    known = _known(ds)
    chosen(known, [x, y], [("unit",)])
    (across, by_x), (up, by_y) = _dimension(x), _dimension(y)
    values_x, values_y = known[x].values.astype(float) * by_x, known[y].values.astype(float) * by_y
    line = fitted_line(values_x, values_y)
    band = hv.Area((line["x"], line["low"], line["high"]), across, [up, "high"]).opts(color=GREY, alpha=0.25, line_alpha=0)
    fit = hv.Curve((line["x"], line["fit"]), across, up).opts(color=GREY, line_width=2)
    points = hv.Points((values_x, values_y, known["unit"].values), [across, up], "unit")
    points = points.opts(color=BLUE, fill_alpha=0.7, size=7, tools=["hover"])
    coefficients = f"Spearman {coefficient(line['spearman'])}, Pearson {coefficient(line['pearson'])}, {line['n_units']} units"
    title = _titled(ds, coefficients)
    return (band * fit * points).opts(
        width=600, height=380, show_grid=True, title=title, show_legend=False, padding=0.06, **FIGURE
    )  # fmt: skip
