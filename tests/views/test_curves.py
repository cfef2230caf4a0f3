"""Plots of curves hold the numbers of the dataset, and render."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from unitlab import UnitlabError
from unitlab.analysis.accuracies import accuracy_curves
from unitlab.schema import CURVE_VARIABLES, described

hv = pytest.importorskip("holoviews")

from unitlab import plots  # noqa: E402


def curve(order: str, n_orders: int, *, own: bool = False, seed: int = 0) -> xr.Dataset:
    """A made-up result of `unitlab.cumulative`."""
    random = np.random.default_rng(seed)
    categories = np.array(["a", "b", "c"], dtype=object)
    label = np.arange(90) % 3
    root = {"label": label, "n_images": np.bincount(label), "category": categories}
    wrong = random.random((n_orders, 5, 90)) < np.linspace(0.1, 0.8, 5)[:, None]
    prediction = np.where(wrong, (label + 1) % 3, label)
    names = ["a", "b", "c"] if own else [f"{order} {number}" for number in range(n_orders)]
    values = {
        **accuracy_curves(root, prediction, own=own, names=names), **root, "category_index": np.arange(3),
        "order": np.array(names, dtype=object), "k": np.arange(5), "curve_prediction": prediction,
        "ranked_unit": np.zeros((1, n_orders, 4), int),
    }  # fmt: skip
    return described(CURVE_VARIABLES, values, {"order": order, "keep": 0, "rank_on": "crossfit", "layer": "conv5"})


def drawn(figure: object) -> object:
    return hv.renderer("bokeh").get_plot(figure).state


def test_one_order_with_its_interval_and_random_ones_with_their_range() -> None:
    one, random = curve("overall_drop", 1), curve("random", 6, seed=1)
    figure = plots.cumulative({"by drop": one, "random": random})
    lines = [layer for layer in figure if type(layer) is hv.Curve]
    areas = [layer for layer in figure if isinstance(layer, hv.Area)]
    np.testing.assert_allclose(lines[0]["value"], 100 * one.accuracy[0])
    np.testing.assert_allclose(lines[1]["value"], 100 * random.accuracy.mean("order"))
    np.testing.assert_allclose(areas[0]["value"], 100 * one.accuracy_low[0])
    np.testing.assert_allclose(areas[1]["high"], 100 * random.accuracy.max("order"))
    plot = drawn(figure)
    assert plot.legend[0] in plot.above, "it covers no curve"
    assert plot.xaxis[0].axis_label == "units silenced" and plot.yaxis[0].axis_label == "accuracy (%)"


def test_a_class_and_the_mean_over_own_orders() -> None:
    ds = curve("balanced_accuracy_drop", 3, own=True)
    mean = next(layer for layer in plots.cumulative(ds, "own_balanced_accuracy") if type(layer) is hv.Curve)
    np.testing.assert_allclose(mean["value"], 100 * ds.own_balanced_accuracy.mean("order"))
    one = plots.cumulative(ds.isel(order=[1]), "balanced_accuracy", category="b")
    line = next(layer for layer in one if type(layer) is hv.Curve)
    np.testing.assert_allclose(line["value"], 100 * ds.balanced_accuracy[1, :, 1])
    assert "balanced accuracy of b" in drawn(one).yaxis[0].axis_label


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": "acuracy"}, "Did you mean 'accuracy'"),
        ({"y": "own_accuracy"}, "an order of its own"),
        ({"y": "class_accuracy"}, "name it"),
        ({"y": "class_accuracy", "category": "z"}, "no class 'z'"),
        ({"category": "a"}, "leave out category"),
    ],
)
def test_bad_input_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UnitlabError, match=message):
        plots.cumulative(curve("overall_drop", 1), **options)
    with pytest.raises(UnitlabError, match=r"results of unitlab\.cumulative"):
        plots.cumulative({"a": xr.Dataset()})
    with pytest.raises(UnitlabError, match="is empty"):
        plots.cumulative({})
