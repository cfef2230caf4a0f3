"""A notebook open in a front end, and the explorers in it, as a user sees and touches them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect


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

    def value(self, expression: str) -> str:
        """What an expression is in the kernel."""
        return str(self.page.evaluate("expression => notebookPage.value(expression)", expression))

    def theme(self, name: str) -> None:
        """ "JupyterLab Light" or "JupyterLab Dark"."""
        self._command("apputils:change-theme", theme=name)
        light = str(name.endswith("Light")).lower()
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=light)


class Shown:
    """An explorer in a notebook page; ``place`` counts them from the top of the page."""

    def __init__(self, page: Page, place: int = 0, timeout: int = 20_000) -> None:
        self.page = page
        self.root: Locator = page.locator(".ul-explorer").nth(place)
        self.root.locator("canvas, .ul-note-message:visible").first.wait_for(timeout=timeout)
        # a moment later the tests and cross-fitted drops arrive, and points move
        expect(self.root.locator(".ul-units figcaption")).not_to_contain_text("being computed", timeout=timeout)
        expect(self.root.locator("#bars")).not_to_have_class("ul-stale")

    @property
    def unit(self) -> int:
        """The open unit."""
        return int(self.root.locator(".ul-unit").input_value())

    def point(self, unit: int) -> tuple[float, float]:
        """Page pixels of a unit's point."""
        point = self.root.locator(f"circle[data-unit='{unit}']")
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def places(self) -> dict[int, tuple[float, float]]:
        """Page pixels of every unit's point."""
        self.root.locator("#scatter").scroll_into_view_if_needed()
        found = self.root.locator("circle.point").evaluate_all(
            "all => all.map(one => { const box = one.getBoundingClientRect(); "
            "return [Number(one.dataset.unit), box.x + box.width / 2, box.y + box.height / 2]; })"
        )
        return {unit: (x, y) for unit, x, y in found}

    def lonely(self, count: int, but: int) -> list[int]:
        """Units, except one, whose points have no near neighbour."""
        places = self.places()
        units, at = list(places), np.array(list(places.values()))
        distance = np.hypot(*(at[:, None] - at[None]).T)
        np.fill_diagonal(distance, np.inf)
        return [units[k] for k in np.argsort(-distance.min(0)) if units[k] != but][:count]

    def click(self, unit: int) -> None:
        """Click a unit's point."""
        self.page.mouse.click(*self.point(unit))

    def lasso(self) -> list[int]:
        """Draw a lasso around some of the units; their numbers."""
        places, mouse = self.places(), self.page.mouse
        x, y = np.array(list(places.values())).T
        left, right, top, bottom = np.median(x), x.max() + 5, y.min() - 5, np.median(y) + 3
        mouse.move(left, top)
        mouse.down()
        for corner in ((right, top), (right, bottom), (left, bottom), (left, top)):
            mouse.move(*corner, steps=8)
        mouse.up()
        return sorted(unit for unit, (across, down) in places.items() if left < across < right and top < down < bottom)

    def tab(self, title: str) -> Locator:
        """Open a tab, if it is not; its panel."""
        head = self.root.get_by_role("tab", name=title, exact=True)
        if head.get_attribute("aria-selected") != "true":
            head.click()
        return self.root.locator(f".ul-tab[data-title='{title}']")


def pixels_of(picture: bytes) -> np.ndarray[Any, Any]:
    """Pixels of a PNG or JPEG file, int (row, column, rgb)."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def share_near(pixels: np.ndarray[Any, Any], color: str, within: int = 40) -> float:
    """Share of pixels near a colour, given as "#rrggbb"."""
    wanted = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(axis=-1) <= within).mean())
