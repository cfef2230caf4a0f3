"""Every notebook runs top to bottom, without network, and is committed without outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_start_page_leads_to_what_is_there() -> None:
    cells = nbformat.read(ROOT / "notebooks" / "start.ipynb", as_version=4).cells
    linked = {link for cell in cells for link in re.findall(r"\]\(([^)]+)\)", cell.source)}
    assert "explorer.ipynb" in linked
    assert all((ROOT / "notebooks" / link).is_file() for link in linked)


@pytest.mark.filterwarnings("default")  # the kernel's own packages warn, the notebook's code does not
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "committed with outputs"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert kinds & {"text/html", "application/vnd.jupyter.widget-view+json"}
