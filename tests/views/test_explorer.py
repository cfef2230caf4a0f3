"""The explorer without a browser: its state, the views that follow it, and what it says when something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr
from simulated_study import simulated_groups, simulated_study

import unitlab
from unitlab.study_writing import write_study

pytest.importorskip("ipywidgets")
pytest.importorskip("jupyter_bokeh")


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
