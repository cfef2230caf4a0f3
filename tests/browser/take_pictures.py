"""Take the pictures that README and the start notebook show: python tests/browser/take_pictures.py"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from chromium import opened_page, started_chromium
from jupyter_server_process import jupyter_server
from notebook_page import NotebookPage, Shown
from PIL import Image
from playwright.sync_api import Locator, Page

import unitlab

FOLDER = Path(__file__).parents[2] / "notebooks" / "pictures"
LARGEST = 300_000  # bytes


def keep(name: str, picture: bytes) -> None:
    """As WebP, at the best quality that fits."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for quality in (95, 90, 80, 70, 50):
        image.save(FOLDER / f"{name}.webp", quality=quality, method=6)
        if (FOLDER / f"{name}.webp").stat().st_size <= LARGEST:
            return
    raise ValueError(f"{name} does not fit into {LARGEST} bytes")


def settled(page: Page, what: Locator) -> bytes:
    """Picture of an element once the page has come to rest."""
    what.scroll_into_view_if_needed()
    page.wait_for_timeout(800)
    return what.screenshot()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, jupyter_server(Path(scratch)) as server, started_chromium() as browser:
        with opened_page(browser) as page:
            notebook = NotebookPage(page, server.url, "explorer.ipynb")
            notebook.run_all()
            shown = Shown(page)
            page.set_viewport_size({"width": 1400, "height": 1400})
            explorer = shown.root
            keep("explorer", settled(page, explorer))
            notebook.theme("JupyterLab Dark")
            page.set_viewport_size({"width": 1400, "height": 1800})  # with room for the tab
            shown.tab("Lost and won")
            keep("explorer_dark", settled(page, explorer))
        with opened_page(browser) as page:
            notebook = NotebookPage(page, server.url, "damage_of_a_unit.ipynb")
            notebook.theme("JupyterLab Light")
            notebook.run_all()
            page.set_viewport_size({"width": 900, "height": 1400})
            keep(
                "damage_of_a_unit",
                settled(
                    page, page.locator(".jp-OutputArea-output", has=page.locator(".bk-Figure")).nth(2).locator(".bk-Figure")
                ),
            )
        with opened_page(browser) as page:
            page.goto(unitlab.report(unitlab.load("vgg_emoji"), Path(scratch) / "report.html").as_uri())
            page.wait_for_timeout(800)
            keep("report", page.screenshot())


if __name__ == "__main__":
    main()
