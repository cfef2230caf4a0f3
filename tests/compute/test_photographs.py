"""Folders of pictures as people have them: what is read, how, in which order, and what is said about it."""

from __future__ import annotations

import logging

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import ResNet18_Weights

import unitlab
from unitlab import UnitlabError

NUMBERS = [str(number) for number in range(12)]
AS_TEXT = ["0", "1", "10", "11", *NUMBERS[2:10]]


class Classes(nn.Module):
    """Few units, so many classes."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))


def picture(path, level=128, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6), (level,) * 3 if mode == "RGB" else level).save(path)
    return path


def ablated(source, classes, store=None):
    return unitlab.ablate(Classes(classes).eval(), source, "conv", store=store, progress=False, device="cpu")


@pytest.fixture
def numbered(tmp_path):
    """Twelve classes called by their number; the grey level of the pictures is the number."""
    for number in NUMBERS:
        picture(tmp_path / "numbered" / number / "a.png", 10 * int(number))
    return tmp_path / "numbered"


def test_folders_that_are_numbers_are_in_the_order_of_numbers(numbered, caplog):
    with caplog.at_level(logging.INFO, "unitlab"):
        source = unitlab.images(numbered)
    assert source.categories == NUMBERS
    level = [round(255 * float(image.mean())) for image in source.at(range(12))]
    assert level == [10 * label for label in source.labels]
    assert "order of their numbers" in repr(source) and "order of their numbers" in caplog.text
    given = unitlab.images(numbered, categories=AS_TEXT)
    assert given.categories == AS_TEXT and "numbers" not in repr(given)
    assert given.ids == source.ids


@pytest.mark.parametrize("names", [["0", "00", "1"], ["01", "02", "10"], ["1", "10", "2", "x"]])
def test_other_names_are_in_the_order_of_text(tmp_path, names):
    for name in names:
        picture(tmp_path / name / "a.png")
    source = unitlab.images(tmp_path)
    assert source.categories == names and "numbers" not in repr(source)


def test_a_study_of_numbers_sorted_as_text_is_refused_with_what_restores_it(numbered, tmp_path):
    store = tmp_path / "old.zarr"
    before = unitlab.images(numbered, categories=AS_TEXT)
    ablated(before, 12, store)
    for again in (
        lambda images: ablated(images, 12, store),
        lambda images: unitlab.verify(store, Classes(12).eval(), images),
        lambda images: unitlab.estimate(Classes(12).eval(), images, "conv", store=store, device="cpu"),
    ):
        with pytest.raises(UnitlabError, match=r"categories=\['0', '1', '10', '11', '2'"):
            again(unitlab.images(numbered))
        again(before)
    assert ablated(unitlab.images(numbered), 12, tmp_path / "new.zarr").category.values.tolist() == NUMBERS


def test_an_unfinished_sweep_of_numbers_sorted_as_text_is_refused_too(numbered, tmp_path, monkeypatch):
    def cut_off(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("unitlab.compute.sweep.run.write_study", cut_off)
    with pytest.raises(KeyboardInterrupt):
        ablated(unitlab.images(numbered, categories=AS_TEXT), 12, tmp_path / "old.zarr")
    with pytest.raises(UnitlabError, match=r"categories=\['0', '1', '10', '11', '2'"):
        ablated(unitlab.images(numbered), 12, tmp_path / "old.zarr")


@pytest.fixture
def photos(tmp_path):
    """Two classes with two pictures each."""
    for name in ("cat/a", "cat/b", "dog/a", "dog/b"):
        picture(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def test_what_archives_and_systems_leave_is_skipped_and_counted(photos, caplog):
    picture(photos / "__MACOSX" / "cat" / "._a.png")
    for junk in ("cat/._a.png", "dog/._b.png", "cat/.DS_Store", "dog/Thumbs.db", "dog/__MACOSX/x.png", "dog/new.heic"):
        (photos / junk).parent.mkdir(exist_ok=True)
        (photos / junk).write_bytes(b"no picture")
    with caplog.at_level(logging.INFO, "unitlab"):
        source = unitlab.images(photos)
    assert source.ids == ["cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"] and source.categories == ["cat", "dog"]
    for said in (repr(source), caplog.text):
        assert "5 files skipped (2 ._*, 1 .DS_Store, " in said and "1 Thumbs.db" in said and "1 .heic" in said
    assert len(source.at(range(4))) == 4


@pytest.mark.parametrize(
    ("parts", "meant"), [(("train", "val"), "val"), (("test", "train"), "train"), (("Validation",), "Valid")]
)
def test_parts_of_a_data_set_are_no_classes(tmp_path, parts, meant):
    for part in parts:
        picture(tmp_path / part / "cat" / "a.png")
    with pytest.raises(UnitlabError, match=rf"unitlab\.images\('.*{meant}"):
        unitlab.images(tmp_path)
    with pytest.raises(UnitlabError, match=rf"unitlab\.images\('.*{meant}"):
        unitlab.images(tmp_path, categories=["cat"])
    assert unitlab.images(tmp_path, categories=parts).categories == list(parts)
    assert unitlab.images(tmp_path / parts[-1]).categories == ["cat"]


def test_classes_that_are_called_as_parts_are(tmp_path):
    for name in ("test", "train", "val"):
        picture(tmp_path / name / "a.png")
    assert unitlab.images(tmp_path).categories == ["test", "train", "val"]


def test_further_kinds_of_files_and_linked_folders_are_read(photos, tmp_path):
    (photos / "cat" / "c.jfif").write_bytes(picture(tmp_path / "x.jpg", 200).read_bytes())
    picture(photos / "dog" / "c.avif", 200)
    picture(tmp_path / "elsewhere" / "d.png", 250)
    (photos / "dog" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(photos / "dog")  # a circle
    source = unitlab.images(photos)
    assert [i for i in source.ids if "c." in i or "d." in i] == ["cat/c.jfif", "dog/c.avif", "dog/linked/d.png"]
    level = dict(zip(source.ids, (255 * source.at(range(len(source))).mean((1, 2, 3))).tolist(), strict=True))
    assert abs(level["cat/c.jfif"] - 200) < 2 and abs(level["dog/c.avif"] - 200) < 4 and level["dog/linked/d.png"] == 250


def test_kinds_that_pillow_cannot_read_are_counted_and_named(photos, monkeypatch):
    (photos / "dog" / "c.avif").write_bytes(b"no picture")
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".jpg": "JPEG"})
    assert "1 file skipped (1 .avif)" in repr(unitlab.images(photos))


# facts of ILSVRC2012: wnid → number and torchvision's name
IMAGENET = {
    "n01440764": (0, "tench"),
    "n02123045": (281, "tabby"),
    "n03126707": (517, "crane"),
    "n15075141": (999, "toilet tissue"),
}


def test_wordnet_ids_are_understood_beside_the_names_of_torchvision(tmp_path):
    names = list(ResNet18_Weights.DEFAULT.meta["categories"])
    for wnid in reversed(IMAGENET):
        picture(tmp_path / wnid / "a.png")
    source = unitlab.images(tmp_path, categories=names)
    assert source.labels.tolist() == [number for number, _ in IMAGENET.values()] and source.categories == names
    assert ablated(source, 1000).label.values.tolist() == [0, 281, 517, 999]
    # by name, whatever the order of the logits, and however many there are
    some = ["toilet tissue", "another", *[name for _, name in IMAGENET.values() if name != "toilet tissue"]]
    assert unitlab.images(tmp_path, categories=some).labels.tolist() == [2, 3, 4, 0]
    assert unitlab.images(tmp_path, categories=list(IMAGENET)).labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(UnitlabError, match="'n15075141' that is no category"):
        unitlab.images(tmp_path, categories=names[:-1])
    picture(tmp_path / "n00000001" / "a.png")
    with pytest.raises(UnitlabError, match="'n00000001' that is no category"):
        unitlab.images(tmp_path, categories=names)
