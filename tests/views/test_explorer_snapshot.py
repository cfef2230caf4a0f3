"""What stands for an explorer in a saved notebook: shown by nbconvert and where neither style nor script is let through."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from simulated_study import simulated_study

import unitlab
from unitlab.views.findings import unit_finding

pytest.importorskip("anywidget")

BAD = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def pictures(text: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in re.findall(r'src="data:image/\w+;base64,([^"]+)"', text)]


@pytest.mark.parametrize("name", ["vgg_emoji", "alexnet_fashion"])
def test_it_is_small_and_holds_sentence_figures_images_and_code(name: str) -> None:
    explorer = unitlab.explore(name, unit=3)
    text = explorer._still()["text/html"]
    assert len(text) < 150_000 and "<style" not in text and "<script" not in text and " style=" not in text
    assert str(unit_finding(explorer.measures, 3)) in unescape(text) and "unitlab.explore(" in text
    figures, images = pictures(text)
    pixels = np.asarray(figures.convert("RGB")).astype(int)
    for color in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(pixels - np.array(color)).max(-1) < 24).mean() > 0.0005
    assert np.asarray(images).std() > 20


def test_names_are_text_and_what_is_missing_is_left_out() -> None:
    study = simulated_study(5, 4, 60, thumbnails=False).assign_coords(category=np.array([BAD, "猫", "حديقة", "b"], object))
    text = unitlab.explore(study.assign_attrs(name=BAD), unit=1, category=BAD)._still()["text/html"]

    found: list[str] = []
    tags = HTMLParser()
    tags.handle_starttag = lambda tag, attrs: found.append(tag)  # type: ignore[method-assign]
    tags.feed(text)
    assert "_" not in re.sub(r"<code>.*?</code>|<[^>]*>", "", text)
    assert set(found) == {"div", "p", "img", "code"} and found.count("img") == 1


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("import unitlab\nunitlab.explore('vgg_fashion', unit=3)")
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": ""}})
    NotebookClient(notebook, timeout=60, kernel_name="python3", store_widget_state=True).execute()
    return notebook


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("with_state", [True, False])
def test_nbconvert_shows_it(executed: nbformat.NotebookNode, with_state: bool, tmp_path: Path) -> None:
    live, still = executed.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in live["data"] and "ul-snapshot" in still["data"]["text/html"]
    assert still["data"]["text/plain"] == "unitlab.explore('vgg_fashion', unit=3)"
    notebook = executed.copy()
    assert "widgets" in notebook.metadata
    if not with_state:
        notebook.metadata = {name: value for name, value in notebook.metadata.items() if name != "widgets"}
    text, _ = HTMLExporter().from_notebook_node(notebook)
    assert 'class="ul-snapshot"' in text and "Unit 3 costs" in text and len(pictures(text)) >= 2


def test_sanitised_html_shows_it(executed: nbformat.NotebookNode) -> None:
    bleach = pytest.importorskip("bleach")
    kept = bleach.clean(
        executed.cells[0].outputs[1]["data"]["text/html"], tags={"p", "img", "code", "div"},
        attributes={"img": ["src", "alt", "width"]}, protocols={"data"}, strip=True,
    )  # fmt: skip
    assert "Unit 3 costs" in kept and len(pictures(kept)) == 2
