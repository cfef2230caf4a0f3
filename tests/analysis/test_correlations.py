"""Correlations and regressions against scipy, statsmodels and scikit-learn, and what they find by construction."""

from __future__ import annotations

import os

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
from unitlab.analysis.jackknife import fisher_z, image_groups, jackknife_variance, unit_groups
from unitlab.analysis.left_out_images import MEASURED, LeftOutImages
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.regression import _fit, _folds


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(30, 6, 300, 3, flip_rate=0.15, dead_units=(7,), clusters=100)


def test_correlations_are_scipys(study: xr.Dataset) -> None:
    table = unitlab.correlations(study)
    known = measures(study)
    assert len(table) == 22
    for row in table.itertuples():
        x, y = known[row.x].values.astype(float), known[row.y].values
        both = np.isfinite(x) & np.isfinite(y)
        assert row.n_units == both.sum()
        assert row.spearman == pytest.approx(stats.spearmanr(x[both], y[both]).statistic)
        assert row.pearson == pytest.approx(stats.pearsonr(x[both], y[both]).statistic)
    np.testing.assert_allclose(table.spearman_q, stats.false_discovery_control(table.spearman_p))
    for kind in ("spearman", "pearson"):
        assert ((table[f"{kind}_low"] < table[kind]) & (table[kind] < table[f"{kind}_high"])).all()
        inside = (table[f"{kind}_low"] < 0) & (table[f"{kind}_high"] > 0)
        np.testing.assert_array_equal(inside, table[f"{kind}_p"] > 0.05)
    assert set(table.covers) == {
        "units and images", "units, and images of overall_drop", "units, and images of max_class_drop_crossfit"
    }  # fmt: skip
    assert not table.part_whole.any()


def test_an_attribute_of_the_reader_s_own_has_an_interval_once_its_sampling_is_left_out(study: xr.Dataset) -> None:
    own = study.assign(iou=("unit", np.random.default_rng(0).random(30)))
    row = unitlab.correlations(own, "iou", "overall_drop").iloc[0]
    assert row.spearman == pytest.approx(stats.spearmanr(own.iou, study.overall_drop).statistic)
    assert row.covers == "" and np.isnan([row.spearman_low, row.spearman_high, row.spearman_p]).all()
    row = unitlab.correlations(own, "iou", "overall_drop", held="iou").iloc[0]
    assert row.covers == "units, and images of overall_drop" and row.spearman_low < row.spearman < row.spearman_high
    found = unitlab.regression(own, "overall_drop", ["iou"])
    assert found.attrs["n_rows"] == 30
    assert float(found.coefficient.iloc[0]) == pytest.approx(stats.pearsonr(own.iou, study.overall_drop).statistic)


def test_a_second_study_is_sampled_with_the_first(study: xr.Dataset) -> None:
    again = simulated_study(30, 6, 300, 3, flip_rate=0.25, clusters=100)
    row = unitlab.correlations(study, "overall_drop", "overall_drop", other=again).iloc[0]
    assert row.spearman == pytest.approx(stats.spearmanr(study.overall_drop, again.overall_drop).statistic)
    assert row.covers == "units and images" and row.spearman_low < row.spearman < row.spearman_high and row.part_whole
    same = unitlab.correlations(study, "overall_drop", "overall_drop", other=study).iloc[0]
    assert same.spearman == pytest.approx(1) and np.isnan(same.spearman_low), "no z"
    with pytest.raises(unitlab.UnitlabError, match=r"other\.sel\(unit=ds\.unit\)"):
        unitlab.correlations(study, other=again.isel(unit=slice(5)))


