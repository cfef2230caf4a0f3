"""Thumbnails with captions, a page at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np

from unitlab.views.explorer.messages import as_text, guarded
from unitlab.views.explorer.styled import styled
from unitlab.views.gallery import data_address, picture_with_map

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]
BLANK = np.zeros((1, 1), np.float32)


@dataclass(frozen=True)
class Tile:
    """What stands under a picture: lines and a small one, the text in place of the picture, and "lost", "won" or nothing."""

    lines: tuple[str, ...]
    small: str
    alternative: str
    kind: str = ""


class PagedTiles:
    """``widget``: heading, buttons that turn pages, and the pictures in a grid of the class ``ul-tiles``."""

    def __init__(self, explorer: Explorer, tile: Callable[[int], Tile], classes: str, *, on_page: int = 12) -> None:
        self.explorer, self.tile, self.on_page = explorer, tile, on_page
        self.images: Array = np.empty(0, int)
        self.page = 0
        self.heading, self.where, self.grid = styled(W.HTML, "ul-heading"), styled(W.HTML, "ul-faint"), styled(W.HTML)
        alike = W.Layout()
        self.back = styled(W.Button, "ul-step", description="◀", tooltip="the images before these", layout=alike)
        self.forward = styled(W.Button, "ul-step", description="▶", tooltip="the next images", layout=alike)
        self._show = guarded(self._show_page, explorer.say)
        for button, by in ((self.back, -1), (self.forward, 1)):
            button.on_click(lambda _, by=by: self._turn(by))
        line = styled(W.HBox, "ul-line", [self.heading, self.back, self.where, self.forward])
        self.widget = styled(W.VBox, classes, [line, self.grid], layout=W.Layout())

    def fill(self, heading: str, images: Array, nothing: str) -> None:
        """Show the images at these positions, or the sentence ``nothing`` where there are none."""
        self.heading.value = as_text(heading)
        self.images, self.page, self.nothing = images, 0, nothing
        self._show()

    @property
    def n_pages(self) -> int:
        """Pages that the images take, at least one."""
        return max(1, -(-len(self.images) // self.on_page))

    def _turn(self, by: int) -> None:
        self.page = min(max(0, self.page + by), self.n_pages - 1)
        self._show()

    def _show_page(self) -> None:
        start = self.page * self.on_page
        shown = self.images[start : start + self.on_page]
        several = self.n_pages > 1
        self.back.layout.display = None if several else "none"  # and of the other button
        self.back.disabled, self.forward.disabled = self.page == 0, self.page == self.n_pages - 1
        self.where.value = as_text(f"{start + 1}–{start + len(shown)} of {len(self.images):,}") if several else ""
        if not len(shown):
            self.grid.value = f'<p class="ul-faint">{as_text(self.nothing)}</p>'
            return
        study = self.explorer.study
        pixels = study.thumbnails(shown) if "thumbnails" in study.ds else [None] * len(shown)
        cells = "".join(self._cell(int(image), each) for image, each in zip(shown, pixels, strict=True))
        self.grid.value = f'<div class="ul-tiles">{cells}</div>'

    def _cell(self, image: int, pixels: Array | None) -> str:
        tile = self.tile(image)
        identity = str(self.explorer.study.ds["image"].values[image])
        alternative = as_text(f"{tile.alternative}, {identity}")
        if pixels is None:
            picture = f'<div class="ul-no-picture">{as_text(identity)}</div>'
        else:
            picture = f'<img alt="{alternative}" src="{data_address(picture_with_map(pixels, BLANK, style="none"))}">'
        kind = f' class="ul-{tile.kind}"' if tile.kind else ""
        lines = "".join(f'<span dir="auto">{as_text(line)}</span>' for line in tile.lines)
        caption = f"<figcaption>{lines}<small>{as_text(tile.small)}</small></figcaption>"
        return f'<figure title="{alternative}"{kind}>{picture}{caption}</figure>'
