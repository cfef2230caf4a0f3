"""Figures of estimates with their intervals hold the numbers of the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from simulated_study import simulated_study

import unitlab
from unitlab import UnitlabError

hv = pytest.importorskip("holoviews")

from bokeh.models import WheelZoomTool  # noqa: E402

from unitlab import plots  # noqa: E402


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,))


@pytest.fixture(scope="module")
def table(study: xr.Dataset) -> pd.DataFrame:
    return unitlab.correlations(study)


def drawn(figure: object) -> object:
    return hv.renderer("bokeh").get_plot(figure).state


def layers(figure: hv.Overlay, kind: type) -> list[hv.Element]:
    return [layer for layer in figure if isinstance(layer, kind)]


def test_correlations_from_the_top_down(table: pd.DataFrame) -> None:
    figure = plots.correlations(table, "overall_drop", kind="pearson")
    (dots,), (ends,) = layers(figure, hv.Points), layers(figure, hv.Segments)
    rows = table[(table.y == "overall_drop") & table.pearson.notna()].sort_values("pearson", ascending=False)
    from_the_top = np.argsort(-dots["row"])
    np.testing.assert_array_equal(dots["estimate"][from_the_top], rows.pearson)
    np.testing.assert_array_equal(ends["estimate"][from_the_top], rows.pearson_low)
    np.testing.assert_array_equal(ends["high"][from_the_top], rows.pearson_high)
    np.testing.assert_array_equal(ends["row"], dots["row"])
    np.testing.assert_array_equal(dots["fill"][from_the_top] > 0, rows.pearson_q <= 0.05)
    plot = drawn(figure)
    assert plot.xaxis[0].axis_label == "Pearson correlation with overall drop; filled: q ≤ 0.05"
    label = plot.yaxis[0].major_label_overrides
    assert label[int(dots["row"].max())] == dots["name"][from_the_top[0]]
    assert not isinstance(plot.toolbar.active_scroll, WheelZoomTool), "the wheel belongs to the page"


def test_several_tables_share_the_rows_of_the_same_name() -> None:
    one = pd.DataFrame({"value": [1.0, 2.0], "low": [0.0, 1.0], "high": [2.0, 3.0]}, index=["a", "b"])
    other = pd.DataFrame({"value": [5.0, np.nan], "low": [4.0, np.nan], "high": [6.0, np.nan]}, index=["b", "c"])
    first, second = layers(figure := plots.intervals({"one": one, "other": other}), hv.Points)
    assert list(first["name"]) == ["a", "b"] and list(second["name"]) == ["b"]
    assert np.round(first["row"]).tolist() == [2, 1] and np.round(second["row"]).tolist() == [1]
    assert first["row"][1] > second["row"][0]
    assert [layer.label for layer in (first, second)] == ["one", "other"]
    drawn(figure)


def test_rows_of_several_levels_and_of_the_reader_s_own_names() -> None:
    index = pd.MultiIndex.from_tuples([("overall_drop", "mine"), ("overall_drop", "<b>")])
    figure = plots.intervals(pd.DataFrame({"value": [1.0, 2.0], "low": 0.0, "high": 3.0}, index=index))
    assert list(layers(figure, hv.Points)[0]["name"]) == ["overall drop, mine", "overall drop, <b>"]
    drawn(figure)


def test_what_cannot_be_plotted(table: pd.DataFrame, study: xr.Dataset) -> None:
    twice = pd.DataFrame({"value": [1.0, 2.0], "low": 0.0, "high": 3.0}, index=["a", "a"])
    for refused, message in (
        (lambda: plots.intervals(twice), "'a' twice"),
        (lambda: plots.intervals(twice.iloc[:1], "valeu"), "Did you mean 'value'"),
        (lambda: plots.intervals(twice.iloc[:1], filled="sure"), "no column 'sure'"),
        (lambda: plots.intervals({}), "nothing to plot"),
        (lambda: plots.intervals(twice.iloc[:0]), "nothing to plot"),
        (lambda: plots.correlations(table, "overal_drop"), "Did you mean 'overall_drop'"),
        (lambda: plots.correlations(table, kind="kendall"), "one of spearman, pearson"),
        (lambda: plots.correlations(twice), "tables that unitlab.correlations"),
        (lambda: plots.correlations({"a": study}), "tables that unitlab.correlations"),
    ):
        with pytest.raises(UnitlabError, match=message):
            refused()


def test_a_dataset_is_no_table() -> None:
    with pytest.raises(UnitlabError, match=r"takes a table .* given: Dataset"):
        plots.intervals(unitlab.load("vgg_fashion"))