def test_a_second_study_that_is_assigned_has_no_interval_without_its_estimate() -> None:
    """Its drops are measured on the same images, whose luck both share: one side alone gives no interval."""
    one = simulated_study(30, 6, 300, 3, flip_rate=0.2)
    after = one.prediction.values.copy()
    random = np.random.default_rng(0)
    changed = random.random(after.shape) < 0.02
    after[changed] = random.integers(0, 6, changed.sum())
    overall = (one.baseline_prediction == one.label).mean().item() - (after == one.label.values).mean(1)
    own = one.assign(again=("unit", overall))
    row = unitlab.correlations(own, "again", "overall_drop").iloc[0]
    assert row.spearman > 0.9 and row.covers == "" and np.isnan([row.spearman_low, row.spearman_high, row.spearman_p]).all()
    row = unitlab.correlations(own, "again", "overall_drop", held="again").iloc[0]
    for kind in ("spearman", "pearson"):
        assert row[f"{kind}_low"] < row[kind] < row[f"{kind}_high"]
    other = one.assign(overall_drop=("unit", overall), prediction=one.prediction.copy(data=after))
    row = unitlab.correlations(one, "overall_drop", "overall_drop", other=other).iloc[0]
    assert row.covers == "units and images" and row.spearman_low < row.spearman < row.spearman_high


def test_given_others_the_correlation_is_that_of_residuals(study: xr.Dataset) -> None:
    given = ["l1_norm", "mean_activation"]
    row = unitlab.correlations(study, "class_selectivity", "overall_drop", given=given).iloc[0]
    known = measures(study)
    columns = np.stack([known[name].values for name in ("class_selectivity", "overall_drop", *given)])
    columns = columns[:, np.isfinite(columns).all(0)]
    for kind, values in (("pearson", columns), ("spearman", stats.rankdata(columns, axis=1))):
        x, y = (sm.OLS(side, sm.add_constant(values[2:].T)).fit().resid for side in values[:2])
        assert row[kind] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert row[f"{kind}_low"] < row[kind] < row[f"{kind}_high"]
    with pytest.raises(unitlab.UnitlabError, match="'l1_norm' is given"):
        unitlab.correlations(study, "l1_norm", "overall_drop", given="l1_norm")


def test_measures_without_what_attributes_need(study: xr.Dataset) -> None:
    less = study.drop_vars("l1_norm")
    with pytest.raises(unitlab.UnitlabError, match="attributes needs 'l1_norm'"):
        measures(less)
    xr.testing.assert_identical(measures(less, damage_alone=True), unitlab.damage(less))
    xr.testing.assert_identical(measures(study, damage_alone=True), measures(study))


def test_part_whole_pairs_are_flagged(study: xr.Dataset) -> None:
    table = unitlab.correlations(study, ["overall_drop"], ["max_class_drop", "max_class_drop_crossfit"])
    assert table.part_whole.all()


def test_the_jackknife_of_a_mean_is_its_variance() -> None:
    values = np.random.default_rng(0).normal(size=40)
    without = np.array([np.delete(values, one).mean() for one in range(40)])
    variance, degrees = jackknife_variance(values.mean(), without, np.full(40, 1 / 40))
    assert variance == pytest.approx(values.var(ddof=1) / 40) and degrees == 39
    # groups of unequal size: of the variance's own scale
    sizes = np.array([2, 3, 5, 2, 8, 4, 6, 3, 5, 2])
    group = np.repeat(np.arange(10), sizes)
    found = []
    for seed in range(300):
        values = np.random.default_rng(seed).normal(size=40)
        without = np.array([values[group != one].mean() for one in range(10)])
        found.append(jackknife_variance(values.mean(), without, sizes / 40)[0])
    assert np.mean(found) == pytest.approx(1 / 40, rel=0.1)
    assert np.isnan(jackknife_variance(np.array(1.0), np.ones(4), np.full(4, 0.25))[0])
    assert np.isfinite(fisher_z(np.array([-1.0, 1.0]))).all()


def test_units_that_are_alike_are_one_group(study: xr.Dataset) -> None:
    values = study.activation_mean.values.copy()
    values[3] = 2 * values[5] + 0.01 * values[6]
    values[7] = values[3] + 0.01
    alike = unit_groups([study.assign(activation_mean=(("unit", "image"), values))], np.random.default_rng(0))
    assert alike[3] == alike[5] == alike[7] and len(set(alike)) == 28
    many = simulated_study(130, 3, 60, 0)
    assert np.bincount(unit_groups([many], np.random.default_rng(0))).tolist() == [3] * 30 + [2] * 20


