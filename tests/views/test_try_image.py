"""Try an image: the numbers of plain hooks, and sentences where it cannot be."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from explorer_answers import ask
from PIL import Image
from simulated_study import simulated_study

import unitlab

torch = pytest.importorskip("torch")
pytest.importorskip("anywidget")


@pytest.fixture
def explorer() -> Any:
    return unitlab.explore("vgg_emoji", unit=15)


def by_hooks(pixels: Any, strengths: dict[int, float], inside: Any = 1.0) -> np.ndarray[Any, Any]:
    """Probabilities of the network in float64 with channels scaled, ``inside`` a mask of the map, by a hook of its own."""
    model = unitlab.network("vgg_emoji").double()

    def scale(_module: Any, _given: Any, out: Any) -> Any:
        out = out.clone()
        for unit, value in strengths.items():
            out[:, unit] *= 1 + (value - 1) * inside
        return out

    hook = model.get_submodule("features.relu5_2").register_forward_hook(scale)
    with torch.no_grad():
        found = model(pixels.double()).softmax(1)[0].numpy()
    hook.remove()
    return found


@pytest.mark.parametrize("strengths", [{}, {16: 0.0, 28: 0.0}, {3: 1.7}])
def test_an_image_of_the_study_gives_what_hooks_give(explorer: Any, strengths: dict[int, float]) -> None:
    ids = [str(name) for name in explorer.ds.image.values]
    explorer.image = ids[100]
    found = ask(explorer, "try", unit=15, strengths=list(strengths.items()))
    source = unitlab.images("emoji")
    pixels = source.at([list(source.ids).index(ids[100])])
    before, after = by_hooks(pixels, {}), by_hooks(pixels, strengths)
    names = [str(name) for name in explorer.ds.category.values]
    wanted = {*np.argsort(-before)[:5], *np.argsort(-after)[:5]}
    assert {name for name, _, _ in found["classes"]} == {names[k] for k in wanted}
    for name, was, now in found["classes"]:
        assert (was, now) == pytest.approx((before[names.index(name)], after[names.index(name)]), abs=1e-5)
    assert found["now"] == names[int(after.argmax())]
    stored = names[int(np.flatnonzero(explorer.ds.category_index.values == explorer.ds.baseline_prediction.values[100])[0])]
    assert max(found["classes"], key=lambda row: row[1])[0] == stored


def test_a_brush_limits_it_to_a_part_of_the_map(explorer: Any) -> None:
    explorer.image = str(explorer.ds.image.values[100])
    strengths = {unit: 0.0 for unit in range(0, 64, 2)}
    found = ask(explorer, "try", unit=15, strengths=list(strengths.items()), region=[0.2, 0.0, 0.9, 0.5])
    inside = torch.zeros(4, 4, dtype=torch.float64)
    inside[:2, 1:] = 1  # cells whose centres, at 1/8, 3/8 …, are in it
    after = by_hooks(explorer._trial._pixels, strengths, inside)
    names = [str(name) for name in explorer.ds.category.values]
    for name, _, now in found["classes"]:
        assert now == pytest.approx(after[names.index(name)], abs=1e-5)
    whole = by_hooks(explorer._trial._pixels, strengths)
    assert np.abs(after - whole).max() > 0.01


def test_a_ranking_is_told_as_it_grows(explorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from unitlab.views.explorer import live_network

    explorer.image = str(explorer.ds.image.values[7])
    whole = ask(explorer, "try_rank")
    monkeypatch.setattr(live_network, "FIRST_UNITS", 20)
    monkeypatch.setattr(live_network, "QUICK", 0.0)
    told: list[Any] = []
    explorer._trial.ranking(explorer._measured_study, {}, lambda *some: told.append(some))
    assert [done for done, _, _ in told] == [20, 40, 60, 64] and all(unit < 20 for unit, _ in told[0][2])
    assert dict(told[-1][2]) == pytest.approx(dict(whole["units"]), abs=1e-5)


def test_the_ranking_is_that_of_single_hooks(explorer: Any) -> None:
    explorer.image = str(explorer.ds.image.values[7])
    found = ask(explorer, "try_rank")
    pixels = explorer._trial._pixels
    model = unitlab.network("vgg_emoji").double()

    def margin(unit: int | None) -> float:
        def silence(_module: Any, _given: Any, out: Any) -> Any:
            out = out.clone()
            if unit is not None:
                out[:, unit] = 0
            return out

        hook = model.get_submodule("features.relu5_2").register_forward_hook(silence)
        with torch.no_grad():
            logits = model(pixels.double())[0].numpy()
        hook.remove()
        return float(logits[top] - np.delete(logits, top).max())

    with torch.no_grad():
        top = int(model(pixels.double()).argmax())
    whole = margin(None)
    for unit, drop in found["units"][:6]:
        assert drop == pytest.approx(whole - margin(unit), abs=1e-3)
    assert found["progress"][-1] == [64, 64, found["units"]]
    assert (np.diff(np.abs([drop for _, drop in found["units"]])) <= 0).all()


def test_a_picture_of_the_reader_s_is_seen_as_the_study_s_are(explorer: Any) -> None:
    place = 100
    pixels = explorer.ds.thumbnails.values[place] if explorer.ds.thumbnails.shape[1] == 64 else None
    assert pixels is not None
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    ask(explorer, "try_open", picture="data:image/png;base64," + base64.b64encode(held.getvalue()).decode())
    own = ask(explorer, "try", unit=15, strengths=[])["classes"]
    explorer.image = Image.fromarray(pixels)
    assert explorer._tried == 1 and ask(explorer, "try", unit=15, strengths=[])["classes"] == own
    explorer.image = str(explorer.ds.image.values[place])
    kept = dict((name, was) for name, was, _ in ask(explorer, "try", unit=15, strengths=[])["classes"])
    assert {name: was for name, was, _ in own} == pytest.approx(kept, abs=1e-4)
    # of another size: as the network's own transform has it
    explorer.image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (180, 300, 3), dtype=np.uint8))
    ask(explorer, "try", unit=15, strengths=[])
    seen = unitlab.network("vgg_emoji").transform(explorer.image)[None]
    assert torch.equal(explorer._trial._pixels, seen) and seen.shape[2:] == (64, 64)
    grey = Image.new("L", (300, 180), 90)
    explorer.image = grey
    assert abs(sum(was for _, was, _ in ask(explorer, "try", unit=3, strengths=[])["classes"])) <= 1.001


def test_residual_networks_and_grey_pictures() -> None:
    for name in ("resnet_emoji", "alexnet_fashion"):
        explorer = unitlab.explore(name)
        explorer.image = str(explorer.ds.image.values[3])
        assert len(ask(explorer, "try", unit=explorer.unit, strengths=[[explorer.unit, 0]])["classes"]) >= 5


def test_what_cannot_be_tried_is_said(explorer: Any) -> None:
    with pytest.raises(unitlab.UnitlabError, match="an id of the study's images or a picture"):
        explorer.image = "nothing"
    assert "cannot be read as a picture" in ask(explorer, "try_open", picture="data:text/plain;base64,AAAA")["error"]
    study = unitlab.explore(simulated_study(5, 3, 60))
    study.image = str(study.ds.image.values[3])
    refused = ask(study, "try", unit=1, strengths=[])
    assert "does not say how its network is built" in refused["error"] and refused["command"]


def test_a_question_during_a_ranking_gives_its_own_numbers(explorer: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    explorer.image = str(explorer.ds.image.values[7])
    alone = ask(explorer, "try", unit=15, strengths=[[16, 0]])["classes"]
    study, trial = explorer._measured_study, explorer._trial
    with ThreadPoolExecutor(2) as threads:
        ranking = threads.submit(lambda: [trial.ranking(study, {}, lambda *told: None)["units"] for _ in range(4)])
        given = {"unit": 15, "strengths": [[16, 0]]}
        meanwhile = threads.submit(lambda: [trial.answer(study, given, lambda *told: None)["classes"] for _ in range(12)])
        assert all(one == ranking.result()[0] for one in ranking.result())
        assert all([row[0] for row in one] == [row[0] for row in alone] for one in meanwhile.result())
        assert max(abs(a[2] - b[2]) for one in meanwhile.result() for a, b in zip(one, alone, strict=True)) < 1e-5


def test_a_network_without_the_images_of_its_study_takes_pictures_of_the_reader() -> None:
    from unitlab.views.explorer.live_network import LiveNetwork, NotAtHand, PictureNetwork

    ds = simulated_study().assign_attrs(recipe="squeezenet_imagenet", layer="features.12", site="features.12")
    with pytest.raises(NotAtHand, match="are not on this machine"):
        LiveNetwork(ds)
    network = PictureNetwork(LiveNetwork(ds, images=False))
    with pytest.raises(NotAtHand, match="try a picture of yours"):
        network.pixels(str(ds.image.values[0]))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (240, 300, 3), dtype=np.uint8))
    before, after, maps = network.without(network.pixels(picture), {4: 0.0, 100: 0.0})
    model = unitlab.network("squeezenet_imagenet").double()
    pixels = model.transform(picture)[None].double()

    def silence(_module: Any, _given: Any, out: Any) -> Any:
        out = out.clone()
        out[:, [4, 100]] = 0
        return out

    with torch.no_grad():
        np.testing.assert_allclose(before, model(pixels).softmax(1)[0].numpy(), atol=1e-5)
        model.features[12].register_forward_hook(silence)
        np.testing.assert_allclose(after, model(pixels).softmax(1)[0].numpy(), atol=1e-5)
    assert maps.shape[0] == 512
