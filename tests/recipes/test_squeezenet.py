"""SqueezeNet with its ImageNet weights: what it sees in twenty photographs, as its authors made it and as ndf has it."""

from __future__ import annotations

import importlib.util
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unitlab
from unitlab.cli import main
from unitlab.recipes import RECIPES

NAME = "squeezenet_imagenet"


@pytest.fixture(scope="module")
def photographs() -> dict[Path, int]:
    """Photograph → its class, which is in the name: imagenet_00_243.jpg."""
    pytest.importorskip("foolbox")
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    paths = sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))
    assert len(paths) == 20
    return {path: int(path.stem.rpartition("_")[2]) for path in paths}


def right(logits: torch.Tensor, labels: list[int]) -> tuple[int, int]:
    """How many are right, and among the five likeliest classes."""
    wanted = torch.tensor(labels)[:, None]
    five = logits.topk(5, 1).indices == wanted
    return int(five[:, 0].sum()), int(five.any(1).sum())


def test_twenty_photographs(photographs: dict[Path, int]) -> None:
    model, labels = unitlab.network(NAME), list(photographs.values())
    assert model.categories[243] == "bull mastiff" and len(model.categories) == 1000 and not model.training
    pictures = [Image.open(path).convert("RGB") for path in photographs]
    with torch.no_grad():
        assert right(model(torch.stack([model.transform(picture) for picture in pictures])), labels) == (14, 20)
        # ndf's own reading: a row of zeros around, the whole picture, blue first, means of 0 to 255
        model.features[0].padding = (1, 1)
        model.features[0].weight.copy_(model.features[0].weight[:, [2, 1, 0]])
        shown = np.stack(
            [np.asarray(picture.resize((227, 227), Image.Resampling.BILINEAR), np.float32) for picture in pictures]
        )
        blue_first = torch.from_numpy(shown[..., ::-1] - np.float32([103.939, 116.779, 123.68])).permute(0, 3, 1, 2)
        assert right(model(blue_first), labels) == (12, 19)


def test_the_recipe_measures_a_folder_of_photographs(
    photographs: dict[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wnids = resources.files("unitlab.recipes").joinpath("imagenet_wnids.txt").read_text().split()
    for path, number in photographs.items():
        (tmp_path / "val" / wnids[number]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / wnids[number] / path.name).symlink_to(path)
    for name in (NAME, "squeezenet_imagenette"):
        assert main(["compute", name, "--images", str(tmp_path), "--units", "3,200", "--device", "cpu"]) == 0
        capsys.readouterr()
        ds = unitlab.load(f"{name}+units")
        assert int((ds.baseline_prediction == ds.label).sum()) == 14 and sorted(ds.label.values) == sorted(photographs.values())
        assert ds.attrs["verified_different"] == 0 and ds.attrs["recipe"] == name


def test_a_recipe_without_its_images_says_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("squeezenet_imagenette", "Imagenette"), ("resnet18_imagenette", "Apache-2.0"), (NAME, "ILSVRC2012")):
        assert main(["compute", name]) == 2
        assert said in capsys.readouterr().err and RECIPES[name].images.categories == 1000
