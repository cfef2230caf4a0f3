"""Keep a picture of each notebook's main figure as the output of its cell, for who reads it without running it:

    python tests/notebooks/keep_pictures.py [NAME …]

Without names: those whose picture is missing or of other code. The main figure is that of the cell with the tag "picture", or
the first; the cells behind it are not run.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import re
import tempfile
import warnings
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[2] / "notebooks"
LARGEST = 70_000  # bytes of a picture
FIGURE = re.compile("data-root-id|ul-snapshot|ul-images")
WIDEST = 900  # CSS pixels
# run behind the figure's cell; an explorer's tests arrive later, and its snapshot with them
MEASURED = """import asyncio
while "p_specific" not in _oh[max(_oh)].measures:
    await asyncio.sleep(0.1)
await asyncio.sleep(0.5)"""
SAVED = "import unitlab; unitlab.plots.save(_oh[max(_oh)], {!r}); None"


def digest(notebook: nbformat.NotebookNode, place: int) -> str:
    """Of the code up to the cell at ``place``."""
    code = [cell.source for cell in notebook.cells[: place + 1] if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def kept_picture(notebook: nbformat.NotebookNode) -> tuple[int, nbformat.NotebookNode] | None:
    """Place of the cell that has a picture, and the output that it is."""
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if "picture_of" in output.get("metadata", {}):
                return place, output
    return None


def is_stale(notebook: nbformat.NotebookNode) -> bool:
    """Whether the picture is missing, or of other code than the notebook's."""
    found = kept_picture(notebook)
    return found is None or found[1].metadata["picture_of"] != digest(notebook, found[0])


def main_figure(notebook: nbformat.NotebookNode) -> tuple[int, Image.Image]:
    """Run a notebook up to its main figure: the place of its cell, and the picture, two pixels for one of CSS."""
    tagged = [place for place, cell in enumerate(notebook.cells) if "picture" in cell.metadata.get("tags", [])]
    with tempfile.TemporaryDirectory() as scratch:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": scratch}})
        with client.setup_kernel():
            for place, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                client.execute_cell(cell, place)
                if not _figures(cell) or (tagged and place not in tagged):
                    continue
                path = Path(scratch) / "figure.png"
                explored = "ul-snapshot" in _figures(cell)[-1]
                notebook.cells.append(nbformat.v4.new_code_cell(MEASURED if explored else SAVED.format(str(path))))
                client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
                if explored:
                    return place, _stacked(re.findall(r'src="data:image/\w+;base64,([^"]+)"', _figures(cell)[-1]))
                with Image.open(path) as picture:
                    return place, picture.convert("RGB")
    raise SystemExit('the notebook draws no figure; give the cell that does the tag "picture"')


def _figures(cell: nbformat.NotebookNode) -> list[str]:
    texts = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
    return [text for text in texts if FIGURE.search(text)]


def _stacked(pictures: list[str]) -> Image.Image:
    """The pictures of an explorer's snapshot, one under the other: figures at two pixels for one, images at one."""
    found = [Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB") for one in pictures]
    found[1:] = [one.resize((2 * one.width, 2 * one.height), Image.Resampling.LANCZOS) for one in found[1:]]
    sheet = Image.new("RGB", (max(one.width for one in found), sum(one.height for one in found)), "white")
    for place, one in enumerate(found):
        sheet.paste(one, (0, sum(before.height for before in found[:place])))
    return sheet


def as_output(picture: Image.Image, of: str) -> nbformat.NotebookNode:
    """The output that holds a picture, of as many colours and pixels as fit."""
    width, height = (min(picture.width // 2, WIDEST), round(picture.height * min(0.5, WIDEST / picture.width)))
    for scale, colours in ((2, 128), (2, 48), (1.5, 48), (1, 64), (1, 24)):
        held = io.BytesIO()
        small = picture.resize((round(scale * width), round(scale * height)), Image.Resampling.LANCZOS)
        small.quantize(colours, dither=Image.Dither.NONE).save(held, "PNG", optimize=True)
        if held.tell() <= LARGEST:
            break
    data = {"image/png": base64.b64encode(held.getvalue()).decode(), "text/plain": "A picture: run the cell for the figure."}
    return nbformat.v4.new_output("display_data", data, metadata={"image/png": {"width": width}, "picture_of": of})


def keep(path: Path) -> None:
    """Put the picture into the notebook, and nothing else of what it gives."""
    place, picture = main_figure(nbformat.read(path, as_version=4))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells[place].outputs = [as_output(picture, digest(notebook, place))]
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks; default those without a picture of their code")
    names = parser.parse_args().names
    warnings.filterwarnings("ignore")  # of the kernel's own packages
    for path in sorted(FOLDER.glob("*.ipynb")):
        if path.stem in names if names else is_stale(nbformat.read(path, as_version=4)):
            print(path.stem, flush=True)
            keep(path)


if __name__ == "__main__":
    main()
