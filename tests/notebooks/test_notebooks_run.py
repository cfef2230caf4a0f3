"""Every notebook runs top to bottom, without network, and is committed with one output: a picture of its main figure."""

from __future__ import annotations

import ast
import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from keep_pictures import is_stale, kept_picture
from nbclient import NotebookClient
from PIL import Image

import unitlab

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IN_LAB = ("damage_of_a_unit", "single_units_hurt_classes", "your_own_view")  # run by browser/test_notebooks_in_lab.py


def test_the_start_page_leads_to_what_is_there() -> None:
    cells = nbformat.read(ROOT / "notebooks" / "start.ipynb", as_version=4).cells
    linked = {link for cell in cells for link in re.findall(r"\]\(([^)]+)\)", cell.source)}
    assert "explorer.ipynb" in linked
    assert all((ROOT / "notebooks" / link).is_file() for link in linked)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_who_does_not_run_it_sees_its_main_figure(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not is_stale(notebook), f"python tests/notebooks/keep_pictures.py {path.stem} takes the picture of its figure"
    _, output = kept_picture(notebook)  # type: ignore[misc]
    with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert picture.width >= output.metadata["image/png"]["width"] >= 400
    assert pixels.std() > 10, "an empty picture"


def test_a_picture_is_stale_once_the_code_that_draws_it_changes() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "start.ipynb", as_version=4)
    place, _ = kept_picture(notebook)  # type: ignore[misc]
    assert not is_stale(notebook)
    notebook.cells.append(nbformat.v4.new_code_cell("later = 1"))
    assert not is_stale(notebook), "what comes behind the figure has no part in it"
    notebook.cells[place].source += "  # changed"
    assert is_stale(notebook)
    notebook.cells[place].outputs = []
    assert is_stale(notebook)


def test_what_is_not_run_here_is_run_in_jupyterlab() -> None:
    there = (ROOT / "tests" / "browser" / "test_notebooks_in_lab.py").read_text()
    assert f"NOTEBOOKS = {IN_LAB!r}".replace("'", '"') in there and there.count(".run_all()") == len(IN_LAB)


def test_notebooks_are_small() -> None:
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 1_500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_from_the_inside_is_needed(path: Path) -> None:
    public = {"unitlab", *(f"unitlab.{name}" for name in unitlab._MODULES)}
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for node in ast.walk(ast.parse("\n".join(code))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "unitlab":
            assert node.module in public, f"from {node.module} import …"
            assert node.module != "unitlab" or {alias.name for alias in node.names} <= {*unitlab.__all__}
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("unitlab.")]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "unitlab":
            assert node.attr in unitlab.__all__, f"unitlab.{node.attr}"


@pytest.mark.filterwarnings("default")  # the kernel's own packages warn, the notebook's code does not
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in IN_LAB], ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kept = [output for cell in code for output in cell.outputs]
    assert all(cell.execution_count is None for cell in code) and all("picture_of" in output.metadata for output in kept), (
        "committed with outputs: python tests/notebooks/keep_pictures.py clears them"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert kinds & {"text/html", "application/vnd.jupyter.widget-view+json"}
