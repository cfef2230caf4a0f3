"""Dissection agrees with plain numpy and with counts made by hand, finds what is planted, and nothing where nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from planted_network import CLASSES, planted, planted_label_images
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab.analysis.attributes import own_attributes
from unitlab.compute.engine.maps.largest_values import LargestValues
from unitlab.compute.sweep.request import SweepRequest

N, SIZE, NAMES = 40, 24, ("sky", "tree", "red", "blue", "leaf")
CATEGORIES = ("object", "object", "color", "color", "part")


def source_of(pixels: np.ndarray, clusters: Any = None) -> Any:
    labels = torch.arange(len(pixels)) % 4
    dataset = TensorDataset(torch.from_numpy(pixels), labels)
    return unitlab.images(dataset, ids=[f"image {i}" for i in range(len(pixels))], clusters=clusters)


class Small(nn.Module):
    """Maps of 9 × 9 on images of 24 × 24: a field of 10 pixels from −1 on, every second pixel."""

    def __init__(self, units: int = 6, channels: int = 3) -> None:
        super().__init__()
        self.first, self.pool = nn.Conv2d(channels, 5, 5, padding=1), nn.MaxPool2d(2)
        self.second, self.head = nn.Conv2d(5, units, 3), nn.Linear(units, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.second(self.pool(F.relu(self.first(x))))).mean((2, 3)))


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Any, np.ndarray, np.ndarray]:
    """A network, images, planes of labels half as large, and the layer's maps."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model, pixels = Small().double().eval(), random.normal(size=(N, 3, SIZE, SIZE))
    planes = np.zeros((N, 2, 12, 12), np.int64)
    for image in range(N):
        planes[image, 0] = np.repeat(np.repeat(random.choice([0, 1, 2], (3, 3), p=[0.6, 0.2, 0.2]), 4, 0), 4, 1)
        planes[image, 1] = random.choice([0, 3, 4], (12, 12), p=[0.9, 0.05, 0.05]) * (image % 3 > 0)
    planes[5, 1, :2] = 5
    with torch.no_grad():
        maps = model.second(model.pool(F.relu(model.first(torch.from_numpy(pixels)))))
    return model, source_of(pixels), planes, maps.numpy()


