"""Units and the classes that they are important to, as two columns and the lines between them."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from unitlab.concepts.importance import important_to
from unitlab.named_studies import takes_names
from unitlab.views.look import BLUE, FIGURE, GREY, LEGEND_ABOVE, ORANGE
from unitlab.views.words import distinct, isolated, shortened

Array = np.ndarray[Any, Any]


@takes_names
def important(ds: xr.Dataset) -> hv.Overlay:
    """Units to the left, classes to the right, and a line where a unit is important to a class.

    Parameters
    ----------
    ds
        What `unitlab.important_to` gives, or a study, its name or path.

    Returns
    -------
    holoviews.Overlay
        Grey lines: among the largest drops of the class; orange ones: q ≤ 0.05. Units and classes without a line are left out.
        Units stand beside the middle of their classes, so that lines cross little.

    Raises
    ------
    UnitlabError
        No study.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.important(unitlab.load("vgg_fashion"))
    """
    found = ds if "among_largest" in ds else important_to(ds)
    largest, sure = found["among_largest"].values, found["damaged"].values
    either = largest | sure
    units, classes = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    of_unit, of_class = _heights((either + 4.0 * sure)[np.ix_(units, classes)])
    row, column = {u: y for u, y in zip(units, of_unit, strict=True)}, {k: y for k, y in zip(classes, of_class, strict=True)}
    number, drop, q = found["unit"].values, found["balanced_accuracy_drop"].values, found["q_value"].values
    names = distinct([isolated(shortened(str(name))) for name in found["category"].values])
    ends = ["x0", "y0", "x1", "y1"]
    extra = [
        hv.Dimension("unit"),
        hv.Dimension("class"),
        hv.Dimension("drop", label="balanced-accuracy drop", unit="points"),
        "q",
    ]
    lines = []
    for label, which, style in (
        ("among the largest drops", largest & ~sure, {"color": GREY, "line_width": 1, "alpha": 0.6}),
        ("q ≤ 0.05", sure & ~largest, {"color": ORANGE, "line_width": 1.5, "line_dash": "dashed"}),
        ("both", sure & largest, {"color": ORANGE, "line_width": 2}),
    ):
        edges = [(0.0, row[u], 1.0, column[k], number[u], names[k], 100 * drop[u, k], q[u, k]) for u, k in np.argwhere(which)]
        lines.append(hv.Segments(edges, ends, extra, label=label).opts(tools=["hover"], **style))
    dots = []
    texts = []
    for x, places, of, align in ((0.0, row, number, "right"), (1.0, column, names, "left")):
        dots.append(hv.Points([(x, y) for y in places.values()], ["x0", "y0"]).opts(color=BLUE, size=6))
        beside = [(x + (-0.02 if x == 0 else 0.02), y, str(of[place])) for place, y in places.items()]
        text = hv.Labels(beside, ["x0", "y0"], "name").opts(text_align=align, text_font_size="8pt", text_color=GREY)
        texts.append(text)
    title = f"{len(units)} units, {len(classes)} classes" + (f" ({found.attrs['name']})" if found.attrs.get("name") else "")
    return hv.Overlay([*lines, *dots, *texts]).opts(
        width=620, height=120 + 13 * max(len(units), len(classes)), xlim=(-0.2, 1.6), xaxis=None, yaxis=None, title=title,
        **LEGEND_ABOVE, **FIGURE,
    )  # fmt: skip


def _heights(linked: Array) -> tuple[Array, Array]:
    """Heights in 0 … 1 of units and of classes: each side by the mean place of what it is linked to, in turn."""
    unit, category = (np.arange(n, dtype=float) for n in linked.shape)
    for _ in range(20):
        unit = _places((linked @ category) / np.maximum(linked.sum(1), 1))
        category = _places((linked.T @ unit) / np.maximum(linked.sum(0), 1))
    return tuple(1 - (place + 0.5) / max(len(place), 1) for place in (unit, category))  # type: ignore[return-value]


def _places(values: Array) -> Array:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)
