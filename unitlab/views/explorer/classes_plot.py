"""Row 1, right: what a unit's ablation costs the classes, under the finding in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HBar, HoverTool, Segment
from bokeh.models.annotations import Span

from unitlab.views.explorer.figures import FigureWidget, bare_figure, describe_figure, drawn, hover_text
from unitlab.views.explorer.finding import finding_html
from unitlab.views.explorer.messages import as_text, guarded
from unitlab.views.explorer.pointing import hear_tap
from unitlab.views.explorer.styled import styled
from unitlab.views.findings import number
from unitlab.views.look import GREEN, GREY, ORANGE
from unitlab.views.words import distinct, isolated, shortened

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]

HEIGHT = 236
N_DAMAGED, N_HELPED = 10, 3
ON_PAGE = N_DAMAGED + N_HELPED
GAP = 0.5
LEAST_SLOTS = 5.0
NAME_WIDTH = 22


def page_of_classes(order: Array, page: int) -> tuple[Array, int]:
    """Places in ``order`` (the most damaged class first) that a page shows, and how many stand above its gap.

    The first page has the most damaged and the most helped classes, the others those between, in order.
    """
    if len(order) <= ON_PAGE or page == 0:
        above = min(N_DAMAGED, max(len(order) - N_HELPED, 0)) if len(order) > ON_PAGE else len(order)
        ends = np.arange(len(order) - min(N_HELPED, len(order)), len(order)) if len(order) > ON_PAGE else np.arange(0)
        return np.concatenate([np.arange(above), ends]).astype(int), above
    start = N_DAMAGED + (page - 1) * ON_PAGE
    places = np.arange(start, min(start + ON_PAGE, len(order) - N_HELPED))
    return places, len(places)


class ClassesPlot:
    """``widget``: headline, the figure ``classes``, and buttons that turn its pages."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.page = 0
        self.headline = styled(W.HTML, "ul-headline")
        columns = ("slot", "drop", "low", "high", "face", "fill", "name", "q", "images", "change", "place", "x", "y")
        self.bars = ColumnDataSource({name: [] for name in columns})
        self.ticker = FixedTicker(ticks=[])
        self.plot = self._figure()
        alike = W.Layout()
        self.back = styled(W.Button, "ul-step", description="◀", tooltip="the classes before these", layout=alike)
        self.forward = styled(W.Button, "ul-step", description="▶", tooltip="the next classes", layout=alike)
        self.where = styled(W.HTML, "ul-caption")
        for button, by in ((self.back, -1), (self.forward, 1)):
            button.on_click(guarded(lambda _, by=by: self._turn(by), explorer.say))
        hear_tap(self.plot, self.bars, "place", guarded(self.tapped, explorer.say), axes="y")
        self.show_unit()
        # with its bars in it, so that they need not be sent after it
        self.figure = FigureWidget(self.plot, [self.whiskers.glyph])
        pages = styled(W.HBox, "ul-pages", [self.back, self.forward, self.where])
        self.widget = styled(W.VBox, "ul-classes-view", [self.headline, self.figure, pages])
        explorer.watch(self.show_unit, "unit", "category", "study", "measures")

    def _figure(self) -> Any:
        plot = bare_figure("classes", HEIGHT, toolbar_location=None, min_border_left=150, min_border_right=12)
        plot.yaxis.ticker = plot.ygrid.ticker = self.ticker
        plot.ygrid.grid_line_alpha = 0
        plot.yaxis.major_tick_line_alpha = plot.yaxis.axis_line_alpha = 0
        plot.xaxis.axis_label = "accuracy drop (points); filled: q ≤ 0.05"
        plot.add_layout(Span(location=0, dimension="height", line_color=GREY, line_width=1))
        colours: dict[str, Any] = {"fill_color": "face", "line_color": "face", "fill_alpha": "fill"}
        bars = drawn(plot, self.bars, HBar(y="slot", right="drop", height=0.76, line_width=1.5, **colours))
        limits = Segment(x0="low", y0="slot", x1="high", y1="slot", line_color="#1a1a1a", line_width=1.3)
        self.whiskers = drawn(plot, self.bars, limits)
        tips = [
            ("class", "@name"), ("images", "@images"), ("drop (points)", "@drop{0.0}"), ("95 %", "@low{0.0} to @high{0.0}"),
            ("q", "@q"), ("broken, fixed", "@change"),
        ]  # fmt: skip
        plot.add_tools(HoverTool(renderers=[bars], tooltips=hover_text(tips)))
        return plot

    def tapped(self, places: list[int]) -> None:
        """Choose the class of a bar."""
        if places:
            self.state.category = self.explorer.study.names[places[0]]

    def _turn(self, by: int) -> None:
        self.page += by
        self._show_page()

    @property
    def n_pages(self) -> int:
        """Pages of the present unit's classes."""
        between = len(self.row.order) - ON_PAGE
        return 1 + max(0, -(-between // ON_PAGE))

    def show_unit(self) -> None:
        """Show the chosen unit, on the page of the chosen class."""
        study, state = self.explorer.study, self.state
        self.row = study.class_drops(state.unit)
        self.page = 0
        if state.category and study.n_images[study.category_position(state.category)]:
            place = int(np.flatnonzero(self.row.order == study.category_position(state.category))[0])
            if N_DAMAGED <= place < len(self.row.order) - N_HELPED and len(self.row.order) > ON_PAGE:
                self.page = 1 + (place - N_DAMAGED) // ON_PAGE
        self.headline.value = f"<div>{finding_html(study, state.unit, self.row, state.category)}</div>"
        self._show_page()

    def _show_page(self) -> None:
        study, row = self.explorer.study, self.row
        self.page = min(max(self.page, 0), self.n_pages - 1)
        places, above = page_of_classes(row.order, self.page)
        ks = row.order[places]
        slot = np.arange(len(ks)) + np.where(np.arange(len(ks)) >= above, GAP, 0.0)
        chosen = [study.names[k] == self.state.category for k in ks]
        names = [
            f"{'▸ ' if here else ''}{isolated(name)} ({int(row.n_images[k])})"
            for name, k, here in zip(distinct(shortened(study.names[k], NAME_WIDTH) for k in ks), ks, chosen, strict=True)
        ]
        drop = row.drop[ks]
        low, high = (np.nan_to_num(limit[ks], nan=0.0) for limit in (row.low, row.high))
        self.ticker.ticks = [float(one) for one in slot]
        self.plot.yaxis.major_label_overrides = dict(zip(self.ticker.ticks, names, strict=True))
        self.bars.data = {
            "slot": slot, "drop": drop, "low": low, "high": high, "place": ks, "x": drop, "y": slot,
            "face": [ORANGE if value > 0 else GREEN if value < 0 else GREY for value in drop],
            "fill": np.where(row.significant[ks], 0.85, 0.12),
            "name": [study.names[k] for k in ks],
            "q": ["…" if np.isnan(q) else f"{q:.2g}" for q in row.q[ks]],
            "images": row.n_images[ks],
            "change": [f"{int(row.n_broken[k])}, {int(row.n_fixed[k])}" for k in ks],
        }  # fmt: skip
        ends = np.concatenate([drop, low, high, [0.0]])
        least, most = float(ends.min()), float(ends.max())
        room = max(most - least, 1.0) * 0.04
        # few classes get thicker bars, but not bars like beams
        self.plot.y_range.update(start=max(float(slot.max(initial=0)), LEAST_SLOTS) + 0.6, end=-0.6)
        self.plot.x_range.update(start=least - room, end=most + room)
        self.where.value = as_text(f"{_range_shown(places, above)} of {len(row.order)} classes")
        self.back.disabled, self.forward.disabled = self.page == 0, self.page >= self.n_pages - 1
        self.back.layout.visibility = "visible" if self.n_pages > 1 else "hidden"
        described = "; ".join(f"{study.names[k]} {number(row.drop[k])}" for k in ks)
        describe_figure(self.plot, f"Accuracy drop by class of unit {self.state.unit}, in points: {described}")


def _range_shown(places: Array, above: int) -> str:
    if above < len(places):
        return f"{above} most damaged, {len(places) - above} most helped"
    return f"{places[0] + 1}–{places[-1] + 1}" if len(places) else "none"