def test_groups_of_images_hold_whole_clusters_of_every_class(study: xr.Dataset) -> None:
    images = PairedImages(study, "test")
    group = image_groups(images, np.random.default_rng(0))
    for cluster in range(100):
        assert len(set(group[images.cluster == cluster])) == 1
    counts = np.stack([np.bincount(group[images.position == k], minlength=20) for k in range(6)])
    assert (np.ptp(counts, axis=1) <= 3).all() and (np.ptp(counts.sum(0)) == 0)


def test_all_images_give_the_studys_own_values(study: xr.Dataset) -> None:
    known = measures(study)
    found = LeftOutImages(PairedImages(study, "test")).values(MEASURED)
    for name in MEASURED:
        tolerance = {"max_class_drop_crossfit": 0.06, "max_activation": 0.01, "mutual_information": 0.03}.get(name, 1e-5)
        np.testing.assert_allclose(found[name][0], known[name].values, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("name", MEASURED)
def test_without_a_group_is_the_study_without_those_images(study: xr.Dataset, name: str) -> None:
    strength = np.arange(30)[:, None] / 10 * (study.label.values == np.arange(30)[:, None] % 6)
    study = study.assign(activation_mean=study.activation_mean * (1 + strength))
    images = PairedImages(study, "test")
    group = image_groups(images, np.random.default_rng(0))
    left_out = LeftOutImages(images, group)
    half = left_out.half(np.random.default_rng(1))
    kept = np.sort(images.order[half & (group != 4)])
    less = study.isel(image=kept)
    place = np.full(study.sizes["image"], -1)
    place[kept] = np.arange(len(kept))
    right = (less.baseline_prediction == less.label).values
    drop = (right.sum() - (less.prediction == less.label).sum("image").values) / len(kept)
    count = np.bincount(less.label.values, minlength=6)
    cells = np.stack([
        (right[less.label == k].sum() - (less.prediction == less.label).values[:, less.label == k].sum(1)) / count[k]
        for k in range(6)
    ], 1)  # fmt: skip
    image = np.where(study.top_image.values >= 0, place[study.top_image.values], -1)
    less = less.assign(
        overall_drop=("unit", drop), accuracy_drop=(("unit", "category"), cells), n_images=("category", count),
        class_activation=(("unit", "category"), np.stack([
            less.activation_mean.values[:, less.label == k].mean(1, dtype=float) for k in range(6)
        ], 1)),
        mean_activation=("unit", less.activation_mean.values.mean(1, dtype=float)),
        max_activation=("unit", less.activation_max.values.max(1)),
        fraction_active=("unit", (less.activation_max.values > 0).mean(1)),
        top_image=(("unit", "top_rank"), image),
    )  # fmt: skip
    expected = measures(less, only=[name])[name].values
    found = left_out.values([name], half)[name][1 + 4]
    # bins and chance of the information are those of the half; the maximum has fewer splits
    tolerance = {"mutual_information": 0.1, "max_class_drop_crossfit": 0.15}.get(name, 1e-5)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-5)
    if tolerance > 1e-3:
        some = np.isfinite(expected)
        assert np.corrcoef(found[some], expected[some])[0, 1] > 0.8


def test_halves_share_no_chance() -> None:
    """Under the null both halves of a study agree in nothing, the whole agrees with itself."""
    found = []
    for seed in range(12):
        ds = simulated_study(40, 5, 200, seed, flip_rate=0.1)
        found.append(unitlab.correlations(ds, "overall_drop", "max_class_drop", seed=seed, split=True).spearman[0])
    whole = unitlab.correlations(ds, "overall_drop", "max_class_drop").spearman[0]
    assert whole > 0.4
    assert abs(np.mean(found)) < 3 * np.std(found, ddof=1) / np.sqrt(len(found)) + 0.02


def test_constant_attributes_have_no_correlation() -> None:
    ds = simulated_study(6, 3, 60, 0, flip_rate=0.2)
    ds = ds.assign(l1_norm=xr.ones_like(ds.l1_norm))
    row = unitlab.correlations(ds, "l1_norm", "overall_drop").iloc[0]
    assert np.isnan(row.spearman) and np.isnan(row.spearman_q) and np.isnan(row.pearson_low)


