"""Networks and names of published files against the computation that the files were made for, written out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import network_of, reduced, state_in_file, write_pictures
from torch import Tensor, nn
from torch.nn import functional as F

from unitlab import UnitlabError
from unitlab.compute.files.checkpoints import load_parameters, read_state_dict
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.images.folders import labelled_files
from unitlab.recipes import RECIPES


def caffe_alexnet(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Caffe's AlexNet from the names in its file; normalisation across channels by its formula (Krizhevsky 2012)."""

    def convolved(x: Tensor, number: int, stride: int, padding: int, groups: int) -> Tensor:
        weight, bias = state[f"conv{number}.weight"].double(), state[f"conv{number}.bias"].double()
        return F.relu(F.conv2d(x, weight, bias, stride, padding, groups=groups))

    def normalised(x: Tensor) -> Tensor:
        squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
        total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(5))
        return x / (1 + 1e-4 / 5 * total) ** 0.75

    x = images.double()
    x = normalised(F.max_pool2d(convolved(x, 1, 4, 0, 1), 3, 2))
    x = normalised(F.max_pool2d(convolved(x, 2, 1, 2, 2), 3, 2))
    x = convolved(convolved(x, 3, 1, 1, 1), 4, 1, 1, 2)
    x = F.max_pool2d(convolved(x, 5, 1, 1, 2), 3, 2).flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        x = F.linear(x if name == "fc6" else F.relu(x), state[f"{name}.weight"].double(), state[f"{name}.bias"].double())
    return x


def numbered_resnet152(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The converted ResNet152 from the numbers in its file: stride in the 3×3 convolution."""

    def convolved(x: Tensor, place: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, state[f"{place}.weight"].double(), None, stride, padding)

    def normalised(x: Tensor, place: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{place}.{name}"].double() for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    x = F.max_pool2d(F.relu(normalised(convolved(images.double(), "0", 2, 3), "1")), 3, 2, 1)
    for stage, blocks in ((4, 3), (5, 8), (6, 36), (7, 3)):
        for block in range(blocks):
            path = f"{stage}.{block}.0"
            stride = 2 if stage > 4 and block == 0 else 1
            inner = F.relu(normalised(convolved(x, f"{path}.0.0"), f"{path}.0.1"))
            inner = F.relu(normalised(convolved(inner, f"{path}.0.3", stride, 1), f"{path}.0.4"))
            inner = normalised(convolved(inner, f"{path}.0.6"), f"{path}.0.7")
            shortcut = normalised(convolved(x, f"{path}.1.0", stride), f"{path}.1.1") if block == 0 else x
            x = F.relu(inner + shortcut)
    return F.linear(x.mean((2, 3)), state["10.1.weight"].double(), state["10.1.bias"].double())


@pytest.mark.parametrize(
    ("name", "computed", "size"), [("alexnet_places", caffe_alexnet, 227), ("resnet152_places", numbered_resnet152, 64)]
)
def test_the_file_and_the_network_compute_the_same(name: str, computed, size: int, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipe = reduced(name)
    network = network_of(recipe)
    for module in network.modules():  # a response norm and a batch norm that do something
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    path = tmp_path / "weights.pth"
    state = state_in_file(name, network)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert recipe.weights is not None
    read = load_parameters(network_of(recipe), read_state_dict(path, "", recipe.weights.renamed), path, 365)
    images = 30 * torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = read.double()(images.double()), computed(state, images)
    assert found.shape == (2, 365) and float(expected.std()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_vgg16_by_research_names_is_torchvisions() -> None:
    from torchvision.models import vgg16

    ours = network_of(reduced("vgg16_places")).eval().features
    theirs = vgg16(init_weights=False).features.eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(images.clone()), theirs(images.clone()))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_places")])
def test_places_images_are_resized_without_keeping_their_aspect(name: str, places_zip: Path) -> None:
    import io
    import zipfile

    from PIL import Image

    source = RecipeFiles(RECIPES[name], images=places_zip).images()
    found = next(iter(source.batches(0, 1, 1)))[0][0]
    with zipfile.ZipFile(places_zip) as archive:
        entry = next(entry for entry in archive.namelist() if entry.endswith("airfield_00000000.jpg"))
        picture = Image.open(io.BytesIO(archive.read(entry))).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    crop = 227 if name.startswith("alexnet") else 224
    start = round((256 - crop) / 2)
    pixels = np.asarray(picture)[start : start + crop, start : start + crop] / 255
    expected = (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_torchvisions_folder_of_places(tmp_path: Path) -> None:
    """Pictures side by side, and lists in the layout that torchvision's Places365 reads."""
    write_pictures(tmp_path, ["val_256"], {"val_256": 3})
    lines = ["/a/airfield 0", "/a/apartment_building/outdoor 1", "/s/ski_resort 2"]
    (tmp_path / "categories_places365.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "places365_val.txt").write_text("val_256_00000000.jpg 2\nval_256_00000001.jpg 0\nval_256_00000002.jpg 2\n")
    found = labelled_files(tmp_path, folders="", count=3, name="Places365")
    assert found.labels == [2, 0, 2] and found.folders == ["airfield", "apartment_building-outdoor", "ski_resort"]
    assert [path.name for path in found.files] == [f"val_256_0000000{index}.jpg" for index in range(3)]
    for text, message in (("../../x.jpg 1\n", "is not in"), ("a b c\n", "another layout"), ("gone.jpg 1\n", "is not in")):
        (tmp_path / "places365_val.txt").write_text(text)
        with pytest.raises(UnitlabError, match=message):
            labelled_files(tmp_path, folders="", count=3, name="Places365")
    with pytest.raises(UnitlabError, match="3 classes, expected 365"):
        labelled_files(tmp_path, folders="", count=365, name="Places365")


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    write_pictures(tmp_path / "few", ["a", "b"], {"a": 1})
    with pytest.raises(UnitlabError, match="has 2 folders, Places365 has 365 classes"):
        labelled_files(tmp_path / "few", folders="", count=365, name="Places365")
    write_pictures(tmp_path / "wnids", ["n01440764", "n99999999"], {"n01440764": 1})
    with pytest.raises(UnitlabError, match="folder 'n99999999' that is no class of ImageNet"):
        labelled_files(tmp_path / "wnids", folders="wnids", count=1000, name="ImageNet")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(UnitlabError, match="holds no pictures"):
        labelled_files(tmp_path / "empty", folders="", count=0, name="mine")
    with pytest.raises(UnitlabError, match="is not a folder"):
        labelled_files(tmp_path / "nothing", folders="", count=0, name="mine")


def test_some_of_imagenets_folders_keep_their_numbers(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["n02108422", "n15075141"], {"n02108422": 1, "n15075141": 1})
    assert labelled_files(tmp_path, folders="wnids", count=1000, name="ImageNet").labels == [243, 999]
