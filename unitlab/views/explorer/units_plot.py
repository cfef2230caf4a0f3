"""Row 1, left: every unit as a point over any two variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np
from bokeh.models import ColumnDataSource, Line, LinearColorMapper, Scatter, VArea
from bokeh.models.annotations import ColorBar
from bokeh.models.tools import BoxZoomTool, HoverTool, LassoSelectTool, PanTool, ResetTool, SaveTool, WheelZoomTool
from bokeh.palettes import Viridis256

from unitlab.analysis.correlations import fitted_line
from unitlab.errors import UnitlabError
from unitlab.views.explorer.figures import FigureWidget, bare_figure, describe_figure, drawn, hover_text, set_range
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.pointing import hear_lasso, hear_tap
from unitlab.views.explorer.styled import styled
from unitlab.views.findings import coefficient, number
from unitlab.views.look import BLUE, GREEN, GREY, ORANGE
from unitlab.views.null_band import null_band
from unitlab.views.words import quantity

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]

HEIGHT = 282
# the ends of the scale would vanish on a dark or a white page
SHADES = Viridis256[50:225]
NONE = "(none)"
SHADED: dict[str, Any] = {"fill_color": GREY, "fill_alpha": 0.25}
AROUND: dict[str, Any] = {"x": "x", "y": "y", "fill_alpha": 0}


class UnitsPlot:
    """``widget``: choice of the variables, the figure ``units``, and a line that says how to read it."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.points = ColumnDataSource({name: [] for name in ("x", "y", "unit", "shade", "fill", "worst", "p", "shown")})
        self.mark = ColumnDataSource({"x": [], "y": []})
        self.group = ColumnDataSource({"x": [], "y": []})
        self.null = ColumnDataSource({"x": [], "low": [], "high": []})
        self.line = ColumnDataSource({"x": [], "fit": [], "low": [], "high": []})
        self.bar: ColorBar | None = None
        self._undrawn = {self.null: self._draw_null, self.line: self._draw_line, self.group: self._draw_group}
        self.plot = self._figure()
        self.room = W.Layout(width="100%", height=f"{HEIGHT}px")
        self.x, self.y, self.color = (
            styled(W.Dropdown, description=name, tooltip=tip)
            for name, tip in (("x", "horizontal axis"), ("y", "vertical axis"), ("colour", "colour of the units"))
        )
        self.with_line = styled(
            W.Checkbox, value=False, description="fitted line", indent=False, tooltip="least-squares line with its band"
        )
        self.caption = styled(W.HTML, "ul-caption")
        self.instead = styled(W.HTML, "ul-message", layout=W.Layout(display="none"))
        self._filling = False
        for widget, trait in ((self.x, "x"), (self.y, "y"), (self.color, "color"), (self.with_line, "line")):
            widget.observe(guarded(self._chosen(trait), explorer.say), "value")
        hear_tap(self.plot, self.points, "unit", guarded(self.tapped, explorer.say))
        hear_lasso(self.plot, self.points, "unit", guarded(self.encircled, explorer.say))
        self.show_points()
        # with its points in it, so that they need not be sent after it
        self.figure = FigureWidget(self.plot, layout=self.room)
        controls, foot = (
            styled(W.HBox, "ul-controls", line) for line in ([self.x, self.y, self.color], [self.caption, self.with_line])
        )
        self.widget = styled(W.VBox, "ul-units-view", [controls, self.instead, self.figure, foot])
        explorer.watch(self.show_points, "x", "y", "color", "line", "study", "measures")
        explorer.watch(self.show_mark, "unit")
        explorer.watch(self.show_group, "selection")

    def _figure(self) -> Any:
        tools = [PanTool(), WheelZoomTool(), BoxZoomTool(), ResetTool(), SaveTool()]
        plot = bare_figure("units", HEIGHT, tools, toolbar_location="right")
        colours: dict[str, Any] = {"fill_color": "shade", "line_color": "shade", "fill_alpha": "fill"}
        shown = drawn(plot, self.points, Scatter(x="x", y="y", size=8, line_width=1.5, **colours))
        # overlays have a canvas of their own, so that a click does not draw the units again
        drawn(plot, self.mark, Scatter(size=17, line_color=ORANGE, line_width=3, **AROUND), level="overlay")
        lasso = LassoSelectTool(renderers=[shown], continuous=False)
        self.hover = HoverTool(renderers=[shown], limit=3)
        plot.add_tools(lasso, self.hover)
        # a wheel over the figure scrolls the page until the reader picks the zoom
        plot.toolbar.update(active_drag=lasso, active_scroll=None)
        return plot

    def _fill(self, source: ColumnDataSource, data: dict[str, Any]) -> None:
        """Give a source its numbers; what draws it comes into the figure with the first of them, not when that opens."""
        source.data = data
        if len(data["x"]) and source in self._undrawn:
            self._undrawn.pop(source)()

    def _draw_null(self) -> None:
        drawn(self.plot, self.null, VArea(x="x", y1="low", y2="high", **SHADED), level="underlay")

    def _draw_line(self) -> None:
        drawn(self.plot, self.line, VArea(x="x", y1="low", y2="high", **SHADED), level="underlay")
        drawn(self.plot, self.line, Line(x="x", y="fit", line_color=GREY, line_width=2), level="underlay")

    def _draw_group(self) -> None:
        frames = Scatter(marker="square", size=14, line_color=GREEN, line_width=2, **AROUND)
        drawn(self.plot, self.group, frames, level="overlay")

    def _show_scale(self, low: float, high: float, unit: str) -> None:
        """The colours' scale, beside the figure from the first choice of a colour on."""
        if self.bar is None:
            # it hears nothing of the style sheet
            text: dict[str, Any] = {"major_label_text_color": GREY, "title_text_color": GREY}
            small: dict[str, Any] = {"major_label_text_font_size": "11px", "title_text_font_size": "11px"}
            mapper = LinearColorMapper(palette=SHADES, nan_color=GREY)
            self.bar = ColorBar(color_mapper=mapper, width=10, background_fill_alpha=0, **text, **small)
            self.plot.add_layout(self.bar, "right")
        self.bar.color_mapper.update(low=low, high=high if high > low else low + 1)
        self.bar.update(visible=True, title=unit or " ")

    def _chosen(self, trait: str) -> Any:
        def chosen(change: Any) -> None:
            if not self._filling:
                setattr(self.state, trait, change.new)

        return chosen

    def tapped(self, stack: list[int]) -> None:
        """Take the unit at the tap; where several lie on one another, the one after the present unit."""
        if self.state.unit in stack:
            self.state.unit = stack[(stack.index(self.state.unit) + 1) % len(stack)]
        elif stack:
            self.state.unit = stack[0]

    def encircled(self, units: list[int]) -> None:
        """Take the units inside the lasso as the group."""
        self.state.selection = tuple(sorted(units))

    def show_points(self) -> None:
        """Draw the units over the chosen variables."""
        state, study = self.state, self.explorer.study
        self._fill_controls()
        lacking = [name for name in (state.x, state.y, state.color) if name and name not in study.variables]
        if lacking:
            pending = "" if study.complete else " yet: the tests and cross-fitted drops are being computed"
            self._show_instead(f"{quantity(lacking[0]).label} is not known of these units{pending}.")
            return
        x, y = study.values(state.x), study.values(state.y)
        both = np.isfinite(x) & np.isfinite(y)
        if not both.any():
            blank = state.x if not np.isfinite(x).any() else state.y
            self._show_instead(f"No unit of {study.layer} has a value of “{quantity(blank).label}”; choose another variable.")
            return
        self.instead.layout.display, self.room.display = "none", None
        shade, values = self._shades()
        self.points.data = {
            "x": x, "y": y, "unit": study.units, "shade": shade, "shown": values,
            "fill": np.where(study.significant, 0.85, 0.0),
            "worst": [study.names[k] if k >= 0 else "none" for k in study.max_class],
            "p": ["…" if np.isnan(p) else f"{p:.2g}" for p in study.p_specific],
        }  # fmt: skip
        across, up = quantity(state.x), quantity(state.y)
        self.plot.xaxis.axis_label, self.plot.yaxis.axis_label = across.title, up.title
        tips = [("unit", "@unit"), (across.title, "@x{0.00}"), (up.title, "@y{0.00}")]
        if state.color:
            tips.append((quantity(state.color).title, "@shown{0.00}"))
        self.hover.tooltips = hover_text([*tips, ("most damaged class", "@worst"), ("p, specific classes", "@p")])
        limit = self._show_null(x, y)
        set_range(self.plot.x_range, float(x[both].min()), float(x[both].max()))
        set_range(self.plot.y_range, min(0.0, float(y[both].min())), max(float(y[both].max()), limit))
        told = self._show_line(x, y)
        self._say_how_to_read(int((~both).sum()), told)
        describe_figure(self.plot, f"{len(study.units)} units, {across.title} against {up.title}; the chosen one has a ring")
        self.show_mark()
        self.show_group()

    def _fill_controls(self) -> None:
        self._filling = True
        try:
            known = {quantity(name).label: name for name in self.explorer.study.variables}
            for widget, value, first in (
                (self.x, self.state.x, {}), (self.y, self.state.y, {}), (self.color, self.state.color, {NONE: ""}),
            ):  # fmt: skip
                options = tuple({**first, **known}.items())
                if widget.options != options:
                    widget.options = options
                widget.value = value if value in dict(options).values() else None
            self.with_line.value = self.state.line
        finally:
            self._filling = False

    def _shades(self) -> tuple[Any, Array]:
        study, name = self.explorer.study, self.state.color
        if not name:
            if self.bar is not None:
                self.bar.visible = False
            return [BLUE] * len(study.units), np.full(len(study.units), np.nan)
        values = study.values(name)
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        self._show_scale(low, high, quantity(name).unit)
        place = (np.nan_to_num(values, nan=low) - low) / ((high - low) or 1) * (len(SHADES) - 1)
        return [SHADES[int(k)] if np.isfinite(v) else GREY for k, v in zip(place, values, strict=True)], values

    def _show_null(self, x: Array, y: Array) -> float:
        """Shade what 95 % of chance stays below, where the vertical variable has such a null; its largest value."""
        name = f"{self.state.y}_null"
        if name not in self.explorer.study.variables:
            self._fill(self.null, {"x": [], "low": [], "high": []})
            return -np.inf
        across, limit = null_band(x, self.explorer.study.values(name))
        self._fill(self.null, {"x": across, "low": np.zeros(len(across)), "high": limit})
        return float(limit.max(initial=-np.inf))

    def _show_line(self, x: Array, y: Array) -> str:
        self._fill(self.line, {"x": [], "fit": [], "low": [], "high": []})
        if not self.state.line:
            return ""
        try:
            found = fitted_line(x, y)
        except UnitlabError as error:
            return f"no line: {error}"
        self._fill(self.line, {name: found[name] for name in ("x", "fit", "low", "high")})
        return f"Spearman {coefficient(found['spearman'])}, Pearson {coefficient(found['pearson'])}"

    def _say_how_to_read(self, n_lacking: int, line: str) -> None:
        study = self.explorer.study
        parts = ["● specific damage, p ≤ 0.05", "○ p > 0.05"]
        if not study.complete:
            parts = ["○ tests and cross-fitted drops are being computed …"]
        if len(self.null.data["x"]):
            parts.append("▒ 95 % of chance")
        if n_lacking:
            parts.append(f"{n_lacking} units without a value")
        if line:
            parts.append(line)
        self.caption.value = " &ensp; ".join(as_text(part) for part in parts)

    def _show_instead(self, sentence: str) -> None:
        self.instead.value = message_html(sentence)
        self.instead.layout.display, self.room.display = None, "none"
        self.caption.value = ""

    def _at(self, units: Any) -> dict[str, Array]:
        places = [self.explorer.study.position(unit) for unit in units]
        return {name: np.asarray(self.points.data[name], float)[places] for name in ("x", "y")}

    def show_mark(self) -> None:
        """Ring the chosen unit."""
        if not len(self.points.data["x"]):
            return
        self.mark.data = self._at([self.state.unit])

    def position_of_unit(self) -> str:
        """Where the ring is, for those who do not see it: a change of the figure's own text would draw all units again."""
        study, place = self.explorer.study, self.explorer.study.position(self.state.unit)
        parts = []
        for name in (self.state.x, self.state.y):
            value = study.values(name)[place] if name in study.variables else np.nan
            what = quantity(name)
            parts.append(f"{what.label} " + (f"{number(value)} {what.unit}".rstrip() if np.isfinite(value) else "unknown"))
        return "; ".join(parts)

    def show_group(self) -> None:
        """Frame the units of the group."""
        if len(self.points.data["x"]):
            self._fill(self.group, self._at(self.state.selection))
