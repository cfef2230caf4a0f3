"""The curve of a class's accuracy while its most important units are silenced one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, Line, Plot, Scatter, VArea
from bokeh.models.annotations import Legend, LegendItem

from unitlab.views.explorer.background import BackgroundWork
from unitlab.views.explorer.figures import FigureWidget, bare_figure, describe_figure, drawn, hover_text, set_range
from unitlab.views.explorer.live_network import ClassCurve, LiveNetwork, NotAtHand
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.styled import styled
from unitlab.views.look import GREY, ORANGE

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]

FIRST_COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20)


class CumulativeCurve:
    """``widget``: a button that computes the curve of the state's class, progress, and the curve once it is there."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.curves: dict[str, ClassCurve] = {}
        heading = styled(W.HTML, "ul-heading", "Its accuracy while its most important units are silenced, one after the other")
        self.compute = styled(W.Button, "ul-compute-curve", description="Compute the curve", layout=W.Layout(width="auto"))
        self.compute.on_click(guarded(lambda _: self._compute(), self._failed))
        self.work, self.said, self.place = BackgroundWork(), styled(W.HTML), styled(W.VBox)
        self.widget = styled(W.VBox, "ul-narrow", [heading, self.compute, self.work.widget, self.said, self.place])
        self._shown = ""

    def _failed(self, sentence: str, command: str = "") -> None:
        self.said.value = f'<div class="ul-message">{message_html(sentence, command)}</div>'

    def show(self) -> None:
        """Show the curve of the state's class, or what computes it."""
        name = self.state.category
        if name != self._shown:
            self.work.stop()
            self._shown = name
        found = self.curves.get(name)
        self.place.children = ()
        self.compute.layout.display = "none" if found is not None else None
        if found is not None:
            self._draw(found)
            return
        if self.work.running:
            self.compute.layout.display = "none"
            return
        self.said.value = (
            '<p class="ul-faint">Runs the network: the units are ranked by their drop on one half of the images, silenced and '
            "measured on the other.</p>"
        )
        try:
            LiveNetwork(self.explorer.study.ds)
        except NotAtHand as missing:
            self.compute.layout.display = "none"
            self._failed(str(missing), missing.command)

    def _compute(self) -> None:
        name, study = self.state.category, self.explorer.study
        live = LiveNetwork(study.ds)
        counts = [k for k in FIRST_COUNTS if k <= len(study.units)]
        place = study.category_position(name)

        def done(found: ClassCurve) -> None:
            self.curves[name] = found
            self.show()

        self.compute.layout.display = "none"

        def failed(sentence: str) -> None:
            self.compute.layout.display = None
            self._failed(sentence)

        self.said.value = ""
        self.work.start("Silencing units …", lambda progress: live.curve(place, counts, progress), done, failed)

    def _draw(self, found: ClassCurve) -> None:
        own, everything = 100 * found.own, 100 * found.overall
        text = (
            f"With {int(found.k[-1])} units silenced: this class {own[0]:.1f} → {own[-1]:.1f} %, "
            f"all classes {everything[0]:.1f} → {everything[-1]:.1f} %"
        )
        self.said.value = (
            f'<p class="ul-faint">{as_text(text)}. Cross-fitted: ranked by the drop of the class on one half of the images, '
            "measured on the other, both ways. Band: 95 % interval.</p>"
        )
        self.place.children = (FigureWidget(_curve(found, text)),)


def _curve(found: ClassCurve, text: str) -> Plot:
    columns = {"own": found.own, "low": found.low, "high": found.high, "all": found.overall}
    points = ColumnDataSource({"k": found.k, **{name: 100 * values for name, values in columns.items()}})
    plot = bare_figure("curve", 220, toolbar_location=None)
    plot.xaxis.axis_label, plot.yaxis.axis_label = "units silenced", "accuracy (%)"
    drawn(plot, points, VArea(x="k", y1="low", y2="high", fill_color=ORANGE, fill_alpha=0.18))
    everything = drawn(plot, points, Line(x="k", y="all", line_color=GREY, line_width=2, line_dash="dashed"))
    own = drawn(plot, points, Line(x="k", y="own", line_color=ORANGE, line_width=2.5))
    dots = drawn(plot, points, Scatter(x="k", y="own", fill_color=ORANGE, line_color=ORANGE, size=5))
    legend = Legend(
        items=[LegendItem(label="all classes", renderers=[everything]), LegendItem(label="this class", renderers=[own])],
        background_fill_alpha=0, border_line_alpha=0, label_text_font_size="11px", orientation="horizontal",
    )  # fmt: skip
    legend.update(padding=0)
    plot.add_layout(legend, "above")
    tips = [("units", "@k"), ("this class (%)", "@own{0.0} (95 %: @low{0.0} to @high{0.0})"), ("all classes (%)", "@all{0.0}")]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=hover_text(tips), mode="vline"))
    set_range(plot.x_range, float(found.k.min()), float(found.k.max()))
    set_range(plot.y_range, 0.0, 100 * float(max(found.high.max(), found.overall.max())))
    describe_figure(plot, text)
    return plot
