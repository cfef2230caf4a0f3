"""The explorer without a browser: its state, the views that follow it, and what it says when something is missing."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from simulated_study import simulated_groups, simulated_study

import unitlab
from unitlab.analysis.correlations import fitted_line
from unitlab.errors import UnitlabError
from unitlab.store.writing import write_study
from unitlab.views.look import GREY

W = pytest.importorskip("ipywidgets")
pytest.importorskip("jupyter_bokeh")

from bokeh.document import Document  # noqa: E402
from bokeh.models import ColumnDataSource, Scatter, Title  # noqa: E402

from unitlab.views.explorer.classes_plot import page_of_classes  # noqa: E402
from unitlab.views.explorer.figures import FigureWidget, bare_figure, drawn  # noqa: E402
from unitlab.views.explorer.measured_study import measures_of  # noqa: E402
from unitlab.views.explorer.tabs.definitions import Definitions  # noqa: E402


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "two_layers.zarr"
    for layer, n_units in (("conv1", 5), ("conv5_3", 9)):
        write_study(path, simulated_groups(n_units, 4, 80, layer=layer))
    return path


def test_controls_and_state_follow_each_other(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    header = explorer.header
    header.unit.value = 5
    assert explorer.state.unit == 5
    explorer.state.unit = 9
    assert header.unit.value == 9 and "unit 9 of 20" in explorer._status.value
    header.after.click()
    assert explorer.state.unit == 10
    header.before.click()
    assert header.unit.value == 9


def test_steps_wrap_and_gaps_are_stepped_over(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study.isel(unit=[2, 5, 9]), unit=2)
    header = explorer.header
    header.before.click()
    assert explorer.state.unit == 9
    header.after.click()
    header.unit.value = 3
    assert explorer.state.unit == header.unit.value == 5
    header.unit.value = 4
    assert explorer.state.unit == header.unit.value == 2


def test_a_class_is_found_by_part_of_its_name(study: xr.Dataset) -> None:
    names = study.category.values.copy()
    names[:3] = ["alpine hut", "<b>hut</b>", "écluse"]
    explorer = unitlab.explore(study.assign_coords(category=names))
    box = explorer.header.category
    box.value = "ÉCLU"
    assert explorer.state.category == "écluse" == box.value
    box.value = "hut"
    assert explorer.state.category == "écluse" and "2 classes" in explorer.header.found.value
    assert "<b>" not in explorer.header.found.value
    box.value = "zebra"
    assert "no such class" in explorer.header.found.value
    box.value = ""
    assert explorer.state.category == ""


def test_another_layer_is_opened_and_the_unit_stays_valid(store: Path) -> None:
    explorer = unitlab.explore(store, unit=3)
    first = explorer.state.layer
    assert explorer.header.layer.options == ("conv1", "conv5_3")
    other = "conv5_3" if first == "conv1" else "conv1"
    explorer.header.layer.value = other
    assert explorer.study.layer == other == explorer.state.layer and explorer.study.complete
    again = eval(explorer.code())
    assert (again.state.layer, again.state.unit) == (other, explorer.state.unit)
    explorer.state.layer = "conv9"
    assert explorer.state.layer == other and "no layer" in explorer._said.value


def test_another_study_is_opened_by_its_name(store: Path) -> None:
    explorer = unitlab.explore(store, unit=3, category="class 2", selection=[1, 2])
    assert explorer.state.study == explorer.header.study.value == "simulated"
    assert {"simulated", "vgg_fashion"} <= set(explorer.header.study.options)
    explorer.state.selection = (4,)
    assert explorer.groups.before
    explorer.header.study.value = "vgg_fashion"
    assert not explorer.groups.before  # its units were others
    fashion = unitlab.explore("vgg_fashion")
    assert explorer.code() == fashion.code() and explorer.state.trait_values() == fashion.state.trait_values()
    assert explorer.classes.headline.value == fashion.classes.headline.value
    assert explorer.header.layer.options == fashion.header.layer.options
    assert explorer.header.category.options == fashion.header.category.options
    explorer.state.study = "vgg_fashon"
    assert explorer.state.study == "vgg_fashion" and "Did you mean" in explorer._said.value
    explorer.header.study.value = "simulated"
    assert explorer.source.path == store and len(explorer.study.units) == 5
    assert eval(explorer.code()).state.layer == explorer.state.layer


def test_a_study_called_as_a_known_one_is_another(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study.assign_attrs(name="vgg_fashion"))
    assert explorer.header.study.value == "vgg_fashion (this one)" and len(explorer.study.units) == 20
    explorer.header.study.value = "vgg_fashion"
    assert len(explorer.study.units) == 64
    assert unitlab.explore("vgg_fashion").header.study.value == "vgg_fashion"


def test_code_restores_the_view() -> None:
    explorer = unitlab.explore("vgg_fashion", unit=7, category="Bag", x="l1_norm", color="max_z", selection=[1, 3])
    again = eval(explorer.code())
    assert again.state.trait_values() == explorer.state.trait_values()
    assert unitlab.explore("vgg_fashion", unit=7).code() == "unitlab.explore('vgg_fashion', unit=7)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unit": 64}, "no unit 64"), ({"category": "Shrt"}, "Did you mean 'Shirt'"),
        ({"x": "l1norm"}, "Did you mean 'l1_norm'"),
        ({"selection": [3, 99]}, "no unit 99"), ({"ds_or_name": "vgg_fashon"}, "Did you mean 'vgg_fashion'"),
        ({"ds_or_name": 3}, "name or path"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused(given: dict, message: str) -> None:
    with pytest.raises(unitlab.UnitlabError, match=message):
        unitlab.explore(**{"ds_or_name": "vgg_fashion", **given})


def test_a_tap_goes_through_a_stack_and_a_lasso_fills_the_group(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    explorer.units.tapped([5, 8, 9])
    assert explorer.state.unit == 5
    for expected in (8, 9, 5):
        explorer.units.tapped([5, 8, 9])
        assert explorer.state.unit == expected
    explorer.units.tapped([])
    explorer.units.encircled([9, 2])
    assert explorer.state.unit == 5 and explorer.state.selection == (2, 9)
    np.testing.assert_allclose(explorer.units.group.data["x"], 100 * study.overall_drop.values[[2, 9]])


def test_what_the_pointer_tells_is_heard_once(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    [script] = explorer.units.plot.js_event_callbacks["tap"]
    told = script.args["told"]
    told.tags = ["tap", "1", 5, 8]
    assert explorer.state.unit == 5
    # jupyter_bokeh makes the call of one event again
    for call in told._callbacks["tags"]:
        call("tags", [], told.tags)
    assert explorer.state.unit == 5
    told.tags = ["tap", "2", 5, 8]
    assert explorer.state.unit == 8


def test_points_are_the_measures_and_filled_where_significant(study: xr.Dataset) -> None:
    known = measures_of(study)
    explorer = unitlab.explore(study, unit=4, color="class_selectivity")
    points = explorer.units.points.data
    np.testing.assert_allclose(points["x"], 100 * known.overall_drop)
    np.testing.assert_allclose(points["y"], 100 * known.max_class_drop_crossfit)
    np.testing.assert_array_equal(points["fill"] > 0, known.p_specific.values <= 0.05)
    assert points["shade"][7] == GREY and len(set(points["shade"])) > 3 and explorer.units.bar.visible
    explorer.units.y.value = "max_class_drop"
    assert explorer.state.y == "max_class_drop" and len(explorer.units.null.data["x"]) == 20
    assert "95 % of chance" in explorer.units.caption.value
    explorer.state.line = True
    line = fitted_line(100 * known.overall_drop.values, 100 * known.max_class_drop.values)
    np.testing.assert_allclose(explorer.units.line.data["fit"], line["fit"])
    assert f"Spearman {line['spearman']:+.2f}".replace("-", "−") in explorer.units.caption.value
    explorer.state.x = "batch_norm_scale"
    assert "No unit of conv5_3 has a value" in explorer.units.instead.value
    assert explorer.units.figure.layout.display == "none"
    explorer.state.x = "l1_norm"
    assert explorer.units.figure.layout.display is None


def test_bars_headline_and_pages_hold_the_numbers_of_the_dataset() -> None:
    study = simulated_study(6, 40, 2000, 1, flip_rate=0.1, specific_unit=2, specific_category=7)
    known = measures_of(study)
    explorer = unitlab.explore(study, unit=2)
    classes, drop = explorer.classes, 100 * study.accuracy_drop.values[2]
    order = np.argsort(-drop, kind="stable")
    bars = classes.bars.data
    np.testing.assert_allclose(bars["drop"], drop[[*order[:10], *order[-3:]]])
    np.testing.assert_allclose(bars["low"][0], 100 * known.drop_low.values[2, order[0]])
    np.testing.assert_array_equal(bars["fill"] > 0.5, known.q_value.values[2, [*order[:10], *order[-3:]]] <= 0.05)
    assert "class 7" in classes.headline.value and f"{drop[7]:.1f}" in classes.headline.value
    seen = list(bars["place"])
    while not classes.forward.disabled:
        classes.forward.click()
        seen += list(classes.bars.data["place"])
    assert sorted(seen) == list(range(40))
    explorer.state.category = f"class {order[20]}"
    assert order[20] in classes.bars.data["place"] and f"class {order[20]}" in classes.headline.value
    classes.tapped([3])
    assert explorer.state.category == "class 3"


@pytest.mark.parametrize("n_classes", [2, 3, 12, 13, 14, 1000])
def test_every_class_is_on_one_page(n_classes: int) -> None:
    order, seen, page = np.arange(n_classes), [], 0
    while len(seen) < n_classes:
        places, above = page_of_classes(order, page)
        assert 0 < len(places) <= 13 and 0 < above <= len(places)
        seen += list(places)
        page += 1
    assert sorted(seen) == list(range(n_classes))


def test_the_table_sorts_filters_and_chooses(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    table, known = explorer.table, measures_of(study)
    assert list(table.order) == list(np.argsort(-known.max_class_drop_crossfit.values, kind="stable"))
    table.headings["overall"].click()
    assert list(table.order) == list(np.argsort(-study.overall_drop.values, kind="stable"))
    table.headings["overall"].click()
    assert table.order[0] == study.overall_drop.values.argmin()
    table.rows[2].click()
    assert explorer.state.unit == table.order[2] and f"<td>{table.order[2]}</td>" in table.cells.value
    table.filter.value = "class 2"
    worst = study.accuracy_drop.values.argmax(1)
    assert sorted(table.order) == sorted(np.flatnonzero(worst == 2))
    table.filter.value = "p<=0.05 unit>=3"
    assert sorted(table.order) == [u for u in range(3, 20) if known.p_specific.values[u] <= 0.05]
    # numbers as people write them
    for written, at_most in (("p<=5e-2", 0.05), ("p <= .05", 0.05), ("p<=1E-3, max>-1", 0.001)):
        table.filter.value = written
        assert sorted(table.order) == [u for u in range(20) if known.p_specific.values[u] <= at_most]
    for written in ("p<", "max>.", "p<0.05.1", "p<5e", "overall > much"):
        table.filter.value = written
        assert "write conditions like p&lt;0.05" in table.where.value
    table.filter.value = "speed>3"
    assert "no numbers called &#x27;speed&#x27;" in table.where.value
    table.filter.value = "zebra"
    assert "no unit passes" in table.where.value and all(row.disabled for row in table.rows)


def test_the_table_follows_the_unit(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    for unit in (0, 7, 19):
        explorer.state.unit = unit
        table = explorer.table
        assert f'<tr aria-current="true"><td>{unit}</td>' in table.cells.value
        told = re.findall(r"<tr[^>]*><td>(\d+)</td>", table.cells.value)
        assert [button.description for button in table.rows if not button.disabled] == [f"unit {one}" for one in told]


def test_another_unit_moves_the_ring_and_draws_no_unit_again(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    sent: list[str] = []
    explorer.units.figure.send = lambda content, buffers=None: sent.append(content["payload"])
    explorer.state.unit = 5
    events = json.loads(sent[2])["events"]
    assert len(sent) == 3 and [event["model"]["id"] for event in events] == [explorer.units.mark.id]
    assert "unit 5 of" in explorer._status.value and "overall drop" in explorer._status.value


def test_numbers_of_the_reader_s_own_are_axes(study: xr.Dataset) -> None:
    own = np.linspace(1.0, 2.0, study.sizes["unit"])
    explorer = unitlab.explore(study.assign(iou=("unit", own)), unit=3, x="iou", color="iou")
    np.testing.assert_array_equal(explorer.units.points.data["x"], own)
    assert explorer.units.plot.xaxis.axis_label == "iou" and f"iou {own[3]:.3g};" in explorer._status.value
    assert explorer.code() == "unitlab.explore(ds, unit=3, x='iou', color='iou')"
    # the measures of a large study come from another process, which reads the store
    explorer.study.finish(explorer.study.measures.drop_vars("iou"))
    assert "iou" in explorer.study.variables
    assert "iou" in Definitions(explorer).found.value


def test_top_images_are_those_of_the_unit(study: xr.Dataset) -> None:
    names = study.category.values.copy()
    names[0] = '<script>alert("x")</script>'
    explorer = unitlab.explore(study.assign_coords(category=names), unit=3)
    first = explorer.images.grid.value
    assert first.count("<img ") == 6 and str(study.image.values[study.top_image.values[3, 0]]) in first
    explorer.state.image_style = "heat"
    assert explorer.images.grid.value != first and explorer.images.strength.description == "opacity"
    explorer.state.unit = 5
    assert str(study.image.values[study.top_image.values[5, 0]]) in explorer.images.grid.value
    shown = "".join(widget.value for widget in html_widgets(explorer))
    assert "<script>" not in shown


def html_widgets(widget: W.Widget) -> Iterator[W.HTML]:
    if isinstance(widget, W.HTML):
        yield widget
    for child in getattr(widget, "children", ()):
        yield from html_widgets(child)


def test_a_dead_unit_says_so(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=7)
    assert explorer.study.max_class[7] == -1 and explorer.units.points.data["worst"][7] == "none"
    assert "Unit 7 is dead" in explorer.classes.headline.value
    assert "it is dead" in explorer.images.grid.value and "ul-message" in explorer.images.grid.value


def test_what_a_study_lacks_is_said_in_its_place(study: xr.Dataset) -> None:
    bare = study.drop_vars(["thumbnails", "l1_norm", "fraction_active", "activation_max"])
    explorer = unitlab.explore(bare, unit=3)
    assert "keeps no thumbnails" in explorer.images.grid.value and "class" in explorer.images.grid.value
    assert "l1_norm" not in explorer.study.variables and "max_class_drop_crossfit" in explorer.study.variables
    explorer = unitlab.explore(study.drop_vars(["top_image", "top_map", "top_activation"]), unit=3)
    assert "keeps no top images" in explorer.images.grid.value


def test_a_class_with_few_images_or_none_is_marked() -> None:
    study = simulated_study(4, 6, 60, 2, flip_rate=0.2, empty_categories=(1,))
    explorer = unitlab.explore(study, unit=0)
    assert "only 12 images" in explorer.classes.headline.value
    explorer.state.category = "class 1"
    assert ">class 1</em>, so there is no drop to show" in explorer.classes.headline.value


def test_a_store_that_vanished_is_a_sentence(store: Path) -> None:
    explorer = unitlab.explore(store, unit=1)
    shutil.rmtree(store)
    explorer.state.unit = 2
    assert explorer.classes.headline.value.count("Unit 2") == 1
    assert "ul-message" in explorer.images.grid.value and str(store) in explorer.images.grid.value
    other = next(layer for layer in explorer.source.layers if layer != explorer.state.layer)
    explorer.header.layer.value = other
    assert "<code>unitlab.studies()</code>" in explorer._said.value and "<code>" in explorer.images.grid.value
    assert "no study at" in explorer._said.value and explorer.header.layer.value == explorer.state.layer != other


def test_one_unit_and_two_classes() -> None:
    explorer = unitlab.explore(simulated_study(1, 2, 30))
    explorer.header.after.click()
    assert explorer.state.unit == 0 and len(explorer.classes.bars.data["drop"]) == 2


def test_an_error_in_a_callback_is_a_message(study: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    explorer = unitlab.explore(study, unit=3)
    explorer.watch(lambda: 1 // 0, "unit")
    explorer.state.unit = 4
    assert "ZeroDivisionError" in explorer._said.value and "ZeroDivisionError" in caplog.text


def test_a_page_that_is_loaded_again_gets_the_present_figure(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    explorer.state.unit = 4
    figure = explorer.classes.figure
    assert str(float(explorer.classes.bars.data["drop"][0]))[:6] in figure.get_state()["render_bundle"] or figure.changed
    explorer._repr_mimebundle_()
    assert not figure.changed


@pytest.mark.parametrize("in_memory", [True, False])
def test_counts_are_shown_until_tests_and_cross_fitting_are_done(
    monkeypatch: pytest.MonkeyPatch, store: Path, in_memory: bool
) -> None:
    monkeypatch.setattr("unitlab.views.explorer.measured_study.QUICKLY_MEASURED", 0)
    ds = unitlab.load(store)
    known = measures_of(ds)
    if in_memory:
        ds = ds.load()
        del ds.encoding["source"]

    async def opened() -> None:
        explorer = unitlab.explore(ds, unit=1)
        kept = unitlab.explore(ds, unit=1, y="max_class_drop")
        assert explorer.state.y == "max_class_drop" and not explorer.study.complete
        np.testing.assert_allclose(explorer.units.points.data["y"], 100 * known.max_class_drop)
        np.testing.assert_allclose(explorer.study.drops["drop_low"], 100 * known.drop_low)
        assert "being computed" in explorer.units.caption.value and "being computed" in explorer._status.value
        assert "q is being computed" in explorer.classes.headline.value
        assert list(explorer.table.order) == list(np.argsort(-known.max_class_drop.values, kind="stable"))
        explorer.state.unit = 2
        both = asyncio.Event()
        for one in (explorer, kept):
            one.watch(lambda: both.set() if explorer.study.complete and kept.study.complete else None, "measures")
        await asyncio.wait_for(both.wait(), 60)
        assert explorer.state.unit == 2 and explorer.state.y == "max_class_drop_crossfit" and kept.state.y == "max_class_drop"
        np.testing.assert_allclose(explorer.units.points.data["y"], 100 * known.max_class_drop_crossfit)
        assert list(explorer.table.order) == list(np.argsort(-known.max_class_drop_crossfit.values, kind="stable"))
        assert "computed" not in explorer._status.value + explorer.classes.headline.value

    asyncio.run(opened())


@pytest.mark.parametrize("quickly_measured", [0, 4_000_000])
def test_a_variable_that_takes_long_to_compute_is_awaited_and_a_wrong_name_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, store: Path, quickly_measured: int
) -> None:
    monkeypatch.setattr("unitlab.views.explorer.measured_study.QUICKLY_MEASURED", quickly_measured)
    ds = unitlab.load(store)

    async def opened() -> None:
        explorer = unitlab.explore(ds, y="p_specific")
        if quickly_measured:
            assert explorer.study.complete
        else:
            assert not explorer.study.complete and "being computed" in explorer.units.instead.value
            arrived = asyncio.Event()
            explorer.watch(arrived.set, "measures")
            await asyncio.wait_for(arrived.wait(), 60)
        assert explorer.state.y == "p_specific" and explorer.units.instead.layout.display == "none"
        np.testing.assert_allclose(explorer.units.points.data["y"], explorer.study.measures.p_specific)
        for wrong in ("p_spezific", "max_class", "drop_low"):
            with pytest.raises(UnitlabError, match=f"no attribute or importance '{wrong}'"):
                unitlab.explore(ds, color=wrong)

    asyncio.run(opened())


def test_a_quick_study_is_shown_before_it_is_measured(store: Path) -> None:
    async def opened() -> None:
        explorer = unitlab.explore(store)
        assert not explorer.study.complete and len(explorer.units.points.data["x"]) == len(explorer.study.units)
        arrived = asyncio.Event()
        explorer.watch(arrived.set, "measures")
        await asyncio.wait_for(arrived.wait(), 60)
        xr.testing.assert_allclose(explorer.study.measures, measures_of(unitlab.load(store)).load())
        assert explorer.state.y == "max_class_drop_crossfit"

    asyncio.run(opened())


def test_changes_of_a_figure_made_together_are_one_patch_that_says_all() -> None:
    plot = bare_figure("made", 200)
    plot.title = Title(text="")
    source = ColumnDataSource({"x": np.arange(3.0)})
    drawn(plot, source, Scatter(x="x", y="x"))
    widget = FigureWidget(plot)
    sent: list[str] = []
    widget.send = lambda content, buffers=None: sent.append(content["payload"])
    page = Document.from_json(widget._model_to_traits(plot)["docs_json"].popitem()[1])

    def page_is_alike() -> bool:
        there = page.get_model_by_name("made")
        columns = there.renderers[0].data_source.data["x"]
        return np.array_equal(columns, source.data["x"]) and there.title.text == plot.title.text

    with widget.together():
        source.data = {"x": np.array([5.0, np.nan, 7.0])[::2]}
        source.data = {"x": np.array([5.0, 7.0])}
        plot.title.text = "together"
        assert sent == [] and not page_is_alike()
    assert len(sent) == 3  # header, metadata, content
    page.apply_json_patch(json.loads(sent[2]))
    assert page_is_alike()
    plot.title = Title(text="alone")
    page.apply_json_patch(json.loads(sent[5]))
    assert len(sent) == 6 and page_is_alike()


def test_the_explorer_needs_neither_torch_nor_holoviews() -> None:
    code = (
        "import sys, unitlab\n"
        "class Missing:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name in ('torch', 'torchvision', 'holoviews', 'panel'): raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "explorer = unitlab.explore('vgg_fashion', unit=3)\n"
        "explorer.state.unit = 4\n"
        "print(explorer._said.value, explorer.classes.headline.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Unit 4" in done.stdout and "failed" not in done.stdout


def test_a_state_that_cannot_be_is_answered_with_a_sentence_and_left_again(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    for trait, value, sentence in (("unit", 99, "no unit 99"), ("category", "clas 2", "Did you mean &#x27;class 2&#x27;")):
        before = getattr(explorer.state, trait)
        setattr(explorer.state, trait, value)
        assert sentence in explorer._said.value
        setattr(explorer.state, trait, before)
    explorer.state.unit = 4
    assert "Unit 4" in explorer.classes.headline.value and not explorer._said.value
