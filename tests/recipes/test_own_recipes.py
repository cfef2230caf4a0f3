"""Recipes of the user's own: one call, and the command and other processes know them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stand_ins import write_pictures
from torch import nn

import unitlab
from unitlab import UnitlabError, catalog
from unitlab.cli import main
from unitlab.recipes import Transform, own

NETWORK = """
from torch import nn

def build(channels, classes):
    convolutions = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(convolutions, nn.Flatten(), nn.Linear(channels, classes))
"""


def local_network(channels: int = 6, classes: int = 3) -> nn.Module:
    convolutions = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(convolutions, nn.Flatten(), nn.Linear(channels, classes))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "nets.py").write_text(NETWORK)
    torch.save({"model": local_network().state_dict()}, tmp_path / "birds.pth")
    write_pictures(tmp_path / "birds", ["a", "b", "c"], {"a": 2, "b": 1, "c": 3})
    return tmp_path


def add(files: Path, **changes: object) -> None:
    given = {
        "network": f"{files}/nets.py:build", "options": {"channels": 6, "classes": 3}, "weights": files / "birds.pth",
        "within": "model", "images": files / "birds", "layers": "0.1", "transform": Transform(resize=(20, 20), crop=16),
    }  # fmt: skip
    unitlab.add_recipe("birds", **{**given, **changes})


def test_one_call_and_the_command_knows_it(files: Path, own_home: Path) -> None:
    add(files, title="Bird network", categories=["a", "b", "c"])
    row = unitlab.studies().loc["birds"]
    assert row.to_dict() == {
        "network": "Bird network",
        "images": "birds",
        "layers": "0.1",
        "categories": 3,
        "where": "recipe",
        "size": 0,
        "unfinished": "",
    }
    with pytest.raises(UnitlabError, match="unitlab compute birds"):
        unitlab.load("birds")
    command = [sys.executable, "-m", "unitlab", "compute", "birds", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    ds = unitlab.load("birds")
    assert ds.category.values.tolist() == ["a", "b", "c"] and ds.label.values.tolist() == [0, 0, 1, 2, 2, 2]
    assert ds.attrs["network"] == "Bird network" and ds.attrs["weights_are_the_recipes"] == "no digest is published"
    assert main(["verify", "birds", "--device", "cpu"]) == 0
    # measured: what plain torch says
    state = torch.load(files / "birds.pth")["model"]
    network = local_network()
    network.load_state_dict(state)
    from unitlab.compute.files.recipe_files import RecipeFiles

    source = RecipeFiles(catalog.recipe("birds")).images()
    batch = next(iter(source.batches(0, 6, 6)))[0]
    assert batch.shape == (6, 3, 16, 16)
    with torch.no_grad():
        hidden = network[0](batch)
        hidden[:, 2] = 0
        expected = network[2](hidden.flatten(1)).argmax(1)
    assert ds.prediction.sel(unit=2).values.tolist() == expected.tolist()


def test_functions_of_this_process(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_here", {})
    add(files, network=lambda: local_network().eval(), weights=None, options={}, within="")
    assert unitlab.studies().loc["birds", "where"] == "recipe"
    assert main(["compute", "birds", "--device", "cpu"]) == 0
    assert unitlab.load("birds").sizes["unit"] == 6
    # another process is told so, and what to do
    monkeypatch.setattr(own, "_here", {})
    assert "birds" in unitlab.studies().index, "its study is there"
    for call in (unitlab.network, catalog.recipe):
        with pytest.raises(UnitlabError, match=r"a function that only it has \(test_functions.*lambda.*file\.py:function"):
            call("birds")
    # the same name again replaces it
    add(files)
    assert catalog.recipe("birds").network == f"{files}/nets.py:build" and not own.of_another_process("birds")


def test_adding_a_recipe_draws_no_random_numbers_and_takes_networks_that_look_at_values(files: Path) -> None:
    (files / "nets.py").write_text(
        NETWORK.replace("    return", "    assert float(convolutions[0].weight.sum()) < 1e9\n    return")
    )
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    add(files)
    assert torch.rand(1) == expected


def test_a_function_of_a_module_is_kept_by_name(files: Path) -> None:
    import torchvision

    add(files, network=torchvision.models.resnet18, options={"num_classes": 3}, layers="layer4.1.relu#2")
    assert catalog.recipe("birds").network == "torchvision.models.resnet:resnet18"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "names no layer"),
        ({"network": "resnet18"}, "names no function"),
        ({"network": 3}, "is no function"),
        ({"transform": "imagenet"}, "neither 'torchvision"),
        ({"options": {"channels": torch.tensor(6), "classes": 3}}, "no plain numbers"),
        ({"network": "no_such_package:build"}, "needs the package no_such_package"),
        ({"network": "torch.nn:NoSuchThing"}, "is not to be found"),
        ({"network": "/nowhere/nets.py:build"}, "is not to be found"),
        ({"network": "torch:zeros", "options": {"size": [2]}}, "returns a Tensor"),
        ({"options": {"channels": "x", "classes": 3}}, "cannot be built"),
        ({"layers": "0.9"}, r"has no layer '0\.9'\. Did you mean '0\.\d'"),
        ({"layers": ["0.1", "layer4"]}, "has no layer 'layer4'"),
        ({"images": "/nowhere"}, "there is no folder"),
        ({"weights": "/nowhere.pth"}, "there is no file"),
        ({"transform": "torchvision:ResNet18_Weights.V9"}, "no weights called"),
        ({"transform": "no_such_package:transform"}, "needs the package no_such_package"),
    ],
)
def test_what_is_no_recipe(files: Path, changes: dict, message: str, own_home: Path) -> None:
    with pytest.raises(UnitlabError, match=message):
        add(files, **changes)
    assert not list(own_home.rglob("*.json"))


def test_names(files: Path, own_home: Path) -> None:
    for name in ("vgg16_places", "../x", "a/b", "", ".hidden"):
        with pytest.raises(UnitlabError, match=r"of its own|cannot be called"):
            unitlab.add_recipe(name, network="torchvision.models:resnet18", images=files, layers="layer4")
    add(files)
    (own_home / "recipes" / "birds.json").write_text('{"name": "birds"')
    with pytest.raises(UnitlabError, match=r"birds\.json cannot be read"):
        unitlab.load("birds")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"channels": 5, "classes": 3}}, "other shapes"),
        ({"options": {"channels": 6, "classes": 4}}, "other shapes"),
        ({"sha256": "0123"}, r"begins with \w+, not with 0123"),
        ({"within": "state_dict"}, r"key 'state_dict'; it holds \['model'\]"),
        ({"categories": ["a", "b"]}, "folder 'c' that is no class"),
    ],
)
def test_what_does_not_fit_is_said_when_it_is_computed(
    files: Path, changes: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    add(files, **changes)
    assert main(["compute", "birds", "--device", "cpu"]) == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown) and "Traceback" not in shown
