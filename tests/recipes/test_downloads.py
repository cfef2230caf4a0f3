"""What goes wrong on the way: an error that says what, and nothing half-written left behind."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_server import Server, cut_short, cut_without_length, empty, forbidden, html, stall, wrong_bytes
from stand_ins import digest, network_of, write_pictures, write_weights, zipped

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.compute.files import downloads
from unitlab.compute.files.downloads import download
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.recipes import RECIPES, Recipe

NAME = "resnet18_places"
FILE = "resnet18_places365.pth.tar"


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / FILE
    write_weights(NAME, network_of(RECIPES[NAME]), path)
    return path


@pytest.fixture
def recipe(server: Server, weights_file: Path, places_zip: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe with its addresses, and the hash of the weights, on this machine."""
    known = RECIPES[NAME]
    assert known.weights is not None
    shutil.copy(weights_file, server.folder / FILE)
    shutil.copy(places_zip, server.folder / "places_val.zip")
    weights = replace(known.weights, address=f"{server.url}/{FILE}", sha256=digest(weights_file, "sha256"))
    images = replace(known.images, address=f"{server.url}/places_val.zip", digest=f"md5:{digest(places_zip, 'md5')}")
    found = replace(known, weights=weights, images=images)
    monkeypatch.setitem(RECIPES, NAME, found)
    return found


def files_left(home: Path) -> list[str]:
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (html, "web page instead of the file"),
        (wrong_bytes, "its SHA256 begins with"),
        (cut_short, "only in part"),
        (cut_without_length, "its SHA256 begins with"),
        (empty, "its SHA256 begins with"),
        (forbidden, "answers with 403"),
        (None, "answers with 404"),
    ],
)
def test_weights_that_do_not_arrive(
    answer: object, message: str, recipe: Recipe, server: Server, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if answer is None:
        (server.folder / FILE).unlink()
    else:
        server.answers[FILE] = answer  # type: ignore[assignment]
    assert main(["compute", NAME, "--units", "1", "--device", "cpu"]) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown and files_left(own_home) == []
    # afterwards it works
    server.answers.clear()
    if answer is not None:
        RecipeFiles(recipe).model()
        assert [Path(name).name for name in files_left(own_home)] == [FILE]


def test_a_server_that_goes_silent(recipe: Recipe, server: Server, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SILENT_SECONDS", 0.3)
    server.answers[FILE] = stall(server)
    with pytest.raises(UnitlabError, match="sends nothing"):
        RecipeFiles(recipe).model()
    assert files_left(own_home) == []


def test_nobody_listens_and_no_such_host(own_home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/w.pth", "http://host.invalid/w.pth"):
        with pytest.raises(UnitlabError, match=r"no connection to .*give it another way"):
            download(url, own_home / "w.pth", "", instead="give it another way")
    assert files_left(own_home) == []


def test_images_that_do_not_arrive(recipe: Recipe, server: Server, own_home: Path) -> None:
    for answer, message in ((html, "web page"), (wrong_bytes, "MD5 begins with"), (cut_short, "in part")):
        server.answers["places_val.zip"] = answer
        with pytest.raises(UnitlabError, match=message):
            RecipeFiles(recipe).images()
        assert files_left(own_home) == []


def test_an_interrupted_download_leaves_nothing(recipe: Recipe, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "check_digest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RecipeFiles(recipe).model()
    assert files_left(own_home) == []


def test_a_changed_file_in_the_cache_is_noticed(recipe: Recipe, own_home: Path) -> None:
    RecipeFiles(recipe).model()
    (cached,) = own_home.glob(f"downloads/*/{FILE}")
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    with pytest.raises(UnitlabError, match=rf"{FILE} is not the file expected"):
        RecipeFiles(recipe).model()


def test_files_of_one_name_stay_apart(
    recipe: Recipe, server: Server, tmp_path: Path, places_zip: Path, places_classes: list[str]
) -> None:
    assert recipe.weights is not None
    (server.folder / "other").mkdir()
    other = network_of(recipe)
    torch.nn.init.normal_(other.fc.weight)
    write_weights(NAME, other, server.folder / "other" / FILE)
    for weights in (recipe.weights, replace(recipe.weights, address=f"{server.url}/other/{FILE}")):
        found = RecipeFiles(replace(recipe, weights=replace(weights, sha256=""))).model()
        assert torch.equal(found.fc.weight, other.fc.weight) == ("other" in weights.address)
    # archives given, too
    sizes = []
    for number in (1, 2):
        archive = tmp_path / str(number) / "val.zip"
        write_pictures(archive.parent / "pictures" / "val", places_classes, {"airfield": number})
        zipped(archive.parent / "pictures", archive)
        sizes.append(len(RecipeFiles(recipe, images=archive).images()))
    assert sizes == [1, 2]


def test_another_weights_file_needs_saying_so(
    recipe: Recipe, tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = network_of(recipe)
    torch.nn.init.normal_(other.fc.weight)
    path = tmp_path / "mine.pth.tar"
    write_weights(NAME, other, path)
    command = ["compute", NAME, "--units", "1", "--device", "cpu", "--weights", str(path)]
    assert main(command) == 2
    shown = capsys.readouterr().err
    assert "is not the weights file" in shown and "--any-weights" in shown
    assert main([*command, "--any-weights"]) == 0
    ds = unitlab.load(f"{NAME}+units")
    assert ds.attrs["weights_are_the_recipes"] == "no" and ds.attrs["weights_sha256"] == digest(path, "sha256")
    assert ds.attrs["network"].endswith("with other weights")
    assert "with other weights" in unitlab.studies().loc[f"{NAME}+units", "network"]
    # what was given is remembered, and verified with
    assert main(["verify", f"{NAME}+units", "--sample", "2", "--device", "cpu"]) == 0
    path.unlink()
    assert main(["verify", f"{NAME}+units", "--sample", "2", "--device", "cpu"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_what_is_missing_is_said(recipe: Recipe, server: Server) -> None:
    with pytest.raises(UnitlabError) as told:
        unitlab.load(NAME)
    for part in (f"unitlab compute {NAME}", f"{server.url}/{FILE}", "places_val.zip", "--weights FILE --images FOLDER"):
        assert part in str(told.value)
    with pytest.raises(UnitlabError, match=r"resnet18-f37072fd.pth") as told:
        unitlab.load("resnet18_imagenet")
    assert "--images FOLDER" in str(told.value) and "image-net.org" in str(told.value) and "ILSVRC2012" in str(told.value)


def test_imagenet_is_asked_for_before_anything_is_downloaded(
    server: Server, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compute", "resnet18_imagenet"]) == 2
    shown = capsys.readouterr().err
    assert "cannot be downloaded for you" in shown and "--images FOLDER" in shown and files_left(own_home) == []


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--weights", "--images"):
        assert main(["compute", NAME, option, str(tmp_path / "nothing")]) == 2
        assert f"give another one with {option}" in capsys.readouterr().err
    assert main(["compute", "vgg_fashion", "--weights", __file__]) == 2
    assert "comes with its weights" in capsys.readouterr().err
