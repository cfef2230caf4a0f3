"""Plots hold the numbers of the dataset, and render."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from simulated_study import simulated_study

import unitlab
from unitlab.analysis.correlations import fitted_line, measures

hv = pytest.importorskip("holoviews")

from unitlab import plots  # noqa: E402
from unitlab.views.gallery import picture_with_map  # noqa: E402
from unitlab.views.look import GREY  # noqa: E402


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,))


def drawn(figure: object) -> object:
    return hv.renderer("bokeh").get_plot(figure).state


def test_the_module_shows_its_plots_and_nothing_else() -> None:
    assert dir(plots) == sorted(plots.__all__)
    assert all(callable(getattr(plots, name)) for name in dir(plots))


def test_units_are_filled_where_significant(study: xr.Dataset) -> None:
    known = measures(study)
    figure = plots.units(study, unit=4)
    by_label = {layer.label: layer for layer in figure}
    sure, unsure = by_label["p ≤ 0.05, specific classes"], by_label["hollow: p > 0.05"]
    assert sorted(sure["unit"]) == sorted(study.unit.values[known.p_specific.values <= 0.05])
    assert len(sure) + len(unsure) == 20
    at = list(sure["unit"]).index(4)
    assert sure["overall_drop"][at] == pytest.approx(100 * float(study.overall_drop[4]))
    assert sure["worst"][at] == "class 2"
    # a unit that damages no class has no most damaged one
    assert unsure["worst"][list(unsure["unit"]).index(7)] == "none"
    assert figure.Points.Unit_4["max_class_drop_crossfit"][0] == pytest.approx(100 * float(known.max_class_drop_crossfit[4]))
    drawn(figure)


def test_units_by_any_two_variables_and_a_colour(study: xr.Dataset) -> None:
    figure = plots.units(study, "overall_drop", "max_class_drop", color="class_selectivity")
    area = next(layer for layer in figure if isinstance(layer, hv.Area))
    assert len(area) == 20
    # points have the colours of their values; the legend's entries, of no point's colour, say what filling means
    legend = drawn(figure).legend[0]
    entries = {item.label.value: item.renderers[0].glyph for item in legend.items}
    assert list(entries) == ["95 % of chance", "p ≤ 0.05, specific classes", "hollow: p > 0.05"]
    assert [entries[label].fill_color for label in entries][1:] == [GREY, GREY]
    assert [entries[label].fill_alpha for label in entries][1:] == [0.85, 0.0]
    coloured = [layer for layer in figure if isinstance(layer, hv.Points) and not layer.label]
    assert sum(map(len, coloured)) == 20
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'l1_norm'"):
        plots.units(study, "l1norm")
    with pytest.raises(unitlab.UnitlabError, match="no unit 50"):
        plots.units(study, unit=50)


def test_classes_are_ordered_with_their_intervals(study: xr.Dataset) -> None:
    found = unitlab.damage(study)
    figure = plots.classes(study, 4, n_damaged=2, n_helped=1)
    bars, limits = list(figure)
    order = np.argsort(-study.accuracy_drop.values[4])
    expected = [*order[:2], order[-1]][::-1]
    assert list(bars["class"]) == [f"class {k} ({int(study.n_images[k])})" for k in expected]
    np.testing.assert_allclose(bars["drop"], 100 * study.accuracy_drop.values[4, expected])
    np.testing.assert_allclose(limits["low"], 100 * found.drop_low.values[4, expected])
    drawn(figure)


def test_long_and_equal_names_stay_apart() -> None:
    ds = simulated_study(2, 4, 40)
    names = np.array(
        ["a very long name of a class that nobody reads", "a very long name of a class that nobody knows", "<b>x", "ß"], object
    )
    figure = plots.classes(ds.assign_coords(category=names), 0)
    labels = list(next(iter(figure))["class"])
    assert len(set(labels)) == 4
    drawn(figure)


def test_confusion_shows_lost_and_won(study: xr.Dataset) -> None:
    moved = unitlab.confusion(study, 4)
    figure = plots.confusion(study, 4, category="class 2")
    lost, won = list(figure)
    assert sum(lost["moved"]) == int(moved.n_lost[2].sum()) and -sum(won["moved"]) == int(moved.n_won[2].sum())
    drawn(figure)
    plot = drawn(figure)
    assert plot.legend[0] in plot.above, "it covers no bar"
    drawn(plots.confusion(study, 7))
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'class 2'"):
        plots.confusion(study, 4, category="clas 2")


def test_correlation_draws_the_fitted_line(study: xr.Dataset) -> None:
    known = measures(study)
    line = fitted_line(known.l1_norm.values, known.overall_drop.values)
    figure = plots.correlation(study, "l1_norm", "overall_drop")
    np.testing.assert_allclose(next(iter(figure.Curve))["overall_drop"], 100 * line["fit"], atol=1e-9)
    assert f"Spearman {line['spearman']:+.2f}".replace("-", "−") in drawn(figure).title.text
    with pytest.raises(unitlab.UnitlabError, match="three units"):
        plots.correlation(study, "batch_norm_scale", "overall_drop")


def test_fitted_line_is_statsmodels() -> None:
    import statsmodels.api as sm

    random = np.random.default_rng(0)
    x = random.normal(size=30)
    y = 2 * x + random.normal(size=30)
    line = fitted_line(x, y)
    fit = sm.OLS(y, sm.add_constant(x)).fit().get_prediction(sm.add_constant(line["x"])).summary_frame(alpha=0.05)
    np.testing.assert_allclose(line["fit"], fit["mean"])
    np.testing.assert_allclose(line["low"], fit["mean_ci_lower"])
    np.testing.assert_allclose(line["high"], fit["mean_ci_upper"])


@pytest.mark.parametrize("style", ["outline", "heat", "none"])
def test_images_show_the_top_images_with_captions(study: xr.Dataset, style: str) -> None:
    names = study.category.values.copy()
    names[0] = '<script>alert("x")</script>'
    gallery = plots.images(study.assign_coords(category=names), 4, count=5, style=style)
    shown = gallery.html()
    assert shown.count("<img ") == 5 and "<script>" not in shown
    assert f"{float(study.top_activation[4, 0]):.3g}" in gallery.captions[0]


def test_an_outline_surrounds_what_is_above_the_threshold() -> None:
    pixels = np.full((64, 64, 3), 200, np.uint8)
    heat = np.zeros((4, 4))
    heat[1:3, 1:3] = 1
    picture = picture_with_map(pixels, heat, strength=0.5)
    assert (picture[32, 32] == 200).all() and (picture[0, 0] == 64).all(), "darkened as the explorer does, not greyed"
    assert (picture == np.array([255, 200, 0])).all(2).any()


def test_images_say_what_is_missing(study: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="no thumbnails"):
        plots.images(study.drop_vars("thumbnails"), 4)
    with pytest.raises(unitlab.UnitlabError, match="style is 'glow'"):
        plots.images(study, 4, style="glow")
    with pytest.raises(unitlab.UnitlabError, match="strength is 3"):
        plots.images(study, 4, strength=3)


def test_seeds_are_all_drawn_with_their_interval() -> None:
    ds = unitlab.training_choices()
    figure = plots.seeds(ds, "max_class_drop_crossfit")
    dots, bars, middle = list(figure)
    assert len(dots) == 25 and len(bars) == len(middle) == 5
    values = 100 * ds.max_class_drop_crossfit.where(ds.fraction_active > 0).mean("unit").values
    np.testing.assert_allclose(dots["max_class_drop_crossfit"], values.ravel())
    for place, one in enumerate(values):
        low, high = stats.t.interval(0.95, 4, one.mean(), stats.sem(one))
        assert (bars["max_class_drop_crossfit"][place], bars["high"][place]) == pytest.approx((low, high))
    drawn(figure)
    drawn(plots.seeds(ds, "live_units"))
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'overall_drop'"):
        plots.seeds(ds, "overal_drop")
    with pytest.raises(unitlab.UnitlabError, match="training_choices"):
        plots.seeds(unitlab.load("vgg_fashion"), "overall_drop")


def test_damaged_cells_with_the_accuracies_that_they_are_made_of(study: xr.Dataset) -> None:
    found = unitlab.damage(study)
    figure = plots.accuracies(found)
    points = [layer for layer in figure if isinstance(layer, hv.Points)]
    assert sum(map(len, points)) == int(found.damaged.sum()) > 0
    rises, falls = (layer.dframe() for layer in points)
    assert (rises.precision_drop < 0).all() and (falls.precision_drop >= 0).all()
    for row in (*rises.itertuples(), *falls.itertuples()):
        cell = found.sel(unit=row.unit).isel(category=list(found.category.values).index(row[4]))
        assert bool(cell.damaged) and row.accuracy_drop == pytest.approx(100 * float(cell.accuracy_drop))
        assert row.precision_drop == pytest.approx(100 * float(cell.precision_drop))
        assert (row.balanced, row.margin) == pytest.approx(
            (100 * float(cell.balanced_accuracy_drop), float(cell.margin_drop)), rel=1e-6
        )
    drawn(figure)
    of_unit = plots.accuracies(study, unit=2)
    assert sum(len(layer) for layer in of_unit if isinstance(layer, hv.Points)) == 6
    with pytest.raises(unitlab.UnitlabError, match="give a unit to see all of its classes"):
        plots.accuracies(found.assign(damaged=found.damaged & False))
    with pytest.raises(unitlab.UnitlabError, match="no unit 50"):
        plots.accuracies(found, unit=50)


def test_two_studies_stand_beside_each_other() -> None:
    one, other = (simulated_study(12, 5, 400, 3, flip_rate=rate, specific_unit=4, specific_category=2) for rate in (0.05, 0.2))
    found = unitlab.compare(one, other.assign_attrs(ablation="mean"), progress=False)
    sure, unsure = (part for part in plots.comparison(found) if isinstance(part, hv.Points) and part.vdims)
    rows = {int(u): (a, b, q) for part in (sure, unsure) for a, b, u, q in part.data.itertuples(index=False)}
    assert sorted(rows) == list(range(12)) and len(sure) == int((found.unit_difference_q <= 0.05).sum()) > 0
    for unit, (a, b, q) in rows.items():
        at = found.sel(unit=unit)
        np.testing.assert_allclose([a / 100, b / 100, q], [*at.unit_drop.values, float(at.unit_difference_q)])
    title = drawn(plots.comparison(found)).title.text
    assert title.startswith(f"12 units; Spearman {float(found.spearman[0]):+.2f}".replace("-", "−")), title
    _, lines, *points = plots.comparison(found, "classes")
    assert len(lines) == 10 and sum(len(part) for part in points if part.vdims) == 5
    drawn(plots.comparison(found, "classes"))
    layers = unitlab.compare(one, other.assign_attrs(layer="conv1"), progress=False)
    drawn(plots.comparison(layers))
    with pytest.raises(unitlab.UnitlabError, match="expected 'classes', or 'units' where both sides have the same"):
        plots.comparison(layers, "units")
    with pytest.raises(unitlab.UnitlabError, match=r"takes what unitlab\.compare"):
        plots.comparison(one)


def test_maps_lie_where_their_cells_look() -> None:
    torch = pytest.importorskip("torch")
    from unitlab.views.gallery import map_places

    # AlexNet's first layer without padding: 11 pixels wide, 4 apart, of 227
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 11, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    pixels = torch.rand(6, 3, 227, 227, generator=torch.Generator().manual_seed(0))
    ds = unitlab.ablate(model, (pixels, torch.arange(6) % 4), "1", progress=False)
    assert map_places(ds) == [pytest.approx([5.5 / 227, 4 / 227])] * 2
    # a cell is brightest in the middle of what it looks at
    heat = np.zeros((55, 55))
    heat[0, 54] = 1
    shown = picture_with_map(np.full((227, 227, 3), 255, np.uint8), heat, strength=0.9, places=map_places(ds))
    rows, columns = np.nonzero((shown != 81).any(2))
    assert rows.max() <= 5 and columns.min() >= 4 * 54 + 5
    even = picture_with_map(np.full((227, 227, 3), 255, np.uint8), heat, strength=0.9)
    assert np.nonzero((even != 81).any(2))[0].max() < rows.max()
    assert map_places(unitlab.load("alexnet_fashion")) is None  # computed before that was kept
