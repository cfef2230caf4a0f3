"""Live ablations of the explorer: the numbers of the study's own network, or a sentence."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr
from explorer_answers import ask
from simulated_study import simulated_study

import unitlab

pytest.importorskip("torch")
pytest.importorskip("anywidget")

from unitlab.analysis.splits import halves
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.views.explorer.background import Stopped
from unitlab.views.explorer.live_network import LiveNetwork, NotAtHand


@pytest.fixture(scope="module")
def few() -> Iterator[Any]:
    """The recipe's images are the first 200."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecipeFiles, "images", lambda self: unitlab.images("fashion_mnist").subset(range(200)))
        yield patch


@pytest.fixture(scope="module")
def study(few: Any) -> xr.Dataset:
    from unitlab.compute.networks.bundled import bundled_network

    photos = unitlab.images("fashion_mnist").subset(range(200))
    attrs = {"name": "few", "recipe": "vgg_fashion"}
    found = unitlab.ablate(bundled_network("vgg_fashion"), photos, "conv3_2", progress=False, attrs=attrs)
    assert isinstance(found, xr.Dataset)
    return found


def test_a_group_of_one_is_what_the_sweep_found(study: xr.Dataset) -> None:
    told: list[tuple[int, int]] = []
    unit = int(study.unit[int(np.argmax(study.overall_drop.values))])
    found = LiveNetwork(study).together([unit], lambda done, of: told.append((done, of)))
    np.testing.assert_array_equal(found.accuracy_drop.values[0], study.accuracy_drop.sel(unit=unit).values)
    np.testing.assert_array_equal(found.drop_low.values[0], unitlab.damage(study).drop_low.sel(unit=unit).values)
    assert told[-1] == (200, 200) and all(done <= of for done, of in told)


def test_a_group_and_a_curve_are_run_for_the_page(study: xr.Dataset) -> None:
    explorer = unitlab.explore(study, selection=[3, 5, 20])
    assert "error" not in ask(explorer, "at_hand")
    joint = ask(explorer, "together", units=[3, 5, 20])
    model, photos = RecipeFiles(LiveNetwork(study).recipe).model(), RecipeFiles(LiveNetwork(study).recipe).images()
    found = unitlab.damage(
        unitlab.ablate_groups(model, photos, study.attrs["layer"], [[3, 5, 20]], progress=False)
        .drop_dims("unit")
        .rename(group="unit")
    )
    np.testing.assert_allclose(joint["drop"], 100 * found.accuracy_drop.values[0], rtol=1e-6)
    np.testing.assert_allclose(joint["high"], 100 * found.drop_high.values[0], rtol=1e-6)
    assert joint["progress"][-1] == [200, 200]
    curve = ask(explorer, "curve", category=str(study.category.values[4]))
    right = study.baseline_prediction.values == study.label.values
    assert curve["k"][:3] == [0, 1, 2] and curve["overall"][0] == pytest.approx(100 * right.mean())
    assert curve["own"] == (100 * LiveNetwork(study).curve(4, curve["k"], lambda done, of: None)["own"]).tolist()


def silencing(units: np.ndarray[Any, Any]) -> Any:
    """A forward hook that sets these channels to zero."""

    def silence(_module: Any, _given: Any, out: Any) -> Any:
        out = out.clone()
        out[:, units] = 0
        return out

    return silence


def test_a_curve_is_that_of_hooks(study: xr.Dataset) -> None:
    import torch

    live = LiveNetwork(study)
    found = live.curve(4, [0, 1, 3], lambda done, of: None)
    label, before = study.label.values, study.baseline_prediction.values
    assert found["own"][0] == (before[label == 4] == 4).mean() and found["overall"][0] == (before == label).mean()
    assert (found["low"] <= found["own"]).all() and (found["own"] <= found["high"]).all()
    model, photos = RecipeFiles(live.recipe).model().double(), RecipeFiles(live.recipe).images()
    half = halves(np.arange(200), label, 1, np.random.default_rng(0))[0]
    right = np.zeros((3, 200), bool)
    for ranked, rest in ((half, ~half), (~half, half)):
        here = ranked & (label == 4)
        drop = [(before[here] == 4).sum() - (row[here] == 4).sum() for row in study.prediction.values]
        order = np.argsort(-np.array(drop), kind="stable")
        ((batch, _),) = photos.subset(np.flatnonzero(rest)).batches(0, int(rest.sum()), 200)
        for place, k in enumerate([0, 1, 3]):
            hook = model.get_submodule(study.attrs["site"]).register_forward_hook(silencing(order[:k].copy()))
            with torch.no_grad():
                right[place, rest] = model(batch.double()).argmax(1).numpy() == label[rest]
            hook.remove()
    np.testing.assert_allclose(found["own"], right[:, label == 4].mean(1))
    np.testing.assert_allclose(found["overall"], right.mean(1))


def test_other_images_than_the_study_s_are_refused(study: xr.Dataset) -> None:
    other = study.assign_attrs(fingerprint_images="another")
    assert "not those of the study" in ask(unitlab.explore(other), "together", units=[3, 5])["error"]


@pytest.mark.parametrize("given", [{"basis": "random"}, {"directions": np.eye(64)[[3, 3]] + np.eye(64)[[5, 7]]}])
def test_directions_are_not_taken_for_channels(given: dict[str, Any]) -> None:
    from unitlab.compute.networks.bundled import bundled_network

    photos, attrs = unitlab.images("fashion_mnist").subset(range(20)), {"name": "few", "recipe": "vgg_fashion"}
    found = unitlab.ablate(
        bundled_network("vgg_fashion"), photos, "conv3_2", units=[0, 1], progress=False, attrs=attrs, **given
    )
    explorer = unitlab.explore(found, unit=0)
    explorer.image = str(found.image.values[0])
    for kind, more in (
        ("at_hand", {}), ("together", {"units": [0, 1]}), ("curve", {"category": str(found.category.values[4])}),
        ("try", {"unit": 0, "strengths": [[0, 0.0]]}), ("try_rank", {}),
    ):  # fmt: skip
        answer = ask(explorer, kind, **more)
        assert "silences directions, and from here channels would be" in answer["error"], kind
        assert answer["command"] == "unitlab.ablate(model, images, 'conv3_2', directions=directions)"


def test_a_run_ends_where_its_progress_is_refused(study: xr.Dataset) -> None:
    def refuse(done: int, of: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        LiveNetwork(study).together([3, 5], refuse)


def test_what_is_missing_is_said(study: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAtHand, match="does not say how its network is built") as missing:
        LiveNetwork(simulated_study(3, 2, 12))
    assert "unitlab.ablate_groups" in missing.value.command
    with pytest.raises(NotAtHand, match="not on this machine") as missing:
        LiveNetwork(study.assign_attrs(recipe="vgg16_places"))
    assert missing.value.command.startswith("unitlab compute vgg16_places")
    with pytest.raises(NotAtHand, match="no recipe 'nothing'"):
        LiveNetwork(study.assign_attrs(recipe="nothing"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(NotAtHand, match="needs torch"):
        LiveNetwork(study)
