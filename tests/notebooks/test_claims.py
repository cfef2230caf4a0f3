"""What notebooks say beside their numbers is what the numbers say."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np

import unitlab
from unitlab.analysis import ALPHA
from unitlab.analysis.paired_tests import benjamini_hochberg

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def text_of(name: str) -> str:
    """The sentences of a notebook, on one line."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    return " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())


def test_single_units_hurt_classes() -> None:
    found = {
        name: unitlab.damage(unitlab.load(name)) for name in ("vgg_emoji", "resnet_emoji", "vgg_fashion", "alexnet_fashion")
    }
    said = text_of("single_units_hurt_classes")

    specific = {name: float((benjamini_hochberg(d.p_specific.values) <= ALPHA).mean()) for name, d in found.items()}
    assert "holds for seven in ten of the units or more" in said and 0.7 <= min(specific.values()) < 0.8

    named = {name: float((d.n_damaged.values > 0).mean()) for name, d in found.items()}
    assert "for a third (alexnet_fashion) to five sixths (resnet_emoji) of the units" in said
    assert (min(named, key=named.__getitem__), max(named, key=named.__getitem__)) == ("alexnet_fashion", "resnet_emoji")
    np.testing.assert_allclose([named["alexnet_fashion"], named["resnet_emoji"]], [1 / 3, 5 / 6], atol=0.03)

    cells = {name: round(100 * float(d.damaged.values.mean())) for name, d in found.items()}
    assert "two to three percent of the (unit, class) cells" in said and "1,000 images a class, four to ten" in said
    assert {cells["vgg_emoji"], cells["resnet_emoji"]} == {2, 3}
    assert {cells["vgg_fashion"], cells["alexnet_fashion"]} == {4, 10}
