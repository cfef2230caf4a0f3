"""What notebooks say beside their numbers is what the numbers say."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np

import unitlab
from unitlab.analysis import ALPHA
from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.analysis.training_choices import effects, over_live_units, student_t_interval

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


def test_directions_hurt_single_classes_less_than_units() -> None:
    found, said = unitlab.random_bases(), text_of("directions_batch_norm_dropout")
    assert found.difference_low.attrs["covers"] == found.difference_high.attrs["covers"] == "images and bases"
    told = {name: found.sel(measure=name) for name in ("max_class_drop_crossfit", "overall_drop", "max_class_auc")}
    crossfit = told["max_class_drop_crossfit"]
    assert (crossfit.difference_high < 0).all()
    whole, matched = (100 * crossfit.difference_mean.sel(comparison=name).item() for name in ("whole basis", "matched energy"))
    assert f"{-whole:.2f} points less over whole bases and {-matched:.2f} less beside units that remove as much" in said
    overall = told["overall_drop"]
    assert "the overall drop shows no clear difference" in said
    assert (overall.difference_low < 0).all() and (overall.difference_high > 0).all()
    area = told["max_class_auc"]
    assert "better than a unit over whole bases, less well beside units of like energy" in said
    assert area.difference_low.sel(comparison="whole basis") > 0 > area.difference_high.sel(comparison="matched energy")


def test_training_choices() -> None:
    choices, said = unitlab.training_choices(), text_of("directions_batch_norm_dropout")

    def change(name: str, choice: str) -> tuple[float, float]:
        one = student_t_interval(effects(over_live_units(choices, name))).sel(choice=choice)
        return one.low.item(), one.high.item()

    assert "Dropout makes single units matter less, to all images and to the class they hurt most" in said
    assert change("overall_drop", "dropout")[1] < 0 and change("max_class_drop_crossfit", "dropout")[1] < 0
    assert "Batch norm makes them matter more to specific classes" in said
    assert change("max_class_drop_crossfit", "batch norm")[0] > 0
    low, high = change("overall_drop", "batch norm")
    assert "what it does to the overall drop five seeds do not tell" in said and low < 0 < high
    assert change("class_selectivity", "batch norm")[1] < 0 < change("class_selectivity", "dropout")[0]
