"""Folders of pictures as people have them: what is read, how, in which order, and what is said about it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

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
    level = [int(round(255 * float(image.mean()))) for image in source.at(range(12))]
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
