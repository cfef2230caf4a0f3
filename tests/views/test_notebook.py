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
    driven = "hv.DynamicMap(lambda high: hv.Bars([('a', high)]), streams=[hv.streams.Stream.define('Chosen', high=1)()])"
    first, second, live, moving = outputs(
        f"{BARS}bars", "bars * bars", driven, "hv.extension('bokeh')\nhv.HoloMap({1: bars, 2: bars})"
    )
    loader, plot = first
    assert "call(window)" in loader["application/javascript"]
    assert "data-root-id" in plot["text/html"] and "cdn." not in plot["text/html"]
    assert len(second) == 1 and "data-root-id" in second[0]["text/html"]
    assert [*live[-1]] == ["text/plain", "application/vnd.jupyter.widget-view+json"]  # Python drives it, over a widget
    assert "application/vnd.holoviews_exec.v0+json" in moving[-1]  # left to HoloViews, with its slider


@pytest.mark.filterwarnings("default")
def test_a_page_that_is_loaded_again_gets_bokeh_with_its_next_plot() -> None:
    """Outputs cleared, page loaded again, one later cell run: another client asks the same kernel."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in (f"{BARS}bars", "bars", "bars", "bars")]
    client = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=60, kernel_name="python3")
    with client.setup_kernel():
        client.execute_cell(cells[0], 0)
        client.execute_cell(cells[1], 1)
        client.kc.session.session = "the page, loaded again"
        client.execute_cell(cells[2], 2)
        client.execute_cell(cells[3], 3)
    kinds = [[*(kind for output in cell.outputs for kind in output["data"] if kind != "text/plain")] for cell in cells]
    both = ["application/javascript", "text/html"]
    assert kinds == [both, ["text/html"], both, ["text/html"]]
