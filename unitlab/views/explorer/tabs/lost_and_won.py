"""Lost and won: the images whose prediction an ablation changes, and where the lost ones go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np

from unitlab.analysis.requirements import class_positions
from unitlab.views.explorer.bars import count_bars
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.styled import styled
from unitlab.views.explorer.tab_page import tab_page
from unitlab.views.explorer.tiles import PagedTiles, Tile
from unitlab.views.findings import decimal
from unitlab.views.words import isolated

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]

MOST_PAIRS = 10


class LostAndWon:
    """``widget``: a sentence, lost and won images a page at a time, and bars of where the lost ones go."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.sentence, self.moved = styled(W.HTML, "ul-sentence"), styled(W.HTML, "ul-moved")
        self.lost = PagedTiles(explorer, lambda image: self._tile(image, "lost"), "ul-lost-images ul-wide")
        self.won = PagedTiles(explorer, lambda image: self._tile(image, "won"), "ul-won-images ul-wide")
        heading = styled(W.HTML, "ul-heading", "Where the lost images go")
        where = styled(W.VBox, "ul-narrow", [heading, self.moved])
        self.columns = styled(W.HBox, "ul-columns", [self.lost.widget, self.won.widget, where], layout=W.Layout())
        self.widget = tab_page(self.sentence, self.columns)
        ds = explorer.study.ds
        self.before = class_positions(ds, ds["baseline_prediction"].values)
        self.show = guarded(self._show, self._failed)
        self.show()
        explorer.watch(self.show, "unit", "category")

    def _failed(self, sentence: str) -> None:
        self.columns.layout.display = "none"
        self.sentence.value = f'<div class="ul-message">{message_html(sentence)}</div>'

    def _show(self) -> None:
        study, state = self.explorer.study, self.state
        place = study.position(state.unit)
        self.after = class_positions(study.ds, study.ds["prediction"][place].values)
        label = study.class_position
        self.margin_drop = None
        if {"label_margin_drop", "baseline_margin"} <= set(study.ds.variables):
            self.margin_drop = study.ds["label_margin_drop"][place].values.astype(float)
        here = np.ones(len(label), bool)
        if state.category:
            here = label == study.category_position(state.category)
        moved = here & (self.before != self.after)
        lost, won = np.flatnonzero(moved & (self.before == label)), np.flatnonzero(moved & (self.after == label))
        swapped = int(moved.sum()) - len(lost) - len(won)
        self.columns.layout.display = None
        self.sentence.value = f"<p>{self._summary(len(lost), len(won), swapped, int(here.sum()))}</p>"
        for tiles, images in ((self.lost, lost), (self.won, won)):
            tiles.widget.layout.display = None if len(images) else "none"
        of = f" of {isolated(state.category)}" if state.category else ""
        self.lost.fill(f"Lost: {len(lost):,} images{of}", self._by_margin(lost), "")
        self.won.fill(f"Won: {len(won):,} images{of}", self._by_margin(won)[::-1], "")
        self.moved.value = self._where(lost)

    def _summary(self, lost: int, won: int, swapped: int, of: int) -> str:
        state = self.state
        among = f"the {of:,} images of <em>{as_text(state.category)}</em>" if state.category else f"all {of:,} images"
        if not lost + won + swapped:
            return f"Without unit {state.unit}, the prediction of none of {among} changes."
        are, go = "is" if lost == 1 else "are", "goes" if swapped == 1 else "go"
        return (
            f"Without unit {state.unit}, of {among} <b>{lost:,}</b> {are} lost (right before, wrong after) and "
            f"<b>{won:,}</b> won; {swapped:,} {go} from one wrong class to another."
        )

    def _by_margin(self, images: Array) -> Array:
        """The images that lose the most margin first."""
        if self.margin_drop is None:
            return images
        return images[np.argsort(-self.margin_drop[images], kind="stable")]

    def _tile(self, image: int, kind: str) -> Tile:
        names = self.explorer.study.names
        before, after = names[self.before[image]], names[self.after[image]]
        small = ""
        if self.margin_drop is not None:
            margin = float(self.explorer.study.ds["baseline_margin"].values[image])
            small = f"margin {decimal(margin)} → {decimal(margin - float(self.margin_drop[image]))}"
        lines: tuple[str, ...] = (before, f"→ {after}")
        if self.state.category:
            lines = lines[1:] if kind == "lost" else lines[:1]
        return Tile(lines, small, f"{kind}: predicted {before} before, {after} after. {small}", kind)

    def _where(self, lost: Array) -> str:
        if not len(lost):
            return '<p class="ul-faint">Nowhere: no image is lost.</p>'
        names, size = self.explorer.study.names, len(self.explorer.study.names)
        pairs, counts = np.unique(self.before[lost] * size + self.after[lost], return_counts=True)
        order = np.argsort(-counts, kind="stable")

        rows = [
            ([names[pair % size]] if self.state.category else [names[pair // size], names[pair % size]], int(count))
            for pair, count in zip(pairs[order][:MOST_PAIRS], counts[order][:MOST_PAIRS], strict=True)
        ]
        rest = int(counts[order][MOST_PAIRS:].sum())
        more = f'<p class="ul-faint">{rest:,} images in {len(counts) - MOST_PAIRS:,} other pairs.</p>' if rest else ""
        return count_bars(rows, "lost images by class before and after") + more


def build(explorer: Explorer) -> W.Widget:
    """The tab."""
    return LostAndWon(explorer).widget
