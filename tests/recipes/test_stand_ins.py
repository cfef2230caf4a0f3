"""Every published network, from a file of the very format to a verified study, by the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from local_server import Server, cut_short, forbidden, html, wrong_bytes
from stand_ins import PUBLISHED, REDUCED, digest, network_of, reduced, state_in_file, write_weights

import unitlab
from unitlab.cli import main
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.recipes import RECIPES, Recipe
from unitlab.recipes.needs import at_hand, torchvision_weights


@dataclass(frozen=True)
class Served:
    """A recipe with its addresses on this machine; the network and the file of weights that they serve; local images."""

    name: str
    recipe: Recipe
    network: torch.nn.Module
    path: Path
    images: Path


@pytest.fixture(params=PUBLISHED)
def served(
    request: pytest.FixtureRequest, server: Server, places_zip: Path, imagenet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Served:
    name = str(request.param)
    recipe = reduced(name)
    network = network_of(recipe)
    weights, images = recipe.weights, recipe.images
    assert weights is not None
    if weights.address.startswith("torchvision:"):
        member = torchvision_weights(weights.address)
        path = server.folder / f"{name}-random.pth"
        write_weights(name, network, path)
        path = path.rename(server.folder / f"{name}-{digest(path, 'sha256')[:8]}.pth")
        monkeypatch.setattr(member, "_value_", replace(member.value, url=f"{server.url}/{path.name}"))
    else:
        path = server.folder / weights.address.rpartition("/")[2]
        write_weights(name, network, path)
        first = digest(path, "sha256")[: len(weights.sha256)]
        weights = replace(weights, address=f"{server.url}/{path.name}", sha256=first)
    if images.address:
        shutil.copy(places_zip, server.folder / "places_val.zip")
        md5 = digest(server.folder / "places_val.zip", "md5")
        images = replace(images, address=f"{server.url}/places_val.zip", digest=f"md5:{md5}")
    recipe = replace(recipe, weights=weights, images=images)
    monkeypatch.setitem(RECIPES, name, recipe)
    return Served(name, recipe, network, path, places_zip if recipe.images.address else imagenet_folder)


def test_compute_load_verify(served: Served, server: Server, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, recipe, network, path = served.name, served.recipe, served.network, served.path
    options = [] if recipe.images.address else ["--images", str(served.images)]
    assert main(["compute", name, "--units", "1,5", "--device", "cpu", *options]) == 0, capsys.readouterr().err
    asked = list(server.asked)
    assert sorted(asked) == sorted([path.name, *(["places_val.zip"] if recipe.images.address else [])])
    capsys.readouterr()
    trial = f"{name}+units"
    assert main(["verify", trial, "--sample", "4", "--device", "cpu"]) == 0
    assert "0 different" in capsys.readouterr().out
    assert server.asked == asked, "what is here is not downloaded again"

    ds = unitlab.load(trial)
    # the default layer is behind its nonlinearity, and something is known of the weights of its units
    found = unitlab.attributes(ds)
    assert (ds.class_activation.fillna(0) > -0.3).all(), "SiLU is not much below zero, a layer before its nonlinearity is"
    assert (found.class_selectivity.notnull() | (ds.class_activation.min("category") <= 0)).all()
    assert found.l1_norm.notnull().all() or found.outgoing_l1_norm.notnull().all()
    assert ds.attrs["network"] == recipe.title and ds.attrs["layer"] == recipe.layers[-1]
    assert ds.attrs["weights_sha256"] == digest(path, "sha256") and ds.attrs["weights_source"] == f"{server.url}/{path.name}"
    assert ds.attrs["weights_are_the_recipes"] == ("yes" if not path.name.endswith(".tar") else "no digest is published")
    assert ds.sizes["category"] == recipe.images.categories and ds.unit.values.tolist() == [1, 5]
    # the classes have the numbers that the network gives them
    labels = {"airfield": 0, "n01440764": 0, "n02108422": 243, "n15075141": 999}
    for image, label in zip(ds.image.values, ds.label.values, strict=True):
        folder = str(image).partition("/")[0]
        assert labels.get(folder, label) == label
    if not recipe.images.address:
        assert ds.category.values[[0, 243]].tolist() == ["tench", "bull mastiff"]
    assert unitlab.studies().loc[trial, "where"] == "computed"
    assert at_hand(recipe, ds.attrs["weights_source"]), "what was downloaded can be run again from the explorer"
    # the parameters of the file are in the network that was measured
    source = RecipeFiles(recipe, images=None if recipe.images.address else served.images).images()
    batch = torch.cat([next(iter(source.batches(i, i + 1, 1)))[0] for i in range(len(source))])
    with torch.no_grad():
        logits = network.eval()(batch)
    np.testing.assert_array_equal(ds.baseline_prediction.values, logits.argmax(1).numpy())
    left = [entry.name for entry in own_home.rglob("*") if ".part" in entry.name or ".tmp" in entry.name]
    assert not left and not list(own_home.rglob("places_val.zip"))


@pytest.mark.parametrize("name", ["vgg16_places", "resnet18_imagenet"])
def test_decoded_for_a_gpu_by_the_command(
    name: str, tmp_path: Path, own_home: Path, places_zip: Path, imagenet_folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe = reduced(name)
    monkeypatch.setitem(RECIPES, name, recipe)
    write_weights(name, network_of(recipe), tmp_path / "given.pth")
    files = ["--weights", str(tmp_path / "given.pth"), "--any-weights", "--device", "cpu"]
    files += ["--images", str(places_zip if recipe.images.address else imagenet_folder)]
    command = ["compute", name, "--store", str(tmp_path / "study.zarr"), *files]
    assert main([*command, "--units", "1,5", "--decode", "gpu"]) == 0, capsys.readouterr().err
    ds = unitlab.load(tmp_path / "study.zarr")
    assert ds.attrs["decode"] == "gpu" and ds.attrs["transform"].startswith("DeviceTransform(")
    given = {"weights": files[1], "images": files[-1], "any_weights": True}
    here, there = (RecipeFiles(recipe, **given, decode=way) for way in ("gpu", "cpu"))
    with torch.no_grad():
        logits = here.model()(here.images().at(range(len(ds.image))))
    np.testing.assert_array_equal(ds.baseline_prediction.values, logits.argmax(1).numpy())
    # the study is compared, and goes on, as it was decoded; as Pillow would it does not
    assert main(["verify", str(tmp_path / "study.zarr"), "--sample", "4", *files]) == 0
    assert main([*command, "--units", "2"]) == 0, capsys.readouterr().err
    assert unitlab.load(tmp_path / "study.zarr").unit.values.tolist() == [1, 2, 5]
    capsys.readouterr()
    assert main([*command, "--units", "3", "--decode", "cpu"]) == 2
    assert "a transform that differs" in capsys.readouterr().err
    assert here.attrs()["decode"] == "gpu" and "decode" not in RecipeFiles(recipe, **given).attrs()
    assert not torch.equal(here.images().at([0]), there.images().at([0]))


def test_what_goes_wrong_on_the_way(served: Served, server: Server, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, recipe, network, path = served.name, served.recipe, served.network, served.path
    options = ["--units", "1", "--device", "cpu", "--images", str(served.images)]

    def refused(*more: str) -> str:
        assert main(["compute", name, *options, *more]) == 2
        shown = capsys.readouterr().err
        assert "Traceback" not in shown
        assert not [entry for entry in own_home.rglob("*") if entry.is_file()], "something half-written is left"
        return shown

    server.answers[path.name] = html
    assert "web page instead of the file" in refused()
    server.answers[path.name] = cut_short
    assert "only in part" in refused()
    server.answers[path.name] = forbidden
    assert "answers with 403" in refused()
    assert recipe.weights is not None
    if recipe.weights.sha256 or recipe.weights.address.startswith("torchvision:"):
        server.answers[path.name] = wrong_bytes
        assert "its SHA256 begins with" in refused()
    server.close()
    assert "no connection to" in refused()

    state = state_in_file(name, network)
    within = recipe.weights.within
    given = server.folder / "given.pth"

    def refused_weights(content: Mapping[str, torch.Tensor]) -> str:
        torch.save({within: content} if within else content, given)
        return refused("--weights", str(given), "--any-weights")

    last = list(state)[-1]
    shown = refused_weights({**{key: value for key, value in state.items() if key != last}, "another.weight": state[last]})
    assert "it lacks" in shown and "another.weight" in shown
    categories = recipe.images.categories
    seven = {key: value[:7] if value.dim() and len(value) == categories else value for key, value in state.items()}
    assert f"tells 7 classes apart, the recipe's images have {categories}" in refused_weights(seven)
    given.write_bytes(given.read_bytes()[:-1000])
    assert "given.pth" in refused("--weights", str(given), "--any-weights")
    if not path.name.endswith(".tar"):
        torch.save(state, given)
        assert "--any-weights" in refused("--weights", str(given))


def test_every_published_network_is_tried() -> None:
    places = {"alexnet", "vgg16", "resnet18", "resnet50", "densenet161", "resnet152"}
    imagenet = {"alexnet", "vgg16", "vgg16_bn", "resnet18", "resnet50", "googlenet", "densenet121", "efficientnet_b0"}
    wanted = {f"{name}_places" for name in places} | {f"{name}_imagenet" for name in imagenet | {"efficientnet_lite0"}}
    assert set(PUBLISHED) == wanted and set(REDUCED) <= wanted
    assert set(unitlab.studies().index) >= wanted


def test_the_files_have_the_names_and_shapes_of_the_published_networks() -> None:
    """Reduced stand-ins differ from the real networks in the width of dense layers alone."""
    for name, torchvision_name in (("vgg16_imagenet", "vgg16"), ("alexnet_imagenet", "alexnet")):
        with torch.device("meta"):
            whole = getattr(torchvision.models, torchvision_name)().state_dict()
        small = network_of(reduced(name)).state_dict()
        assert list(small) == list(whole)
        assert all(small[key].shape == whole[key].shape for key in whole if key.startswith("features"))


def test_a_new_process_with_local_files_and_no_network(tmp_path: Path, own_home: Path, places_zip: Path) -> None:
    path = tmp_path / "resnet18_places365.pth.tar"
    write_weights("resnet18_places", network_of(RECIPES["resnet18_places"]), path)
    offline = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [
        sys.executable,
        "-m",
        "unitlab",
        "compute",
        "resnet18_places",
        "--weights",
        str(path),
        "--images",
        str(places_zip),
    ]
    done = subprocess.run([*command, "--units", "3,4", "--device", "cpu"], env=offline, capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    path.unlink()
    code = (
        "import unitlab; ds = unitlab.load('resnet18_places+units')\n"
        "assert ds.prediction.shape == (2, 3) and ds.sizes['category'] == 365\n"
        "print(ds.attrs['weights_source'], ds.attrs['images_source'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["the", "file", "resnet18_places365.pth.tar", "places_val.zip"]
