"""What the pointer does to a figure, told to Python by scripts that Bokeh itself runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bokeh.models import ColumnDataSource, CustomJS, Plot

# the points nearest to the tap, all that lie on one another; 12 px is a finger's slack
TAP = """
const {x, y} = cb_obj;
const across = axes.includes("x") ? plot.inner_width / Math.abs(plot.x_range.end - plot.x_range.start) : 0;
const up = plot.inner_height / Math.abs(plot.y_range.end - plot.y_range.start);
const d = source.data;
const far = Array.from(d.x, (_, i) => Math.hypot((d.x[i] - x) * across, (d.y[i] - y) * up)).map((v) => isNaN(v) ? Infinity : v);
const best = Math.min(...far);
if (best > 12) return;
const hit = Array.from(d[key]).filter((_, i) => far[i] <= best + 1);
told.tags = ["tap", String(Date.now() + Math.random()), ...hit];
"""
LASSO = """
if (!cb_obj.final || cb_obj.geometry.type !== "poly") return;
const chosen = source.selected.indices.map((i) => source.data[key][i]);
source.selected.indices = [];
told.tags = ["lasso", String(Date.now() + Math.random()), ...chosen];
"""


def hear_tap(plot: Plot, source: ColumnDataSource, key: str, call: Callable[[list[int]], None], axes: str = "xy") -> None:
    """``call`` with the ``key`` of the points at a tap (the second tap of a double one too)."""
    script = CustomJS(args={"plot": plot, "source": source, "key": key, "axes": axes, "told": _told(call)}, code=TAP)
    plot.js_on_event("tap", script)
    plot.js_on_event("doubletap", script)


def hear_lasso(plot: Plot, source: ColumnDataSource, key: str, call: Callable[[list[int]], None]) -> None:
    """``call`` with the ``key`` of the points inside a lasso."""
    plot.js_on_event("selectiongeometry", CustomJS(args={"source": source, "key": key, "told": _told(call)}, code=LASSO))


def _told(call: Callable[[list[int]], None]) -> ColumnDataSource:
    """A model whose tags carry kind, a mark of the moment, and keys."""
    told, last = ColumnDataSource(), [""]

    def heard(_attr: str, _old: Any, new: Any) -> None:
        # jupyter_bokeh makes each call twice
        if len(new) >= 2 and new[1] != last[0]:
            last[0] = new[1]
            call([int(one) for one in new[2:]])

    told.on_change("tags", heard)
    return told
