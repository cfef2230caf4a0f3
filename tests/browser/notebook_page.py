"""A notebook open in a front end, and the Bokeh figures in it, as a user sees and touches them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, Request

DOUBLE_TAP = 400  # ms; BokehJS takes two taps within 300 ms for one double tap


@dataclass
class Noticed:
    """What a page did that a user would not want."""

    outside: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def request(self, request: Request) -> None:
        if request.url.startswith(("http", "ws")) and "//127.0.0.1:" not in request.url:
            self.outside.append(request.url)

    def console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"{message.text} ({message.location.get('url', '')})")


class NotebookPage:
    """A notebook in JupyterLab; commands go to the application, not through menus."""

    def __init__(self, page: Page, url: str, name: str) -> None:
        self.page = page
        page.goto(f"{url}/lab/tree/{name}?reset")
        page.wait_for_function("() => notebookPage.ready()", timeout=60_000)
        self._command("application:toggle-left-area")

    def _command(self, name: str, **arguments: Any) -> None:
        self.page.evaluate("([name, given]) => { jupyterapp.commands.execute(name, given) }", [name, arguments])

    def run_all(self, timeout: int = 120_000) -> None:
        """Run every cell; an error in one of them is an error here."""
        self._command("notebook:run-all-cells")
        self.page.wait_for_function("() => notebookPage.ran()", timeout=timeout)
        assert self.page.evaluate("() => notebookPage.errors()") == []

    def theme(self, name: str) -> None:
        """ "JupyterLab Light" or "JupyterLab Dark"."""
        self._command("apputils:change-theme", theme=name)
        light = str(name.endswith("Light")).lower()
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=light)


class Figure:
    """A Bokeh figure by its name."""

    def __init__(self, page: Page, name: str, timeout: int = 20_000) -> None:
        self.page, self.name = page, name
        page.wait_for_function("name => notebookPage.drawn(name)", arg=name, timeout=timeout)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Page pixels of a point in data coordinates."""
        across, down = self.page.evaluate("given => notebookPage.pixel(...given)", [self.name, x, y])
        return across, down

    def click(self, x: float, y: float) -> None:
        """Click a point in data coordinates."""
        across, down = self.pixel(x, y)
        self.page.wait_for_timeout(DOUBLE_TAP)
        self.page.mouse.click(across, down)

    def title(self) -> str:
        return str(self.page.evaluate("name => notebookPage.title(name)", self.name))

    def columns(self, glyph: str) -> list[dict[str, list[Any]]]:
        """Data of every renderer with this kind of glyph."""
        return list(self.page.evaluate("given => notebookPage.columns(...given)", [self.name, glyph]))

    def painted(self) -> np.ndarray[Any, Any]:
        """Pixels inside the axes, int (row, column, rgb)."""
        picture = self.page.screenshot(clip=self.page.evaluate("name => notebookPage.frame(name)", self.name))
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def share_near(pixels: np.ndarray[Any, Any], color: str, within: int = 40) -> float:
    """Share of pixels near a colour, given as "#rrggbb"."""
    wanted = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(axis=-1) <= within).mean())
