"""What the Take away tab gives to the browser, in a page without a kernel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import INLINE
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from unitlab.views.explorer.downloads import copy_button, download_button, figures_button


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Page:
    figures = []
    for name, color in (("units", "#0072b2"), ("classes", "#d55e00")):
        figures.append(figure(name=name, width=300, height=200, output_backend="canvas", border_fill_alpha=0))
        figures[-1].scatter([1, 2], [3, 4], size=30, color=color)
    script, parts = components(figures)
    buttons = [
        figures_button("vgg <b>&'\""),
        download_button("Save", "cells.csv", "text/csv", "ä,<b>\n".encode() * 400_000),
        f'<code class="ul-code">unitlab.explore("x")</code>{copy_button()}',
    ]
    text = "".join(f"<div>{each}</div>" for each in [*parts, *buttons])
    page = tmp_path / "page.html"
    page.write_text(
        f'<meta charset="utf-8">{INLINE.render()}<div class="ul-explorer" style="--ul-ground: #123456">{text}</div>{script}',
        "utf-8",
    )
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_function("() => Bokeh.documents.length && Bokeh.documents[0].is_idle")
    return tab


def test_figures_are_saved_on_the_ground_of_the_page(opened: Page) -> None:
    taken = []
    opened.on("download", lambda download: taken.append(download))
    with opened.expect_download(lambda download: download.suggested_filename.endswith("_classes.png")):
        opened.get_by_text("Save plots as PNG").click()
    expect(opened.locator("[role=status]")).to_have_text("2 pictures saved")
    for download, color in zip(taken, ((0, 114, 178), (213, 94, 0)), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(Path(download.path()).read_bytes())).convert("RGB"))
        assert tuple(pixels[0, 0]) == (0x12, 0x34, 0x56)
        assert (pixels == np.array(color)).all(2).sum() > 200
    assert taken[0].suggested_filename.endswith("_units.png")
    opened.close()


def test_a_file_of_megabytes_is_saved_as_it_is(opened: Page) -> None:
    with opened.expect_download() as taken:
        opened.get_by_text("Save", exact=True).click()
    assert taken.value.suggested_filename == "cells.csv"
    assert Path(taken.value.path()).read_bytes() == "ä,<b>\n".encode() * 400_000
    opened.close()


def test_code_is_copied(opened: Page) -> None:
    opened.evaluate("document.addEventListener('copy', () => { window.copied = getSelection().toString() })")
    opened.get_by_text("Copy", exact=True).click()
    expect(opened.get_by_text("Copied")).to_be_visible()
    assert opened.evaluate("copied") == 'unitlab.explore("x")'
    opened.close()
