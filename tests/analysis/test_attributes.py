"""Attributes against plain numpy, one unit at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from simulated_study import simulated_study
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

import unitlab
from unitlab import UnitlabError
from unitlab.analysis.attributes import selectivity
from unitlab.analysis.mutual_information import mutual_information
from unitlab.schema import VARIABLES


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(10, 5, 300, 3, dead_units=(6,))


def plain_selectivity(values: np.ndarray, label: np.ndarray) -> float:
    means = [values[label == k].mean(dtype=float) for k in range(label.max() + 1)]
    most = max(means)
    rest = [m for k, m in enumerate(means) if k != int(np.argmax(means))]
    return float((most - np.mean(rest)) / (most + np.mean(rest)))


def test_attributes_agree_with_plain_numpy(study: xr.Dataset) -> None:
    found = unitlab.attributes(study)
    label = study.label.values
    for unit in range(10):
        if unit == 6:
            continue
        one = found.isel(unit=unit)
        assert float(one.class_selectivity) == pytest.approx(
            plain_selectivity(study.activation_mean.values[unit], label), rel=1e-6
        )
        assert float(one.class_selectivity_max) == pytest.approx(
            plain_selectivity(study.activation_max.values[unit], label), rel=1e-6
        )
        correlation = study.class_correlation.values[unit]
        assert float(one.max_class_correlation) == correlation.max() and int(one.max_correlation_class) == correlation.argmax()
        top = np.argsort(-study.activation_max.values[unit], kind="stable")[: study.sizes["top_rank"]]
        assert float(one.top_precision) == Counter(label[top]).most_common(1)[0][1] / len(top)
        first_order = sum(float(study.first_order_margin_drop[unit, k]) * (label == k).sum() for k in range(5)) / 300
        assert float(one.first_order_margin_drop_overall) == pytest.approx(first_order)
        for name in ("l1_norm", "l2_norm", "l1_norm_folded", "mean_activation", "max_activation", "fraction_active"):
            assert float(one[name]) == float(study[name][unit])


def test_mutual_information_is_scikit_learns_less_its_mean_by_chance(study: xr.Dataset) -> None:
    label, values = study.label.values, study.activation_mean.values[0]
    edges = np.quantile(values[values > 0], np.arange(1, 10) / 10)
    bins = np.where(values > 0, np.digitize(values, edges) + 1, 0)
    expected = mutual_info_score(bins, label) - expected_mutual_information(contingency_matrix(bins, label), len(label))
    assert mutual_information(values, label) == pytest.approx(expected / np.log(2), abs=1e-9)
    assert float(unitlab.attributes(study).mutual_information[0]) == pytest.approx(expected / np.log(2), abs=1e-9)


def test_mutual_information_of_independent_and_of_equal_variables() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 4, 20_000)
    assert abs(mutual_information(random.gamma(1, 1, 20_000), label)) < 0.002
    assert mutual_information((label > 1).astype(float), label) == pytest.approx(1, abs=0.01)
    # few images of many classes
    label = random.integers(0, 40, 400)
    assert abs(np.mean([mutual_information(random.gamma(1, 1, 400), label) for _ in range(40)])) < 0.02


def test_mutual_information_of_clusters_that_have_no_more_of_it_than_chance() -> None:
    random = np.random.default_rng(0)
    cluster = np.arange(900) // 3
    label = random.integers(0, 30, 300)[cluster]
    values = [random.gamma(1, 1, 300)[cluster] * random.gamma(100, 0.01, 900) for _ in range(20)]
    assert abs(np.mean([mutual_information(one, label, cluster) for one in values])) < 0.02
    assert np.mean([mutual_information(one, label) for one in values]) > 0.1, "copies look like information"


def test_selectivity_for_every_class() -> None:
    means = np.array([[3.0, 1.0, 2.0], [1.0, -0.5, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    found = selectivity(means, np.array([5, 5, 5]), by_class=True)
    np.testing.assert_allclose(found[0], [1.5 / 4.5, -1.5 / 3.5, 0.0])
    assert np.isnan(found[1:3]).all()
    np.testing.assert_allclose(found[3], [-1.0, -1.0, 1.0])
    np.testing.assert_allclose(np.nanmax(found[[0, 3]], 1), selectivity(means, np.array([5, 5, 5]))[[0, 3]])
    without = selectivity(means, np.array([5, 0, 5]), by_class=True)
    np.testing.assert_allclose(without[0], [0.2, np.nan, -0.2])


def test_undefined_cells_are_counted(study: xr.Dataset) -> None:
    found = unitlab.attributes(study).class_selectivity_by_class
    assert found.attrs["n_undefined"] == 1 and found.attrs["n_undefined_cells"] == 5
    np.testing.assert_allclose(found.max("category"), unitlab.attributes(study).class_selectivity)


def test_dead_units_are_nan_and_counted(study: xr.Dataset) -> None:
    found = unitlab.attributes(study)
    for name in ("class_selectivity", "class_selectivity_max", "mutual_information", "top_precision", "max_class_correlation"):
        assert np.isnan(found[name].values[6]) and found[name].attrs["n_undefined"] == 1
    assert found.attrs["n_dead"] == 1 and int(found.max_correlation_class[6]) == -1
    assert found.batch_norm_scale.attrs["n_undefined"] == 10


def test_selectivity_is_undefined_where_class_means_are_negative() -> None:
    means = np.array([[1.0, 0.0], [1.0, -0.5], [3.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(selectivity(means, np.array([2, 2])), [1.0, np.nan, 0.5, np.nan])
    assert np.isnan(selectivity(means[:, :1], np.array([2]))).all()


def test_a_class_without_images_takes_no_part() -> None:
    ds = simulated_study(3, 4, 60, 0, empty_categories=(2,))
    label = ds.label.values
    means = [ds.activation_mean.values[0, label == k].mean(dtype=float) for k in (0, 1, 3)]
    rest = (sum(means) - max(means)) / 2
    assert float(unitlab.attributes(ds).class_selectivity[0]) == pytest.approx((max(means) - rest) / (max(means) + rest))


def test_every_variable_is_in_the_schema(study: xr.Dataset) -> None:
    for name, variable in unitlab.attributes(study).variables.items():
        assert variable.dims == VARIABLES[str(name)].dims


def test_without_first_order_estimates_they_are_left_out(study: xr.Dataset) -> None:
    found = unitlab.attributes(study.drop_vars("first_order_margin_drop"))
    assert "first_order_margin_drop_overall" not in found


def test_bad_input_is_refused(study: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="needs 'activation_mean'"):
        unitlab.attributes(study.drop_vars("activation_mean"))
    with pytest.raises(unitlab.UnitlabError, match="as many activations"):
        mutual_information(np.ones(3), np.zeros(2, int))


@pytest.mark.parametrize("name", ["vgg_emoji", "vgg_fashion"])
def test_bundled_studies_have_attributes(name: str) -> None:
    found = unitlab.attributes(unitlab.load(name))
    alive = unitlab.load(name).fraction_active.values > 0
    for attribute in ("class_selectivity", "class_selectivity_max", "mutual_information", "top_precision"):
        assert np.isfinite(found[attribute].values[alive]).all()
    assert ((found.class_selectivity.values[alive] > 0) & (found.class_selectivity.values[alive] <= 1)).all()


def test_numbers_along_another_dimension_than_the_units_are_refused_with_the_remedy() -> None:
    ds = unitlab.load("vgg_fashion").assign(iou=pd.Series(range(64)))
    with pytest.raises(UnitlabError, match=r"'iou' has a number for each unit, but along 'dim_0'.*iou=\('unit', values\)"):
        unitlab.correlations(ds)


def test_an_attribute_with_classes_where_one_for_each_unit_is_wanted_is_refused_with_the_remedy() -> None:
    ds = unitlab.load("vgg_fashion")
    remedy = r"value for each unit and class.*max_class_correlation.*regression\(ds, 'accuracy_drop', \['class_correlation'\]\)"
    for call in (
        lambda: unitlab.regression(ds, "overall_drop", ["class_correlation"]),
        lambda: unitlab.correlations(ds, "class_correlation", progress=False),
        lambda: unitlab.plots.units(ds, "class_correlation"),
        lambda: unitlab.plots.units(ds, color="class_correlation"),
        lambda: unitlab.plots.correlation(ds, "class_correlation"),
    ):
        with pytest.raises(UnitlabError, match=remedy):
            call()
    assert len(unitlab.regression(ds, "accuracy_drop", ["class_correlation"])) == 1


def test_a_unit_that_is_not_there_is_told_the_units_there_are() -> None:
    """Numbers are no names: nothing is guessed from their digits."""
    ds = unitlab.load("vgg_fashion")
    for call in (
        lambda: unitlab.confusion(ds, unit=900),
        lambda: unitlab.plots.units(ds, unit=900),
        lambda: unitlab.plots.classes(ds, 900),
        lambda: unitlab.plots.accuracies(ds, unit=900),
        lambda: unitlab.plots.images(ds, 900),
        lambda: unitlab.plots.confusion(ds, 900),
        lambda: unitlab.explore(ds, unit=900),
        lambda: unitlab.explore(ds, selection=[900]),
        lambda: unitlab.report(ds, "report.html", units=[900]),
    ):
        with pytest.raises(UnitlabError, match="no unit 900; it has 64: 0-63") as refused:
            call()
        assert "Did you mean" not in str(refused.value)
