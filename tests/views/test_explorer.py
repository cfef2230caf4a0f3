"""The explorer without a browser: its traits, what it answers the page, and what it says when something is missing."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from explorer_answers import ask
from scipy.stats import norm
from simulated_study import simulated_groups, simulated_study, study_of_predictions

import unitlab
from unitlab.analysis.correlations import fitted_line
from unitlab.store.writing import write_study
from unitlab.views.findings import unit_finding

pytest.importorskip("anywidget")

from unitlab.views.explorer.measured_study import MeasuredStudy, measures_of
from unitlab.views.explorer.opened_study import OpenedStudy


def lower_limits(ds: xr.Dataset) -> np.ndarray:
    """Bonett and Price (2012), image by image, of every drop."""
    low = np.empty(ds.accuracy_drop.shape)
    for unit, category in np.ndindex(low.shape):
        here = ds.label.values == ds.category_index.values[category]
        before, after = ((ds[name] == ds.label).values for name in ("baseline_prediction", "prediction"))
        n, lost, won = here.sum() + 2, (here & before & ~after[unit]).sum() + 1, (here & ~before & after[unit]).sum() + 1
        low[unit, category] = (lost - won) / n - norm.ppf(0.975) * np.sqrt((lost + won - (lost - won) ** 2 / n) / n**2)
    return low


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "two_layers.zarr"
    first = simulated_groups(5, 4, 80, layer="conv1")
    write_study(path, first)
    write_study(path, {**simulated_groups(9, 4, 80, layer="conv5_3"), "": first[""]})
    return path


def held(explorer: unitlab.views.explorer.explorer.Explorer, name: str) -> np.ndarray:
    """A measure of all units, as the page holds it."""
    measured = explorer._measured
    names = [each for each, _ in measured["measures"]]
    return np.frombuffer(measured["values"], "<f4").reshape(len(names), -1)[names.index(name)]


def test_the_page_holds_the_measures_of_all_units(study: xr.Dataset) -> None:
    known, explorer = measures_of(study), unitlab.explore(study, unit=4)
    assert explorer._measured["complete"]
    np.testing.assert_allclose(held(explorer, "overall_drop"), 100 * known.overall_drop, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(held(explorer, "max_class_drop_crossfit"), 100 * known.max_class_drop_crossfit, rtol=1e-5)
    np.testing.assert_allclose(held(explorer, "p_specific"), known.p_specific, rtol=1e-6)
    worst = np.frombuffer(explorer._measured["worst"], "<i4")
    assert worst[7] == -1 and worst[4] == 2
    low = np.frombuffer(explorer._measured["worst_low"], "<f4")
    np.testing.assert_allclose(low[4], 100 * known.max_class_drop_low[4], rtol=1e-6)


def test_another_layer_is_opened_and_both_units_are_remembered(store: Path) -> None:
    explorer = unitlab.explore(store, unit=3, selection=[1, 2])
    first = explorer.layer
    assert list(explorer._held["layers"]) == ["conv1", "conv5_3"]
    other = "conv5_3" if first == "conv1" else "conv1"
    explorer.layer = other
    # the layer's own strongest unit: number 3 there is another channel
    assert explorer.unit == int(explorer.ds.unit[lower_limits(explorer.ds).max(1).argmax()])
    assert explorer.unit != 3 and explorer.group == () and explorer._held["layer"] == other
    again = eval(explorer.code())
    assert (again.layer, again.unit) == (other, explorer.unit)
    explorer.unit = 0
    explorer.layer = first
    assert explorer.unit == 3 and explorer.group == (1, 2)
    explorer.layer = other
    assert explorer.unit == 0
    with pytest.raises(unitlab.UnitlabError, match="no layer"):
        explorer.layer = "conv9"
    assert explorer.layer == other


def test_a_layer_opens_at_its_strongest_unit_for_the_class(store: Path) -> None:
    explorer = unitlab.explore(store, category="class 2")
    assert explorer.unit == explorer.ds.unit[lower_limits(explorer.ds)[:, 2].argmax()] != unitlab.explore(store).unit
    explorer.layer = "conv5_3" if explorer.layer == "conv1" else "conv1"
    assert explorer.unit == explorer.ds.unit[lower_limits(explorer.ds)[:, 2].argmax()]
    assert explorer.category == "class 2" and explorer.y == "accuracy_drop"


@pytest.mark.parametrize(("n", "clustered", "strongest"), [(4, False, 1), (40, False, 0), (40, True, 1)])
def test_the_unit_that_opens_is_one_that_evidence_supports(n: int, clustered: bool, strongest: int) -> None:
    """Unit 0 loses three quarters of n images, which are two clusters or none; unit 1 loses 60 of 200 images."""
    label = np.repeat([0, 1], [n, 200])
    prediction = np.tile(label, (2, 1))
    prediction[0, : 3 * n // 4] = 1
    prediction[1, -60:] = 0
    cluster = np.concatenate([np.arange(n) % 2, np.arange(2, 202)]) if clustered else None
    ds = study_of_predictions(label, label, prediction, 2, cluster)
    assert ds.accuracy_drop.values.max(1).argmax() == 0
    before, after = MeasuredStudy(ds), MeasuredStudy(ds, measures_of(ds))
    for study in (before, after):
        assert study.strongest_unit() == strongest
        assert [study.strongest_unit(name) for name in study.names] == [0, 1]


def test_a_bundled_study_opens_at_a_unit_that_damages_specific_classes() -> None:
    ds = unitlab.load("squeezenet_stamps")
    known, explorer = unitlab.damage(ds, progress=False), unitlab.explore("squeezenet_stamps")
    largest, opened = known.isel(unit=int(ds.accuracy_drop.values.max(1).argmax())), known.sel(unit=explorer.unit)
    assert largest.p_specific > 0.5 and opened.p_specific < 0.001
    assert opened.max_class_drop_crossfit == known.max_class_drop_crossfit.max()


def test_another_study_is_opened_by_its_name(store: Path) -> None:
    explorer = unitlab.explore(store, unit=3, category="class 2", selection=[1, 2])
    assert explorer.study == "simulated" and {"simulated", "vgg_fashion"} <= set(explorer._held["studies"])
    explorer.study = "vgg_fashion"
    fashion = unitlab.explore("vgg_fashion")
    assert explorer.code() == fashion.code() and explorer._held["classes"] == fashion._held["classes"]
    assert list(explorer._held["layers"]) == list(fashion._held["layers"])
    with pytest.raises(unitlab.UnitlabError, match="Did you mean"):
        explorer.study = "vgg_fashon"
    assert explorer.study == "vgg_fashion"
    explorer.study = "simulated"
    assert explorer.source.path == str(store) and len(explorer.ds.unit) == 5
    assert eval(explorer.code()).layer == explorer.layer


def test_a_study_called_as_a_known_one_is_another(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study.assign_attrs(name="vgg_fashion"))
    assert explorer.study == "vgg_fashion (this one)" and len(explorer.ds.unit) == 20
    explorer.study = "vgg_fashion"
    assert len(explorer.ds.unit) == 64
    assert unitlab.explore("vgg_fashion").study == "vgg_fashion"


def test_code_restores_the_view() -> None:
    given = {"x": "l1_norm", "color": "max_z", "selection": [1, 3], "line": True, "image_style": "heat", "image_strength": 0.3}
    explorer = unitlab.explore("vgg_fashion", unit=7, category="Bag", **given)
    again = eval(explorer.code())
    for name in ("unit", "category", "x", "y", "color", "group", "line", "image_style", "image_strength", "layer"):
        assert getattr(again, name) == getattr(explorer, name)
    assert repr(explorer) == explorer.code() and "\n" not in repr(explorer)
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


def test_a_trait_that_cannot_be_is_refused_and_left_as_it_was(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    wrong = {
        "unit": (99, "no unit 99"),
        "category": ("clas 2", "Did you mean 'class 2'"),
        "group": ((1, 99), "no unit 99"),
        "x": ("l1norm", "l1_norm"),
    }
    for trait, (value, sentence) in wrong.items():
        before = getattr(explorer, trait)
        with pytest.raises(unitlab.UnitlabError, match=sentence):
            setattr(explorer, trait, value)
        assert getattr(explorer, trait) == before
    # from a page it is a sentence
    explorer.set_state({"layer": "conv9"})
    assert "in memory and holds one layer" in explorer._said[0] and explorer.layer == "conv5_3"
    explorer.unit = 4
    assert not explorer._said


def test_a_class_takes_the_vertical_axis_and_gives_it_back(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    explorer.category = "class 2"
    assert explorer.y == "accuracy_drop"
    explorer.category = ""
    assert explorer.y == "max_class_drop_crossfit"
    row = ask(explorer, "class", category="class 2")
    known = measures_of(study)
    np.testing.assert_allclose(row["drop"], 100 * known.accuracy_drop[:, 2], rtol=1e-6)
    np.testing.assert_allclose(row["q"], known.q_value[:, 2], rtol=1e-6)
    assert f"{int((known.n_changed[:, 2] >= 6).sum())} of {known.sizes['unit']} units can be tested" in row["tested"]


def test_a_unit_s_row_and_finding_are_those_of_the_dataset() -> None:
    study = simulated_study(6, 40, 2000, 1, flip_rate=0.1, specific_unit=2, specific_category=7)
    known, explorer = measures_of(study), unitlab.explore(study, unit=2)
    row = ask(explorer, "unit", unit=2)
    for name, variable in (("drop", "accuracy_drop"), ("low", "drop_low"), ("high", "drop_high")):
        np.testing.assert_allclose(row[name], 100 * known[variable][2], rtol=1e-6)
    np.testing.assert_array_equal(row["lost"], known.n_broken[2])
    assert "".join(row["finding"]) == str(unit_finding(known, 2)) and row["finding"][1] == "class 7"
    # it is there without being asked for: a page cannot ask while cells run
    ahead = {each["ask"]["kind"]: each["answer"] for each in explorer._ahead}
    assert ahead["unit"]["finding"] == row["finding"] and set(ahead) == {"unit", "top"}


def test_the_line_is_that_of_the_units(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=4)
    found = ask(explorer, "fit", x="overall_drop", y="max_class_drop", category="")
    line = fitted_line(100 * study.overall_drop.values, 100 * measures_of(study).max_class_drop.values)
    np.testing.assert_allclose(found["fit"], line["fit"])
    assert found["spearman"] == f"{line['spearman']:+.2f}".replace("-", "−")
    assert "no line" in ask(explorer, "fit", x="batch_norm_scale", y="max_class_drop", category="")["said"]


def test_numbers_of_the_reader_s_own_are_axes(study: xr.Dataset) -> None:
    own = np.linspace(1.0, 2.0, study.sizes["unit"])
    explorer = unitlab.explore(study.assign(hits=("unit", own)), unit=3, x="hits", color="hits")
    np.testing.assert_allclose(held(explorer, "hits"), own, rtol=1e-6)
    assert ["hits", "hits"] in explorer._measured["measures"]
    assert explorer.code() == "unitlab.explore(ds, unit=3, x='hits', color='hits')"
    # the measures of a large study come from another process, which reads the store
    explorer._measured_study.finish(explorer.measures.drop_vars("hits"))
    assert "hits" in explorer._measured_study.variables
    assert any("hits" in name for name, _, _ in ask(explorer, "definitions")["rows"])


def test_names_of_units_are_no_measures(study: xr.Dataset) -> None:
    named = unitlab.concepts.labelled(study, pd.DataFrame({"label": ["snow"], "score": [0.31]}, index=[4]), source="seen")

    async def opened() -> None:
        explorer = unitlab.explore(named)
        assert explorer._held["names"][4] == ["snow", pytest.approx(0.31), "seen"]
        assert not explorer._measured["complete"] and "unit_label_score" not in explorer._measured_study.variables

    asyncio.run(opened())


def test_top_images_are_those_of_the_unit_and_of_a_class(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, unit=3)
    top = ask(explorer, "top", unit=3, of="all", category="")
    images = study.top_image.values[3]
    assert [tile["image"] for tile in top["tiles"]] == images.tolist()
    assert [tile["id"] for tile in top["tiles"]] == study.image.values[images].tolist()
    maps = top["maps"].reshape(len(images), *top["mapped"])
    kept = study.top_map.values[3].astype(float)
    np.testing.assert_allclose(maps, 255 * kept / kept.max((1, 2), keepdims=True), atol=0.6)
    here = ask(explorer, "top", unit=3, of="class", category="class 1")["tiles"]
    label, activation = study.label.values, study.activation_max.values[3]
    ranked = [image for image in np.argsort(-activation, kind="stable") if label[image] == 1][:12]
    assert [tile["image"] for tile in here] == ranked
    assert all(tile["map"] == (tile["image"] in images) for tile in here)
    lost = ask(explorer, "top", unit=4, of="lost", category="")["tiles"]
    before, after = study.baseline_prediction.values, study.prediction.values[4]
    assert lost and all(before[t["image"]] == label[t["image"]] != after[t["image"]] for t in lost)


def test_what_a_study_lacks_is_said_in_its_place(study: xr.Dataset) -> None:
    dead = unitlab.explore(study, unit=7)
    assert ask(dead, "top", unit=7)["tiles"] == [] and "never active" in ask(dead, "unit", unit=7)["finding"][0]
    bare = unitlab.explore(study.drop_vars(["thumbnails", "l1_norm", "fraction_active", "activation_max"]), unit=3)
    assert "keeps no thumbnails" in ask(bare, "top", unit=3)["missing"] and "class" in ask(bare, "top", unit=3)["missing"]
    assert "l1_norm" not in bare._measured_study.variables and "max_class_drop_crossfit" in bare._measured_study.variables
    assert "no activations of single images" in ask(bare, "top", unit=3, of="class", category="class 1")["missing"]
    bare = unitlab.explore(study.drop_vars(["top_image", "top_map", "top_activation"]), unit=3)
    assert "keeps no top images" in ask(bare, "top", unit=3)["missing"]


def test_a_store_that_vanished_is_a_sentence(store: Path) -> None:
    explorer = unitlab.explore(store, unit=1)
    shutil.rmtree(store)
    assert "nit 2" in ask(explorer, "unit", unit=2)["finding"][0]
    refused = ask(explorer, "top", unit=2)
    assert str(store) in refused["error"] and refused["command"] == "unitlab.studies()"
    here = explorer.layer
    explorer.set_state({"layer": next(layer for layer in explorer._held["layers"] if layer != here)})
    assert "no study at" in explorer._said[0] and explorer._said[1] == "unitlab.studies()" and explorer.layer == here


def test_what_is_asked_wrongly_is_a_sentence_and_a_fault_is_logged(study: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    explorer = unitlab.explore(study, unit=3)
    assert "knows no 'speed'" in ask(explorer, "speed")["error"]
    assert "KeyError" in ask(explorer, "unit")["error"] and "KeyError" in caplog.text


def test_explorers_of_one_study_share_what_is_measured(study: xr.Dataset) -> None:
    one, other = unitlab.explore("vgg_fashion"), unitlab.explore("vgg_fashion", unit=3)
    assert one._measured_study is other._measured_study and one._measured_study.complete
    mine = unitlab.explore(study)
    assert unitlab.explore(study)._measured_study is mine._measured_study
    assert unitlab.explore(study.copy())._measured_study is not mine._measured_study


@pytest.mark.parametrize("kept", ["in memory", "in a store", "a part of a store"])
def test_counts_are_shown_until_tests_and_cross_fitting_are_done(
    monkeypatch: pytest.MonkeyPatch, store: Path, kept: str
) -> None:
    monkeypatch.setattr("unitlab.views.explorer.measured_study.QUICKLY_MEASURED", 0)
    ds = unitlab.load(store)
    if kept == "a part of a store":
        ds = ds.isel(unit=[4, 1])
    known = measures_of(ds)
    if kept == "in memory":
        ds = ds.load()
        del ds.encoding["source"]

    async def opened() -> None:
        explorer = unitlab.explore(ds, unit=1)
        other = unitlab.explore(ds, unit=1, y="max_class_drop")
        assert explorer.y == "max_class_drop" and not explorer._measured["complete"]
        np.testing.assert_allclose(held(explorer, "max_class_drop"), 100 * known.max_class_drop, rtol=1e-6)
        row = ask(explorer, "unit", unit=1)
        np.testing.assert_allclose(row["low"], 100 * known.drop_low[1], rtol=1e-6)
        assert np.isnan(row["q"]).all()
        strongest = ask(explorer, "unit", unit=explorer._measured_study.strongest_unit())
        assert "q is being computed" in "".join(strongest["finding"])
        explorer.unit = 4
        for _ in range(600):
            if explorer._measured["complete"] and other._measured["complete"]:
                break
            await asyncio.sleep(0.1)
        assert explorer.unit == 4 and explorer.y == "max_class_drop_crossfit" and other.y == "max_class_drop"
        np.testing.assert_allclose(held(explorer, "max_class_drop_crossfit"), 100 * known.max_class_drop_crossfit, rtol=1e-5)
        assert np.isfinite(ask(explorer, "unit", unit=1)["q"]).all()

    asyncio.run(opened())


def test_the_explorer_needs_neither_torch_nor_what_plots_need() -> None:
    code = (
        "import sys, unitlab\n"
        "class Missing:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name in ('torch', 'torchvision', 'holoviews', 'panel', 'bokeh'): raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "explorer = unitlab.explore('vgg_fashion', unit=3)\n"
        "explorer.unit = 4\n"
        "print(explorer._said, explorer)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] unitlab.explore('vgg_fashion', unit=4)"


def test_what_goes_to_the_page_is_small() -> None:
    explorer = unitlab.explore("vgg_emoji")
    state = explorer.get_state()
    module = len(state.pop("_module"))
    rest = sum(len(each) for each in (*explorer._measured.values(),) if isinstance(each, bytes)) + len(
        json.dumps(explorer._held)
    )
    assert module < 200_000 and rest < 20_000


def test_layers_of_all_stores_of_a_name_open_from_a_dataset_too(own_home: Path) -> None:
    write_study(own_home / "studies" / "vgg_emoji.zarr", simulated_groups(layer="conv5_3"))
    for given in ("vgg_emoji", unitlab.load("vgg_emoji")):
        source = OpenedStudy(given)
        assert source.layers == {"conv5_2": ["zero"], "conv5_3": ["zero"]}
        assert source.at(*source.first).ds.sizes["image"] == 4428 and source.at("conv5_3", "zero").ds.sizes["image"] == 60


def test_the_first_picture_does_without_dask() -> None:
    """xarray imports dask, where it is installed, to ask whether an array is of it: a third of an opening."""
    pytest.importorskip("dask")
    code = (
        "import sys, unitlab\n"
        "from unitlab.views.explorer import explorer\n"
        "explorer.measure_beside = lambda *given: None\n"
        "unitlab.explore('vgg_emoji')._still()\n"
        "print('dask' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
