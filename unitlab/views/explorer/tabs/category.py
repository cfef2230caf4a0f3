"""Class: its baseline accuracy, its most important units, the curve of their removal, its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np

from unitlab.analysis import ALPHA
from unitlab.analysis.accuracies import accuracy_interval
from unitlab.analysis.requirements import class_positions
from unitlab.views.explorer.bars import drop_bar
from unitlab.views.explorer.cumulative_curve import CumulativeCurve
from unitlab.views.explorer.measured_study import FEW_IMAGES
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.styled import styled
from unitlab.views.explorer.tab_page import tab_page
from unitlab.views.explorer.tiles import PagedTiles, Tile
from unitlab.views.findings import decimal, probability

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]

MOST_UNITS = 10


class Category:
    """``widget``: what the study holds of the state's class; without a class, a button that opens one."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.sentence = styled(W.HTML, "ul-sentence")
        self.open_worst = styled(W.Button, layout=W.Layout(width="auto"))
        self.open_worst.on_click(guarded(lambda _: self._open_worst(), explorer.say))
        heading = styled(W.HTML, "ul-heading", "Its most important units: accuracy drop of the class, points (95 % interval)")
        self.buttons = [styled(W.Button, tooltip="open this unit") for _ in range(MOST_UNITS)]
        self.bars = [styled(W.HTML) for _ in range(MOST_UNITS)]
        self.shown: list[int] = []
        for place, button in enumerate(self.buttons):
            button.on_click(guarded(lambda _, place=place: self._open_unit(place), explorer.say))
        self.rows = [
            styled(W.HBox, "", [button, bar], layout=W.Layout()) for button, bar in zip(self.buttons, self.bars, strict=True)
        ]
        note = styled(
            W.HTML, "ul-faint",
            "<p>Filled: q ≤ 0.05. The largest of many drops are biased upward; the intervals are of each unit by itself.</p>",
        )  # fmt: skip
        units = styled(W.VBox, "ul-unit-bars ul-wide", [heading, *self.rows, note])
        self.curve = CumulativeCurve(explorer)
        self.images = PagedTiles(explorer, self._tile, "ul-class-images", on_page=20)
        columns = styled(W.HBox, "ul-columns", [units, self.curve.widget])
        self.content = styled(W.VBox, "", [columns, self.images.widget], layout=W.Layout())
        self.widget = tab_page(self.sentence, self.open_worst, self.content)
        ds = explorer.study.ds
        self.before = class_positions(ds, ds["baseline_prediction"].values)
        self.show, self.show_units = guarded(self._show, self._failed), guarded(self._show_units, self._failed)
        self.show()
        explorer.watch(self.show, "category", "measures")
        explorer.watch(self.show_units, "unit")

    def _failed(self, sentence: str) -> None:
        self.content.layout.display = self.open_worst.layout.display = "none"
        self.sentence.value = f'<div class="ul-message">{message_html(sentence)}</div>'

    def _show(self) -> None:
        study, name = self.explorer.study, self.state.category
        self.content.layout.display = None if name else "none"
        if not name:
            self.show_units()
            self.sentence.value = "<p>No class is chosen: find one in the field <em>Class</em> above, or click a bar.</p>"
            return
        self.open_worst.layout.display = "none"
        k = study.category_position(name)
        here = np.flatnonzero(study.class_position == k)
        if not len(here):
            self.content.layout.display = "none"
            self.sentence.value = f"<p>The study has no image of <em>{as_text(name)}</em>, so there is nothing to measure.</p>"
            return
        right = self.before[here] == k
        cluster = study.ds["cluster"].values[here] if "cluster" in study.ds else None
        low, high = accuracy_interval(right, cluster)
        few = f" Only {len(here)} images: every number of this class is coarse." if len(here) < FEW_IMAGES else ""
        self.sentence.value = (
            f"<p>Before any ablation, <b>{int(right.sum()):,} of the {len(here):,}</b> images of <em>{as_text(name)}</em> are "
            f"predicted right: <b>{100 * right.mean():.1f} %</b> (95 % interval {100 * low:.1f} to {100 * high:.1f}).{few}</p>"
        )
        self.show_units()
        self.curve.show()
        margin = study.ds["baseline_margin"].values[here] if "baseline_margin" in study.ds else right.astype(float)
        order = here[np.argsort(margin, kind="stable")]
        self.images.fill(f"Its {len(here):,} images, the least sure first", order, "There are none.")

    def _show_units(self) -> None:
        study, name = self.explorer.study, self.state.category
        if not name:
            worst = study.worst_class(self.state.unit)
            self.open_worst.layout.display = None if worst else "none"
            self.open_worst.description = f"Open {worst}, the class that unit {self.state.unit} damages most"
            return
        k = study.category_position(name)
        drop, low, high = (study.drops[which][:, k] for which in ("accuracy_drop", "drop_low", "drop_high"))
        if not np.isfinite(drop).any():
            return
        order = np.argsort(-drop, kind="stable")[:MOST_UNITS]
        self.shown = study.units[order].tolist()
        ends = np.concatenate([drop[order], low[order], high[order], [0.0]])
        limits = (float(np.nanmin(ends)), float(np.nanmax(ends)))
        for place, row in enumerate(self.rows):
            row.layout.display = None if place < len(order) else "none"
            if place >= len(order):
                continue
            at = order[place]
            unit, button = self.shown[place], self.buttons[place]
            button.description = f"unit {unit}"
            (button.add_class if unit == self.state.unit else button.remove_class)("ul-open")
            q = float(study.q[at, k])
            interval = f" ({decimal(low[at])} to {decimal(high[at])})" if np.isfinite(low[at]) else ""
            text = f"{decimal(drop[at])}{interval}, {probability('q', q) if study.complete else 'q is being computed'}"
            self.bars[place].value = drop_bar(
                float(drop[at]), float(low[at]), float(high[at]), limits, text, sure=bool(q <= ALPHA)
            )

    def _open_unit(self, place: int) -> None:
        self.state.unit = self.shown[place]

    def _open_worst(self) -> None:
        self.state.category = self.explorer.study.worst_class(self.state.unit)

    def _tile(self, image: int) -> Tile:
        study = self.explorer.study
        right = self.before[image] == study.class_position[image]
        predicted = study.names[self.before[image]]
        small = ""
        if "baseline_margin" in study.ds:
            small = f"margin {decimal(float(study.ds['baseline_margin'].values[image]))}"
        line = "✓ right" if right else f"✗ {predicted}"
        return Tile(
            (line,), small, f"predicted {predicted}, {'right' if right else 'wrong'}. {small}", "won" if right else "lost"
        )


def build(explorer: Explorer) -> W.Widget:
    """The tab."""
    return Category(explorer).widget
