"""A notebook open in a front end, and the Bokeh figures in it, as a user sees and touches them."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, Request, TimeoutError

MEASURED = "() => [...document.querySelectorAll('.ul-status')].every((said) => !said.textContent.includes('being computed'))"
DOUBLE_TAP = 400  # ms; BokehJS takes two taps within 300 ms for one double tap


class Noticed:
    """``outside``: requests that left the machine; ``problems``: errors in the console."""

    def __init__(self, page: Page, allowed: tuple[str, ...]) -> None:
        self.outside: list[str] = []
        self.problems: list[str] = []
        self.allowed = allowed
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complaint(str(error)))

    def _let_pass(self, text: str) -> bool:
        return any(part in text for part in self.allowed)

    def _request(self, request: Request) -> None:
        if request.url.startswith(("http", "ws")) and "//127.0.0.1:" not in request.url and not self._let_pass(request.url):
            self.outside.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._complaint(f"{message.text} ({message.location.get('url', '')})")

    def _complaint(self, text: str) -> None:
        if not self._let_pass(text):
            self.problems.append(text)


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
    """A Bokeh figure by its name; ``place`` counts those of the same name from the top of the page."""

    def __init__(self, page: Page, name: str, place: int = 0, timeout: int = 20_000) -> None:
        self.page, self.which = page, [name, place]
        page.wait_for_function("which => notebookPage.drawn(...which)", arg=self.which, timeout=timeout)
        # a moment later the tests and cross-fitted drops arrive, and points move
        page.wait_for_function(MEASURED, timeout=timeout)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Page pixels of a point in data coordinates."""
        across, down = self.page.evaluate("given => notebookPage.pixel(...given)", [*self.which, x, y])
        return across, down

    def click(self, x: float, y: float) -> None:
        """Click a point in data coordinates."""
        self.page.wait_for_timeout(DOUBLE_TAP)
        self.page.mouse.click(*self.pixel(x, y))

    def drag(self, corners: list[tuple[float, float]]) -> None:
        """Drag along a closed line through points in data coordinates."""
        pixels = [self.pixel(x, y) for x, y in corners]
        self.page.mouse.move(*pixels[0])
        self.page.mouse.down()
        for across, down in [*pixels[1:], pixels[0]]:
            self.page.mouse.move(across, down, steps=8)
        self.page.mouse.up()

    def lasso(self) -> list[int]:
        """Draw a lasso around some of the units in the figure ``units``; their numbers."""
        shown = self.columns("Scatter", having="unit")
        x, y, unit = (np.array(shown[name]) for name in ("x", "y", "unit"))
        left, right, low, high = np.median(x) - 0.013, x.max() + 0.03, np.median(y) + 0.17, y.max() - 1.7
        self.drag([(left, low), (right, low), (right, high), (left, high)])
        return sorted(unit[(x > left) & (x < right) & (y > low) & (y < high)].tolist())

    def columns(self, glyph: str, having: str) -> dict[str, list[Any]]:
        """Data of the first renderer with this kind of glyph that has the column ``having``."""
        found = self.page.evaluate("given => notebookPage.columns(...given)", [*self.which, glyph])
        return next(dict(columns) for columns in found if having in columns)

    def expect_column(self, glyph: str, column: str, values: np.ndarray[Any, Any], timeout: int = 10_000) -> None:
        """Wait until a renderer with this kind of glyph has these values in a column."""
        arguments = [*self.which, glyph, column, values.tolist()]
        try:
            self.page.wait_for_function("given => notebookPage.holds(...given)", arg=arguments, timeout=timeout)
        except TimeoutError:
            assert self.columns(glyph, having=column)[column] == values.tolist()

    def painted(self) -> np.ndarray[Any, Any]:
        """Pixels inside the axes, int (row, column, rgb)."""
        picture = self.page.screenshot(clip=self.page.evaluate("which => notebookPage.frame(...which)", self.which))
        return pixels_of(picture)


def repainted(figure: Figure, before: np.ndarray[Any, Any], timeout: float = 10) -> bool:
    """Whether a figure's pixels become others than they were, within a time in seconds."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if not np.array_equal(figure.painted(), before):
            return True
    return False


def pixels_of(picture: bytes) -> np.ndarray[Any, Any]:
    """Pixels of a PNG or JPEG file, int (row, column, rgb)."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def share_near(pixels: np.ndarray[Any, Any], color: str, within: int = 40) -> float:
    """Share of pixels near a colour, given as "#rrggbb"."""
    wanted = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(axis=-1) <= within).mean())
