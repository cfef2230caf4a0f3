"""Correlations and regressions against scipy, statsmodels and scikit-learn, and what they find by construction."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
import xarray as xr
from scipy import stats
from simulated_study import simulated_study
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

import unitlab
from unitlab.analysis.correlations import measures
from unitlab.analysis.regression import _folds
from unitlab.analysis.weighted_images import WEIGHTED, WeightedImages


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(30, 6, 300, 3, flip_rate=0.15, dead_units=(7,), clusters=100)


def test_correlations_are_scipys(study: xr.Dataset) -> None:
    table = unitlab.correlations(study, n_boot=100)
    known = measures(study)
    assert len(table) == 22
    for row in table.itertuples():
        x, y = known[row.x].values.astype(float), known[row.y].values
        both = np.isfinite(x) & np.isfinite(y)
        assert row.n_units == both.sum()
        assert (row.spearman, row.spearman_p) == pytest.approx(tuple(stats.spearmanr(x[both], y[both])))
        assert (row.pearson, row.pearson_p) == pytest.approx(tuple(stats.pearsonr(x[both], y[both])))
    np.testing.assert_allclose(table.spearman_q, stats.false_discovery_control(table.spearman_p))
    assert (table.spearman_low <= table.spearman_high).all() and (table.spearman_low < table.spearman + 0.3).all()
    assert not table.part_whole.any()


def test_an_attribute_of_the_reader_s_own(study: xr.Dataset) -> None:
    own = study.assign(iou=("unit", np.random.default_rng(0).random(30)))
    row = unitlab.correlations(own, "iou", "overall_drop", n_boot=100).iloc[0]
    expected = stats.spearmanr(own.iou, study.overall_drop)
    assert (row.spearman, row.spearman_p) == pytest.approx(tuple(expected))
    found = unitlab.regression(own, "overall_drop", ["iou"])
    assert found.attrs["n_rows"] == 30
    assert float(found.coefficient.iloc[0]) == pytest.approx(stats.pearsonr(own.iou, study.overall_drop).statistic)


def test_measures_without_what_attributes_need(study: xr.Dataset) -> None:
    less = study.drop_vars("l1_norm")
    with pytest.raises(unitlab.UnitlabError, match="attributes needs 'l1_norm'"):
        measures(less)
    xr.testing.assert_identical(measures(less, damage_alone=True), unitlab.damage(less))
    xr.testing.assert_identical(measures(study, damage_alone=True), measures(study))


def test_part_whole_pairs_are_flagged(study: xr.Dataset) -> None:
    table = unitlab.correlations(study, ["overall_drop"], ["max_class_drop", "max_class_drop_crossfit"], n_boot=100)
    assert table.part_whole.all() and (table.resampled.str.contains("overall_drop and")).all()


def test_interval_over_units_covers() -> None:
    from unitlab.analysis.correlations import _row

    random = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        x, y = random.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 60).T
        row = _row("a", "b", x, y, None, None, 300, random)
        covered.append(row["pearson_low"] <= 0.5 <= row["pearson_high"])
        assert np.isnan(row["pearson_low_images"])
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 150)


def test_equal_weights_give_the_studys_own_values(study: xr.Dataset) -> None:
    known = measures(study)
    images = WeightedImages(study)
    found = images.values(WEIGHTED, np.ones((study.sizes["image"], 1), np.float32), np.random.default_rng(0))
    for name in WEIGHTED:
        tolerance = 0.06 if name == "max_class_drop_crossfit" else 1e-6
        np.testing.assert_allclose(found[name][0], known[name].values, atol=tolerance)


def test_whole_weights_are_repeated_images(study: xr.Dataset) -> None:
    images = WeightedImages(study)
    weights = images.bootstrap_weights(3, np.random.default_rng(2))
    assert (weights.sum(0) > 0).all() and all(len(set(weights[images.images.cluster == c, 1])) == 1 for c in range(100))
    found = images.values(["overall_drop", "class_selectivity"], weights, np.random.default_rng(0))
    times = weights[:, 1].astype(int)
    repeated = np.repeat(images.images.order, times)
    label = study.label.values[repeated]
    right = study.baseline_prediction.values[repeated] == label
    after = study.prediction.values[:, repeated] == label
    np.testing.assert_allclose(found["overall_drop"][1], right.mean() - after.mean(1), atol=1e-6)
    means = np.stack([study.activation_mean.values[:, repeated[label == k]].mean(1, dtype=float) for k in range(6)], 1)
    most = means.max(1)
    rest = (means.sum(1) - most) / 5
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found["class_selectivity"][1], (most - rest) / (most + rest), rtol=1e-5)


def test_halves_share_no_chance() -> None:
    """Under the null both halves of a study agree in nothing, the whole agrees with itself."""
    found = []
    for seed in range(12):
        ds = simulated_study(40, 5, 200, seed, flip_rate=0.1)
        found.append(unitlab.correlations(ds, "overall_drop", "max_class_drop", n_boot=100, seed=seed, split=True).spearman[0])
    whole = unitlab.correlations(ds, "overall_drop", "max_class_drop", n_boot=100).spearman[0]
    assert whole > 0.4
    assert abs(np.mean(found)) < 3 * np.std(found, ddof=1) / np.sqrt(len(found)) + 0.02


def test_constant_attributes_have_no_correlation() -> None:
    ds = simulated_study(6, 3, 60, 0, flip_rate=0.2)
    ds = ds.assign(l1_norm=xr.ones_like(ds.l1_norm))
    row = unitlab.correlations(ds, "l1_norm", "overall_drop", n_boot=100).iloc[0]
    assert np.isnan(row.spearman) and np.isnan(row.spearman_q) and np.isnan(row.pearson_low)


def test_bad_input_is_refused(study: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'class_selectivity'"):
        unitlab.correlations(study, "class_selectivty")
    with pytest.raises(unitlab.UnitlabError, match="n_boot is 3"):
        unitlab.correlations(study, n_boot=3)
    with pytest.raises(unitlab.UnitlabError, match="at least three"):
        unitlab.correlations(simulated_study(1, 3, 30), n_boot=100)
    with pytest.raises(unitlab.UnitlabError, match="not y"):
        unitlab.regression(study, "overall_drop", ["overall_drop"])
    with pytest.raises(unitlab.UnitlabError, match="over \\('unit',\\)"):
        unitlab.regression(study, "overall_drop", ["class_correlation"])
    with pytest.raises(unitlab.UnitlabError, match="folds is 1"):
        unitlab.regression(study, "overall_drop", ["l1_norm"], folds=1)
    with pytest.raises(unitlab.UnitlabError, match="'batch_norm_scale' is undefined for every unit"):
        unitlab.regression(study, "overall_drop", ["l1_norm", "batch_norm_scale"])
    with pytest.raises(unitlab.UnitlabError, match="y is"):
        unitlab.regression(study, ["overall_drop"], ["l1_norm"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("y", "x"),
    [
        ("overall_drop", ["l1_norm", "mean_activation"]),
        ("accuracy_drop", ["class_correlation", "l1_norm", "first_order_margin_drop"]),
    ],
)
def test_regression_agrees_with_scikit_learn_and_statsmodels(study: xr.Dataset, y: str, x: list[str]) -> None:
    found = unitlab.regression(study, y, x, folds=4, seed=1)
    known = measures(study)
    target = known[y]
    columns = [xr.broadcast(known[name], target)[0].transpose(*target.dims).values.ravel() for name in x]
    table = np.stack([target.values.ravel(), *columns], 1)
    unit = np.repeat(np.arange(30), len(table) // 30)
    complete = np.isfinite(table).all(1)
    table, unit = table[complete], unit[complete]
    table = (table - table.mean(0)) / table.std(0)
    fold = _folds(unit, 4, np.random.default_rng(1))
    assert all(len(set(fold[unit == u])) == 1 for u in np.unique(unit))
    predicted = cross_val_predict(LinearRegression(), table[:, 1:], table[:, 0], cv=PredefinedSplit(fold))
    mean = np.array([table[fold != f, 0].mean() for f in fold])
    expected = 1 - ((table[:, 0] - predicted) ** 2).sum() / ((table[:, 0] - mean) ** 2).sum()
    assert found.attrs["r2"] == pytest.approx(expected)
    fit = sm.OLS(table[:, 0], sm.add_constant(table[:, 1:])).fit(cov_type="cluster", cov_kwds={"groups": unit}, use_t=True)
    np.testing.assert_allclose(found.coefficient, fit.params[1:], rtol=1e-9)
    np.testing.assert_allclose(found[["coefficient_low", "coefficient_high"]], fit.conf_int()[1:], rtol=1e-6)
    assert found.attrs["r2_in_sample"] == pytest.approx(fit.rsquared)


def test_the_attribute_that_carries_the_signal_is_found(study: xr.Dataset) -> None:
    # the made-up first-order estimate is the drop plus a little noise
    found = unitlab.regression(study, "accuracy_drop", ["first_order_margin_drop", "l1_norm"]).set_index("attribute")
    assert found.r2_alone["first_order_margin_drop"] > 0.5 > 0.1 > found.r2_alone["l1_norm"]
    assert found.r2_without["first_order_margin_drop"] < 0.1
