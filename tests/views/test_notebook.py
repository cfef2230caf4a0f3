"""What a cell's output holds when a plot is shown (that it is drawn: tests/browser)."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

BARS = "import holoviews as hv\nimport unitlab.views.notebook\nbars = hv.Bars([('a', 1), ('b', 2)])\n"


def outputs(*cells: str) -> list[list[dict[str, Any]]]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    return [[output["data"] for output in cell.outputs] for cell in notebook.cells]


@pytest.mark.filterwarnings("default")
def test_bokeh_is_loaded_by_the_first_plot_of_a_notebook_only() -> None:
    first, second, moving = outputs(f"{BARS}bars", "bars * bars", "hv.extension('bokeh')\nhv.HoloMap({1: bars, 2: bars})")
    loader, plot = first
    assert "call(window)" in loader["application/javascript"]
    assert "data-root-id" in plot["text/html"] and "cdn." not in plot["text/html"]
    assert len(second) == 1 and "data-root-id" in second[0]["text/html"]
    assert "application/vnd.holoviews_exec.v0+json" in moving[-1]  # left to HoloViews, with its slider