def test_bad_input_is_refused(study: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'class_selectivity'"):
        unitlab.correlations(study, "class_selectivty")
    with pytest.raises(unitlab.UnitlabError, match="at least three"):
        unitlab.correlations(simulated_study(1, 3, 30))
    with pytest.raises(unitlab.UnitlabError, match="not y"):
        unitlab.regression(study, "overall_drop", ["overall_drop"])
    with pytest.raises(unitlab.UnitlabError, match="a value for each unit and class"):
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
    category = np.tile(np.arange(len(table) // 30), 30)
    complete = np.isfinite(table).all(1)
    table, unit, category = table[complete], unit[complete], category[complete]
    table = (table - table.mean(0)) / table.std(0)
    fold = _folds(unit, 4, np.random.default_rng(1))
    assert all(len(set(fold[unit == u])) == 1 for u in np.unique(unit))
    predicted = cross_val_predict(LinearRegression(), table[:, 1:], table[:, 0], cv=PredefinedSplit(fold))
    mean = np.array([table[fold != f, 0].mean() for f in fold])
    expected = 1 - ((table[:, 0] - predicted) ** 2).sum() / ((table[:, 0] - mean) ** 2).sum()
    assert found.attrs["r2"] == pytest.approx(expected)
    model = sm.OLS(table[:, 0], sm.add_constant(table[:, 1:]))
    ways = [[unit], [category], [unit, category]] if target.ndim == 2 else [[unit]]
    fits = [
        model.fit(cov_type="cluster", cov_kwds={"groups": np.stack(way, 1).squeeze()}, use_t=True) for way in ways
    ]  # fmt: skip
    fit = fits[-1]
    np.testing.assert_allclose(found.coefficient, fit.params[1:], rtol=1e-9)
    # the two-way error (only its own where it is the largest), with Student's t of the fewer clusters
    half = stats.t.ppf(0.975, min(len(set(one)) for one in ways[-1]) - 1) * np.max([one.bse[1:] for one in fits], axis=0)
    np.testing.assert_allclose(found.coefficient_low, fit.params[1:] - half, rtol=1e-6)
    np.testing.assert_allclose(found.coefficient_high, fit.params[1:] + half, rtol=1e-6)
    assert found.attrs["covers"] == ("units and classes" if target.ndim == 2 else "units")
    assert found.attrs["r2_in_sample"] == pytest.approx(fit.rsquared)


@pytest.mark.parametrize("name", ["vgg_emoji", "vgg_fashion"])
def test_noise_that_classes_share_is_rarely_clear_of_zero(name: str) -> None:
    drop = unitlab.load(name).accuracy_drop.values
    y = ((drop - drop.mean()) / drop.std()).ravel()
    clusters = [one.ravel() for one in np.indices(drop.shape)]
    n = int(os.environ.get("UNITLAB_SIMULATE", "0")) * 20 or 150
    clear = {1: 0, 2: 0}
    for seed in range(n):
        random = np.random.default_rng(seed)
        noise = np.sqrt(0.7) * random.normal(size=drop.shape) + np.sqrt(0.3) * random.normal(size=drop.shape[1])
        for ways in clear:
            _, low, high, _ = _fit(y, noise.reshape(-1, 1), clusters[:ways])
            clear[ways] += bool(low[0] > 0 or high[0] < 0)
    if "UNITLAB_SIMULATE" in os.environ:
        print(f"\n| {name} | {clear[1] / n:.3f} | {clear[2] / n:.3f} |", end="")
    assert clear[2] / n <= 0.06 + (0 if n >= 2000 else 0.03) and clear[1] > clear[2]


def test_the_attribute_that_carries_the_signal_is_found(study: xr.Dataset) -> None:
    # the made-up first-order estimate is the drop plus a little noise
    found = unitlab.regression(study, "accuracy_drop", ["first_order_margin_drop", "l1_norm"]).set_index("attribute")
    assert found.r2_alone["first_order_margin_drop"] > 0.5 > 0.1 > found.r2_alone["l1_norm"]
    assert found.r2_without["first_order_margin_drop"] < 0.1