def interpolated(maps: np.ndarray, procedure: str, *, centred: bool) -> np.ndarray:
    """(image, unit, 12, 12), by numpy's and torch's own interpolation."""
    at = np.arange(maps.shape[2])
    if procedure == "2017":
        # centre of the first field, 10 // 2 − 1, in labels, which are two pixels; or the map fills the image
        places = (4 // 2) + at * 1.0 if centred else (at + 0.5) * 12 / maps.shape[2] - 0.5
        rows = np.apply_along_axis(lambda row: np.interp(np.arange(12), places, row), 3, maps)
        return np.apply_along_axis(lambda column: np.interp(np.arange(12), places, column), 2, rows)
    scale, offset = 12 / maps.shape[2], 6 / maps.shape[2] - 0.5
    if centred:
        scale, offset = 2 * 11 / 23, 3.5 * 11 / 23
    at = (np.arange(12) - offset) * (2 / (scale * (maps.shape[2] - 1))) - 1
    grid = torch.from_numpy(np.stack(np.meshgrid(at, at), -1)).expand(len(maps), 12, 12, 2)
    return F.grid_sample(torch.from_numpy(maps), grid, padding_mode="zeros", align_corners=True).numpy()


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("procedure", ["2017", "2020"])
def test_agrees_with_plain_numpy(case: Any, procedure: str, centred: bool) -> None:
    model, source, planes, maps = case
    names = dict(enumerate((f"{c}: {n}" for c, n in zip(CATEGORIES, NAMES, strict=True)), 1))
    concepts = unitlab.concepts.masks(source, list(planes), names)
    found = unitlab.dissect(
        model, source, "second", concepts, procedure=procedure, centred=centred, progress=False, device="cpu", shuffles=19,
        batch_size=7,
    )  # fmt: skip
    up = interpolated(maps, procedure, centred=centred)
    for unit in range(6):
        values = np.sort((maps if procedure == "2017" else up)[:, unit].ravel())[::-1]
        threshold = values[int(len(values) * (0.005 if procedure == "2017" else 0.01))]
        assert float(found.activation_threshold[unit]) == pytest.approx(threshold, abs=1e-12)
        active = up[:, unit] > threshold
        for concept in range(5):
            where = (planes == concept + 1).any(1)
            mates = [k + 1 for k in range(5) if CATEGORIES[k] == CATEGORIES[concept]]
            seen = np.isin(planes, mates).any((1, 2, 3)) if procedure == "2017" else np.ones(N, bool)
            both, of_unit = (active & where).sum(), active[seen].sum()
            assert found.intersection[unit, concept] == both and found.activated[unit, concept] == of_unit
            assert float(found.iou[unit, concept]) == pytest.approx(both / (of_unit + where.sum() - both))
            assert found.labelled[concept] == where.sum()
    assert found.attrs["share_error"] == 0 and found.concept_category.values.tolist() == list(CATEGORIES)
    best = found.iou.max("concept").values
    names = [
        found.concept.values[k] if largest > 0 else "" for k, largest in zip(found.iou.argmax("concept"), best, strict=True)
    ]
    assert found.best_iou_concept.values.tolist() == names and found.best_iou.values.tolist() == best.tolist()


def test_in_parts_of_units_and_in_other_batches_it_is_the_same(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source, planes, _ = case
    concepts = unitlab.concepts.masks(source, list(planes), NAMES)
    one, other = {"batch_size": 40}, {"batch_size": 3}
    whole = unitlab.dissect(model, source, "second", concepts, progress=False, device="cpu", **one)
    monkeypatch.setattr(SweepRequest, "budget", 2 * 200 * 6 * 8 * 2)  # the sums of two units
    parts = unitlab.dissect(model, source, "second", concepts, progress=False, device="cpu", **other)
    for name in ("iou", "iou_null", "best_iou_p", "n_detectors", "intersection"):
        np.testing.assert_array_equal(whole[name], parts[name])
    monkeypatch.setattr("unitlab.compute.dissect.MOST_KEPT", 4)
    drawn = unitlab.dissect(model, source, "second", concepts, progress=False, device="cpu", shuffles=0)
    assert drawn.attrs["share_error"] > 0 == whole.attrs["share_error"] and (drawn.iou_null.size, whole.iou_null.size) == (
        0,
        199,
    )


def broden_of(folder: Path) -> None:
    """Two pictures of 20 × 20: one with a square of ten pixels and three bright ones, one striped, red at two pixels."""
    (folder / "images" / "own").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, bright in (("a", [(0, 0), (0, 1), (0, 2)]), ("b", [(5, 5)])):
        picture = random.integers(0, 100, (20, 20, 3)).astype(np.uint8)
        for place, at in enumerate(bright):
            picture[*at, 0] = 200 + 10 * place
        Image.fromarray(picture).save(folder / "images" / "own" / f"{name}.png")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "images" / "own" / "unused.png")

    def label_image(file: str, number: int, pixels: tuple[Any, Any]) -> None:
        labels = np.zeros((20, 20, 3), np.uint8)
        labels[pixels] = (number % 256, number // 256, 0)
        Image.fromarray(labels).save(folder / "images" / "own" / file)

    label_image("a_object.png", 300, (0, slice(0, 10)))
    label_image("a_part.png", 300, (3, slice(0, 2)))
    label_image("b_color.png", 2, (5, slice(5, 7)))
    tables = {
        "index.csv": "image,split,ih,iw,sh,sw,color,object,part,texture\n"
        "own/a.png,train,20,20,20,20,,own/a_object.png,own/a_part.png,\n"
        "own/b.png,val,20,20,20,20,own/b_color.png,,,7;8\n"
        "own/unused.png,val,20,20,20,20,,,,\n",
        "category.csv": "name,first,last,count,frequency\ncolor,2,2,1,1\nobject,300,300,1,1\npart,300,300,1,1\n"
        "texture,7,8,2,1\n",
        "label.csv": "number,name,category,frequency,coverage,syns\n0,none,,0,0,\n2,red,color(1),1,0.005,\n"
        "7,striped,texture(1),1,1,\n8,dotted,texture(1),1,1,\n300,square,object(1);part(1),1,0.03,box\n",
        "c_color.csv": "code,number,name,frequency,coverage\n1,2,red,1,0.005\n",
        "c_object.csv": "code,number,name,frequency,coverage\n1,300,square,1,0.025\n",
        "c_part.csv": "code,number,name,frequency,coverage\n1,300,square,1,0.005\n",
        "c_texture.csv": "code,number,name,frequency,coverage\n1,7,striped,1,1\n2,8,dotted,1,1\n",
    }
    for name, text in tables.items():
        (folder / name).write_text(text)


class Red(nn.Module):
    """One unit that is the red channel."""

    def __init__(self) -> None:
        super().__init__()
        self.red, self.head = nn.Conv2d(3, 1, 1, bias=False), nn.Linear(1, 2)
        with torch.no_grad():
            self.red.weight.copy_(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.red(x).mean((2, 3)))


def test_netdissects_counts_on_a_set_in_brodens_format(tmp_path: Path) -> None:
    """Of 800 positions four lie above the threshold, 0.5 %: three in the first picture, one in the second."""
    broden_of(tmp_path)
    data = unitlab.concepts.broden(tmp_path)
    source = unitlab.images(data.pictures, ids=data.ids)
    assert list(source.ids) == ["own/a.png", "own/b.png"]
    found = unitlab.dissect(Red(), source, "red", data, shuffles=0, progress=False, device="cpu").isel(unit=0)
    # the fifth largest value of all is the largest that is no bright one
    dim = np.concatenate([np.asarray(Image.open(tmp_path / "images" / one))[..., 0].ravel() for one in data.ids])
    assert float(found.activation_threshold) == pytest.approx(np.sort(dim)[-5] / 255)
    table = found[["intersection", "activated", "labelled", "iou"]].to_dataframe()
    expected = {"red": (1, 1, 2, 1 / 2), "striped": (1, 1, 400, 1 / 400), "dotted": (1, 1, 400, 1 / 400),
                "square": (3, 3, 12, 3 / 12)}  # fmt: skip
    assert found.concept.values.tolist() == list(expected)
    for name, (both, active, labelled, iou) in expected.items():
        assert table.loc[name, ["intersection", "activated", "labelled"]].tolist() == [both, active, labelled]
        assert table.loc[name, "iou"] == pytest.approx(iou)
    # the square is an object first, which covers more
    assert found.concept_category.values.tolist() == ["color", "texture", "texture", "object"]
    assert found.best_iou_concept == "red" and found.is_netdissect_detector and not found.is_detector
    of_rule = found.n_detectors.sel(rule="0.04", detector_category="color")
    assert of_rule == 1 and found.n_detectors.sum() == 1 and np.isnan(found.iou_threshold)
    everywhere = unitlab.dissect(Red(), source, "red", data, procedure="2020", shuffles=0, progress=False, device="cpu").isel(
        unit=0
    )
    # eight positions, fewer where equal ones do not fit; the unit's area counts in all images
    assert (everywhere.activated == (dim > np.sort(dim)[-9]).sum()).all()
    one = unitlab.concepts.broden(tmp_path, categories=["part"])
    assert one.categories == ("part",) and one.ids == ["own/a.png"]


def test_what_is_no_broden_is_refused(tmp_path: Path) -> None:
    broden, empty = unitlab.concepts.broden, tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(unitlab.UnitlabError, match=r"category\.csv cannot be read as a table of Broden"):
        broden(empty)
    broden_of(tmp_path)
    with pytest.raises(unitlab.UnitlabError, match=r"no category 'colour'\. Did you mean 'color'"):
        broden(tmp_path, ["colour"])
    data = broden(tmp_path, ["object"])
    big = unitlab.images((torch.rand(1, 3, 24, 24), [0]), ids=["own/a.png"])
    with pytest.raises(unitlab.UnitlabError, match="is 20 × 20 pixels and the network sees 24 × 24"):
        unitlab.dissect(Red(), big, "red", data, progress=False)
    with pytest.raises(unitlab.UnitlabError, match=r"no labels for 1 of 1 images, such as '0'; they have some for 'own/a.png'"):
        unitlab.dissect(Red(), unitlab.images((torch.rand(1, 3, 20, 20), [0])), "red", data, progress=False)
    (tmp_path / "c_object.csv").write_text("code,number,name,frequency,coverage\n")
    with pytest.raises(unitlab.UnitlabError, match="has the label 300, which no table of object"):
        broden(tmp_path, ["object"]).checked("own/a.png", np.zeros((3, 20, 20)))
    (tmp_path / "index.csv").write_text("image,ih\n")
    with pytest.raises(unitlab.UnitlabError, match=r"index\.csv lacks the column 'iw'"):
        broden(tmp_path, ["object"])


def test_planted_units_are_found() -> None:
    """Images show one of six patterns, and every unit looks for one: its pixels are those of the pattern."""
    network, images, _, unit_class = planted(3)
    source = unitlab.images(images, categories=[f"class {k}" for k in range(CLASSES)])
    concepts = unitlab.concepts.masks(source, planted_label_images(3), [f"pattern: {k}" for k in range(CLASSES)])
    found = unitlab.dissect(network, source, "relu", concepts, progress=False, device="cpu")
    assert found.best_iou_concept.values.tolist() == [f"pattern: {k}" for k in unit_class]
    assert bool(found.is_detector.all()) and float(found.best_iou.min()) > 2 * float(found.iou_threshold)
    assert found.n_detectors.sel(rule="above chance").item() == 2 * CLASSES
    assert found.n_unique_detectors.sel(rule="above chance").item() == CLASSES
    assert set(found.best_iou_p.values) == {1 / 200}
    # the same, as a study's own numbers
    ds = unitlab.ablate(network, source, "relu", progress=False, device="cpu")
    named = unitlab.concepts.labelled(ds, found)
    assert named.unit_label.values.tolist() == [f"pattern: {k}" for k in unit_class]
    assert named.unit_label_source.values[0] == "IoU, Network Dissection 2017"
    with pytest.raises(unitlab.UnitlabError, match="the names are of another network"):
        unitlab.concepts.labelled(unitlab.load("vgg_fashion"), found)
    with pytest.raises(unitlab.UnitlabError, match="of another layer: 'relu', and the study's is 'conv'"):
        unitlab.concepts.labelled(ds.assign_attrs(site="conv"), found)
    mine = ds.merge(found)
    table = unitlab.correlations(mine, "best_iou", "overall_drop", held="best_iou", progress=False)
    assert table.x.tolist() == ["best_iou"] and np.isfinite([*table.spearman, *table.spearman_low]).all()
    assert unitlab.regression(mine, "max_class_drop_crossfit", ["best_iou"]).attrs["n_units"] == 2 * CLASSES
    assert {"best_iou", "best_iou_p", "activation_threshold"} <= set(own_attributes(mine))
    axis = unitlab.plots.units(mine, x="best_iou", color="best_iou").get_dimension("best_iou")
    assert axis.label == "largest IoU"


def test_seldom_a_detector_where_labels_have_nothing_to_do_with_images() -> None:
    """Random networks, and label images that know nothing of the pictures; both come in clusters of near copies."""
    any_found = []
    for seed in range(40):
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(20), 3)
        pixels = np.repeat(random.normal(size=(20, 3, 12, 12)), 3, 0) + 0.1 * random.normal(size=(60, 3, 12, 12))
        blocks = random.choice(4, (20, 3, 3), p=[0.7, 0.1, 0.1, 0.1])
        labels = np.repeat(np.repeat(np.repeat(blocks, 3, 0), 4, 1), 4, 2)
        source = source_of(pixels.astype(np.float32), clusters=cluster)
        concepts = unitlab.concepts.masks(source, labels, ["one", "two", "three"])
        found = unitlab.dissect(Small(4), source, "second", concepts, shuffles=99, progress=False, device="cpu", seed=seed)
        any_found.append(bool(found.is_detector.any()))
        assert bool(found.is_detector.any()) == bool((found.best_iou_p <= 0.05).any())
    assert np.mean(any_found) <= 0.1  # 5 % of networks; more than 4 of 40 have a chance of 5 %


def test_thresholds_from_a_stream_are_exact_until_memory_ends() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(8, 40_000, generator=random).relu()
    exact = LargestValues(8, 40_000, 0.005, 1000, seed=0)
    bounded = LargestValues(8, 40_000, 0.05, 400, seed=1)
    for part in values.split(3001, 1):
        exact.add(part)
        bounded.add(part)
        assert exact._largest.shape[1] <= 201 and bounded._largest.shape[1] <= 400 + 6 * 20 + 1
    assert exact.error == 0
    np.testing.assert_array_equal(exact.thresholds(), np.sort(values, 1)[:, -201])
    assert (values > exact.thresholds()[:, None]).sum(1).tolist() == [200] * 8
    share = (values > bounded.thresholds()[:, None]).double().mean(1)
    assert (
        bounded.error == pytest.approx(np.sqrt(0.05 * 0.95 * 0.8 / 8000)) and ((share - 0.05).abs() < 4 * bounded.error).all()
    )
    # however long the stream, what is held is bounded
    assert LargestValues(8, 10**12, 0.01, 1 << 16, seed=0).most < (1 << 16) + 6 * 256 + 2


def test_sources_of_labels() -> None:
    random = np.random.default_rng(0)
    source = source_of(random.random((6, 3, 8, 8)).astype(np.float32))
    colours, found = unitlab.concepts.colours(source), []
    for image in range(6):
        pixels = source.at([image])[0].numpy()
        found.append(colours.checked(source.ids[image], pixels)[0])
        assert found[-1].shape == (1, 4, 4) and found[-1].min() >= 1
    square = np.full((3, 8, 8), 0.0, np.float32)
    square[:, 2:6, 2:6] = 1
    square[:, 3:5, 3:5] = 0
    figure = unitlab.concepts.foreground(source, step=1).checked("image 0", square)[0][0]
    assert figure.sum() == 16 and figure[2:6, 2:6].all()  # the hole belongs to it
    with pytest.raises(unitlab.UnitlabError, match="not from 0 to 1; give mean= and deviation="):
        unitlab.concepts.colours(source).checked("image 0", square * 4)
    emoji = unitlab.concepts.colours("emoji")
    white = np.full((3, 4, 4), 2.0)  # (1 − 0.5)/0.25
    assert (emoji.checked("any", white)[0] == 11).all()
    both = unitlab.dissect(
        Small().eval(), source, "second", [colours, unitlab.concepts.foreground(source)], progress=False, device="cpu"
    )
    assert both.concept_category.values.tolist() == ["colour"] * 11 + ["figure"]
    own = unitlab.dissect(
        Small().eval(), source, "second", lambda pixels: (pixels[0] > 0.5) + 2 * (pixels[1] > 0.5), progress=False, device="cpu"
    )
    assert own.concept.values.tolist() == ["label 1", "label 2", "label 3"]
    assert int(own.labelled.sum()) == sum(int(((p[0] > 0.5) | (p[1] > 0.5)).sum()) for p in source.at(range(6)).numpy())


def test_masks_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    grey = np.zeros((8, 8), np.uint8)
    grey[2:4] = 255
    Image.fromarray(grey).save(tmp_path / "dog" / "a.png")
    (tmp_path / "names.csv").write_text("number,name\n1,animal: dog\n255,\n")
    found = unitlab.concepts.masks(["dog/a.jpg"], tmp_path)
    assert found.categories == ("animal",) and not found.checked("dog/a.jpg", np.zeros(1))[0].any()
    with pytest.raises(unitlab.UnitlabError, match=r"has no mask for 1 of 2 images, such as 'dog/b\.jpg'"):
        unitlab.concepts.masks(["dog/a.jpg", "dog/b.jpg"], tmp_path)
    with pytest.raises(unitlab.UnitlabError, match="has the label 255, which has no name"):
        unitlab.concepts.masks(["dog/a.jpg"], tmp_path, ["dog"]).checked("dog/a.jpg", np.zeros(1))
    with pytest.raises(unitlab.UnitlabError, match=r"no names\.csv"):
        unitlab.concepts.masks(["a.jpg"], tmp_path / "dog")


def test_what_is_no_concept_and_no_procedure_is_refused(case: Any) -> None:
    model, source, planes, _ = case
    concepts = unitlab.concepts.masks(source, list(planes), NAMES)

    def refused(match: str, *, concepts: Any = concepts, layer: Any = "second", **given: Any) -> None:
        with pytest.raises(unitlab.UnitlabError, match=match):
            unitlab.dissect(model, source, layer, concepts, progress=False, device="cpu", **given)

    refused("procedure is '2018'; Network Dissection has '2017' and '2020'", procedure="2018")
    refused("shuffles is 5; expected 19 or more", shuffles=5)
    refused("centred is 'yes'", centred="yes")
    refused("no layer 'thrid'", layer="thrid")
    refused("one layer is dissected at a time", layer=["first", "second"])
    refused("given: 'colours'", concepts="colours")
    refused("no pixel of any image has a label", concepts=lambda pixels: np.zeros((12, 12), int))
    refused("float64", concepts=lambda pixels: np.zeros((12, 12)))
    whole = unitlab.concepts.masks(source, np.ones((N, 24, 24), int), ["all"])
    refused("label images of 24 × 24 and 12 × 12", concepts=[whole, concepts])
    sizes = unitlab.concepts.masks(source, [np.ones((8 + i % 2, 8), int) for i in range(N)], ["all"])
    refused("takes label images of one size", concepts=sizes, procedure="2020")
    with pytest.raises(unitlab.UnitlabError, match="given: 3 of them"):
        unitlab.concepts.masks(source, [np.ones((2, 2), int)] * 3, ["all"])
    with pytest.raises(unitlab.UnitlabError, match="give the names of the labels"):
        unitlab.concepts.masks(source, list(planes))
    with pytest.raises(unitlab.UnitlabError, match="step is 0"):
        unitlab.concepts.masks(source, list(planes), NAMES, step=0)
    with pytest.raises(unitlab.UnitlabError, match="two concepts 'sky'"):
        unitlab.concepts.masks(source, list(planes), ["sky", "sky"])


def test_label_images_of_several_sizes_stay_among_their_like(case: Any) -> None:
    model, source, _, _ = case
    random = np.random.default_rng(0)
    labels = [random.integers(0, 3, (8 + 4 * (i % 2), 12)) for i in range(N)]
    found = unitlab.dissect(
        model, source, "second", unitlab.concepts.masks(source, labels, ["a", "b"]), progress=False, device="cpu"
    )
    assert int(found.labelled.sum()) == sum(int((one > 0).sum()) for one in labels)
    assert pd.notna(found.iou_threshold.item())


def test_tokens_vectors_and_networks_without_a_graph() -> None:
    from small_networks import Tokens, Untraceable

    source = source_of(np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32))
    concepts = unitlab.concepts.masks(source, np.random.default_rng(1).integers(0, 2, (8, 8, 8)), ["one"])
    for model, layer, units in ((Tokens(), "norm2", 8), (Tokens(), "head", 7), (Untraceable(), "conv", None)):
        if units is None and not hasattr(model, layer):
            layer = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
        found = unitlab.dissect(model.eval(), source, layer, concepts, progress=False, device="cpu", shuffles=19)
        assert found.attrs["receptive_field"] == "the map fills the image" or units is None
        assert np.isfinite(found.iou.values).all()
