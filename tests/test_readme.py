"""What README shows runs: its Python, in order, on folders made here, and its commands, as far as the command reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import xarray as xr
from PIL import Image
from torch import nn

import unitlab
from unitlab.cli import _parser
from unitlab.recipes import shipped

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.S | re.M)
CATEGORIES: list[str] = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
WNIDS = (Path(shipped.__file__).parent / "imagenet_wnids.txt").read_text().split()
SHOWN = (0, 1, 388)  # classes that have images here


class SmallResNet(torchvision.models.ResNet):
    """Stands for the trained ResNet18, whose weights would be downloaded: the same modules, 16 units in layer4."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
        self.conv1 = nn.Conv2d(3, 64, 7, stride=8, padding=3, bias=False)
        self.layer1 = self.layer2 = self.layer3 = nn.Identity()
        self.inplanes = 64
        self.layer4 = self._make_layer(torchvision.models.resnet.BasicBlock, 16, 1, stride=2)
        self.fc = nn.Linear(16, 1000)
        self.eval()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, where torchvision's trained network is the small one."""
    monkeypatch.chdir(tmp_path)
    original = torchvision.models.resnet18

    def resnet18(*, weights: Any = None, **options: Any) -> nn.Module:
        return original(**options) if weights is None else SmallResNet()

    monkeypatch.setattr(torchvision.models, "resnet18", resnet18)
    return tmp_path


def write_photos(folder: Path, names: list[str]) -> None:
    random = np.random.default_rng(0)
    for place in SHOWN:
        (folder / names[place]).mkdir(parents=True)
        for photo in range(2):
            pixels = random.integers(0, 255, (60, 80, 3), np.uint8)
            Image.fromarray(pixels).save(folder / names[place] / f"{photo}.png")


def block_with(text: str) -> str:
    [found] = [block for block in BLOCKS if text in block]
    return found


def run(block: str, given: dict[str, Any]) -> dict[str, Any]:
    exec(compile(block, "README.md", "exec"), given)
    return given


def test_the_lead_shows_what_it_is_and_how_to_get_it_within_the_first_screen() -> None:
    lead = README[: README.index("## Start")]
    order = ["Which single units", "pip install '.[compute,notebook]'", "unitlab.explore(", "explorer.webp", "502", "nnsight"]
    assert [lead.index(part) for part in order] == sorted(lead.index(part) for part in order)
    assert BLOCKS[0].splitlines()[2].startswith("unitlab.explore("), "in the third line"
    assert "sed -i s,OWNER/REPOSITORY," in README


def test_the_figures_of_the_lead_are_those_that_were_measured() -> None:
    measured = (Path(__file__).parent / "benchmarks" / "README.md").read_text()
    row = next(line for line in measured.splitlines() if line.startswith("| VGG16 conv5_3, 512 units, bfloat16"))
    files = next(line for line in measured.splitlines() if line.startswith("| VGG16-Places conv5_3, bfloat16 | 36,500"))
    (passes, seconds) = (re.search(r"\*\*([0-9.]+)( s)?\*\*", line) for line in (row, files))
    assert passes and f"cost {passes[1]} evaluations in bfloat16" in README
    assert seconds and f"36,500 JPEG files {seconds[1]} s" in README


def test_the_explorer(here: Path) -> None:
    run(BLOCKS[0], {})


@pytest.mark.parametrize("names", [CATEGORIES, WNIDS], ids=["folders by name", "folders by WordNet id"])
def test_a_study_of_ones_own_network_and_photographs(names: list[str], here: Path) -> None:
    write_photos(here / "photos" / "val", names)
    found = run(block_with("unitlab.ablate(model, images, layer="), {})
    ds = found["ds"]
    assert (ds.sizes["unit"], ds.sizes["category"], ds.sizes["image"]) == (16, 1000, 6)
    assert sorted(set(ds.label.values.tolist())) == list(SHOWN)
    assert (here / "resnet18.zarr").is_dir() and (here / "vgg_emoji.html").is_file() and (here / "units.svg").is_file()
    # and a colleague who has only xarray
    drops = run(block_with("import xarray"), {})["drops"]
    np.testing.assert_array_equal(drops, ds.accuracy_drop)
    assert drops.dims == ("unit", "category") and drops.attrs["units"] == "1"


def test_what_it_means_and_how_sure_that_is(here: Path) -> None:
    """On the first units of a bundled network, and the small network's photographs."""
    network, emoji = unitlab.network("vgg_emoji"), unitlab.images("emoji")
    ds = unitlab.ablate(network, emoji, "conv5_2", units=range(16), progress=False)
    ds = ds.assign(thumbnails=unitlab.load("vgg_emoji").thumbnails)
    write_photos(here / "photos", CATEGORIES)
    images = unitlab.images(
        here / "photos", transform=torchvision.models.ResNet18_Weights.DEFAULT.transforms(), categories=CATEGORIES
    )
    names = pd.DataFrame({"label": ["eyes"], "score": [0.5], "source": ["me"]}, index=pd.Index([3], name="unit"))
    given = {
        "unitlab": unitlab, "ds": ds, "other": ds, "iou": np.random.default_rng(0).random(16), "model": SmallResNet(),
        "images": images, "names": names, "f": lambda logits, labels: logits.max(1).values,
        "decoder": np.random.default_rng(1).normal(size=(3, 16)),
        "pairs": unitlab.ablate_groups(network, emoji, "conv5_2", [[3, 5], [5, 9]], progress=False),
    }  # fmt: skip
    found = run(block_with("unitlab.damage(ds)"), given)
    assert isinstance(found["damage"], xr.Dataset) and "iou" in found["mine"]


def test_a_recipe_of_ones_own(here: Path) -> None:
    write_photos(here / "birds" / "val", CATEGORIES)
    torch.save(torchvision.models.resnet18(num_classes=200).state_dict(), here / "resnet18_birds.pth")
    run(block_with("unitlab.add_recipe("), {"unitlab": unitlab})
    assert unitlab.studies().loc["resnet18_birds", "where"] == "recipe"


def test_every_block_is_run_by_a_test() -> None:
    marks = (
        "unitlab.explore(",
        "unitlab.ablate(model, images, layer=",
        "import xarray",
        "unitlab.damage(ds)",
        "unitlab.add_recipe(",
    )
    assert [block for block in BLOCKS if not any(mark in block for mark in marks)] == []


def commands() -> list[str]:
    lines = [line.partition("  #")[0].strip() for line in README.splitlines() if line.startswith("    ")]
    shown = [part for line in lines for part in line.split("&&") if re.match(r"\s*(\S*/bin/)?unitlab ", part)]
    return [*shown, *(code for code in re.findall(r"`(unitlab [^`]+)`", README) if "…" not in code)]


@pytest.mark.parametrize("command", commands())
def test_commands_are_read(command: str) -> None:
    parsed: Callable[..., Any] = _parser().parse_args
    assert callable(parsed(shlex.split(command)[1:]).run) or "--version" in command
