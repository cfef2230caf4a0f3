"""Stamps: cut-outs rendered as pictures, one cluster an object, and the masks that lie on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision import transforms

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.images.stamps import INSIDE, MIDDLE, MOST, SIDE, rendered, stamp_classes
from unitlab.recipes import RECIPES

SEEN = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(227), transforms.ToTensor()])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as dpkg -x unpacks it, with an ellipse of a colour of its own, cut out, for every stamp."""
    folder = tmp_path_factory.mktemp("package")
    for number, name in enumerate(stamp_classes()):
        path = folder / INSIDE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
        ImageDraw.Draw(stamp).ellipse((5, 5, 54, 34), fill=(255, number, 255 - number, 255))
        stamp.save(path)
    return folder


def test_the_table_names_classes_of_imagenet(package: Path) -> None:
    source, classes = unitlab.stamps(package), stamp_classes()
    assert len(classes) == 150 and len(set(classes.values())) == 110 and set(classes.values()) <= set(source.categories)
    assert [source.categories[label] for label in source.labels[::8]] == list(classes.values())
    assert source.clusters.tolist() == np.repeat(np.arange(150), 8).tolist() and len(source) == 1200
    assert source.ids[8 * 3 + 5] == f"{list(classes)[3].removesuffix('.png')}/5"


def test_a_mask_lies_on_its_object(package: Path) -> None:
    source = unitlab.stamps(package / INSIDE, transform=SEEN, renderings=3)
    masks = unitlab.stamp_masks(source, package)
    assert list(masks) == list(source.ids) and "another" not in masks
    assert unitlab.concepts.masks(source, masks, ["object"]).names == ("object",)
    wide = []
    for position in (0, 1, 2, 100, 449):
        picture, mask = source.at([position])[0], masks[source.ids[position]]
        assert mask.shape == (227, 227) and mask.dtype == bool
        ground, colour = picture[:, 0, 0], torch.tensor([255, position // 3, 255 - position // 3]) / 255
        towards = (colour - ground) / (colour - ground).square().sum()
        share = ((picture - ground[:, None, None]) * towards[:, None, None]).sum(0)  # of the object in each pixel
        assert np.mean((share.numpy() > 0.5) != mask) < 0.002
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        wide.append(columns[-1] - columns[0])
        # an ellipse of 50 × 30
        assert (
            abs(mask.sum() / (np.pi / 4 * len(rows) * len(columns)) - 1) < 0.05
            and abs(len(columns) / len(rows) / (5 / 3) - 1) < 0.1
        )
        assert rows[0] > 0 and rows[-1] < 226 and columns[0] > 0 and columns[-1] < 226
    assert len(set(wide)) > 1 and max(wide) <= MOST


def test_renderings_differ_and_can_be_repeated(package: Path) -> None:
    names = list(unitlab.stamps(package).ids[:8])
    first, again = ([np.asarray(rendered(package / INSIDE, name)[0]) for name in names] for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({one.tobytes() for one in first}) == 8 and first[0].shape == (SIDE, SIDE, 3)
    edge = (SIDE - MIDDLE) // 2
    assert all((one[:edge] == one[0, 0]).all() and (one[:, -edge:] == one[0, 0]).all() for one in first)


def test_what_is_wrong_is_said(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnitlabError, match=r"lacks 150 of 150 stamps, such as animals/.*apt install tuxpaint-stamps-default"):
        unitlab.stamps(tmp_path)
    for wrong in (0, True, 2.0):
        with pytest.raises(UnitlabError, match="renderings="):
            unitlab.stamps(package, renderings=wrong)
    assert main(["compute", "squeezenet_stamps"]) == 2
    assert "tuxpaint-stamps-default" in capsys.readouterr().err


def test_recipes_take_the_folder(package: Path) -> None:
    for name, size in (("squeezenet_stamps", 227), ("efficientnet_lite0_stamps", 224)):
        source = RecipeFiles(RECIPES[name], images=package).images()
        assert source.at([0]).shape == (1, 3, size, size) and len(source) == 1200 and len(np.unique(source.clusters)) == 150
