"""Stand-ins for public weights and images: the very format, names and layout, with random contents."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from unitlab.recipes import RECIPES, Recipe, Transform

SMALL = Transform(resize=(64, 64), crop=64)
DENSE = 48


def narrow_vgg16(**options: Any) -> nn.Module:
    return _narrow(torchvision.models.vgg16, (0, 3, 6), options)


def narrow_vgg16_bn(**options: Any) -> nn.Module:
    return _narrow(torchvision.models.vgg16_bn, (0, 3, 6), options)


def narrow_alexnet(**options: Any) -> nn.Module:
    return _narrow(torchvision.models.alexnet, (1, 4, 6), options)


def _narrow(build: Callable[..., nn.Module], dense: tuple[int, int, int], options: dict[str, Any]) -> nn.Module:
    """The network with dense layers that make no checkpoint of half a gigabyte."""
    with torch.device("meta"):
        network = build(**options)
    first, second, last = dense
    classes = network.classifier[last].out_features
    network.classifier[first] = nn.Linear(network.classifier[first].in_features, DENSE)
    network.classifier[second] = nn.Linear(DENSE, DENSE)
    network.classifier[last] = nn.Linear(DENSE, classes)
    network.features.to_empty(device="cpu")
    for module in network.features:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


# what makes a recipe quick; names and format stay
REDUCED: dict[str, dict[str, Any]] = {
    "alexnet_places": {"options": {"dense": DENSE}},
    "vgg16_places": {"options": {"dense": DENSE}},
    "vgg16_imagenet": {"network": narrow_vgg16, "transform": SMALL},
    "vgg16_bn_imagenet": {"network": narrow_vgg16_bn, "transform": SMALL},
    "alexnet_imagenet": {"network": narrow_alexnet},
    "resnet18_places": {},
    "resnet18_imagenet": {},
    "efficientnet_lite0_imagenet": {},
}
# the same networks are measured on other images, too
PUBLISHED = [
    name for name, recipe in RECIPES.items() if recipe.weights is not None and not name.endswith(("_imagenette", "_stamps"))
]
NAMES_IN_FILE: dict[str, list[str]] = {
    "alexnet_places": ["conv1.weight", "conv5.bias", "fc6.weight", "fc8.bias"],
    "vgg16_places": ["features.conv1_1.weight", "features.conv5_3.bias", "classifier.fc6.weight", "classifier.fc8a.bias"],
    "resnet152_places": ["0.weight", "1.running_mean", "4.0.0.0.0.weight", "4.0.0.1.1.bias", "7.2.0.0.7.weight", "10.1.bias"],
    "resnet18_places": ["module.conv1.weight", "module.layer1.0.bn1.running_var", "module.fc.bias"],
    "resnet50_places": ["module.layer4.2.conv3.weight", "module.layer1.0.downsample.1.bias"],
    "densenet161_places": ["module.features.denseblock1.denselayer1.norm.1.weight", "module.classifier.bias"],
    "densenet121_imagenet": ["features.denseblock4.denselayer16.conv.2.weight", "features.norm5.running_var"],
    "googlenet_imagenet": ["aux1.conv.conv.weight", "inception5b.branch4.1.bn.running_mean"],
    "efficientnet_b0_imagenet": ["features.1.0.block.0.0.weight", "features.8.1.num_batches_tracked"],
}


def reduced(name: str) -> Recipe:
    return replace(RECIPES[name], **REDUCED.get(name, {"transform": SMALL}))


def network_of(recipe: Recipe) -> nn.Module:
    from unitlab.compute.files.recipe_files import _function

    torch.manual_seed(0)
    return _function(recipe.network)(**recipe.options)


def state_in_file(name: str, network: nn.Module) -> dict[str, Tensor]:
    """The network's parameters, called as the published file calls them."""
    state = dict(network.state_dict())
    old = name.endswith("_places") or name.startswith("densenet")
    if old:  # older than torch's count of batches
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    rename: Callable[[str], str] = {
        "alexnet_places": lambda key: key.partition(".")[2],
        "vgg16_places": lambda key: key,
        "resnet152_places": _numbered,
        "densenet161_places": lambda key: "module." + _dotted(key),
        "densenet121_imagenet": _dotted,
    }.get(name, (lambda key: "module." + key) if name.endswith("_places") else (lambda key: key))
    found = OrderedDict((rename(key), value) for key, value in state.items())
    assert set(NAMES_IN_FILE.get(name, [])) <= set(found)
    return found


def _dotted(key: str) -> str:
    """norm1 of a dense layer was norm.1."""
    return re.sub(r"(denselayer\d+)\.(norm|conv)(\d)\.", r"\1.\2.\3.", key)


def _numbered(key: str) -> str:
    """The place of a module in the sequence of sequences that an old ResNet was converted to."""
    parts = key.split(".")
    if parts[0] in ("conv1", "bn1", "fc"):
        return ".".join([{"conv1": "0", "bn1": "1", "fc": "10.1"}[parts[0]], *parts[1:]])
    stage, block, inner = int(parts[0].removeprefix("layer")) + 3, parts[1], parts[2]
    if inner == "downsample":
        return f"{stage}.{block}.0.1.{parts[3]}.{parts[4]}"
    order = ["conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3"]
    return f"{stage}.{block}.0.0.{order.index(inner)}.{parts[3]}"


def write_weights(name: str, network: nn.Module, path: Path) -> None:
    """The file, in the format of the published one."""
    state = state_in_file(name, network)
    if path.name.endswith(".pth.tar"):
        checkpoint = {"epoch": 90, "arch": name.partition("_")[0], "state_dict": state, "best_prec1": 54.68}
        path.write_bytes(python2_checkpoint(checkpoint))
    else:
        torch.save(state, path, _use_new_zipfile_serialization="efficientnet" in name)


class _Python2Pickler(pickle._Pickler):
    """Writes what cPickle of Python 2.7 and torch 0.2 wrote: byte strings, storages on a GPU."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.storages: dict[str, Tensor] = {}

    def save_str(self, text: str) -> None:
        data = text.encode()
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)

    def save_ordered(self, found: OrderedDict[str, Any]) -> None:
        self.write(b"ccollections\nOrderedDict\n")
        self.save(([[key, value] for key, value in found.items()],))
        self.write(pickle.REDUCE)

    def save_tensor(self, tensor: Tensor) -> None:
        assert tensor.dtype == torch.float32
        key = str(94000000000000 + 64 * len(self.storages))
        self.storages[key] = tensor
        self.write(b"ctorch._utils\n_rebuild_tensor\n" + pickle.MARK + pickle.MARK)
        self.save("storage")
        self.write(b"ctorch.cuda\nFloatStorage\n")
        for value in (key, "cuda:0", tensor.numel(), None):
            self.save(value)
        self.write(pickle.TUPLE + pickle.BINPERSID)
        for value in (0, tuple(tensor.shape), tuple(tensor.stride())):
            self.save(value)
        self.write(pickle.TUPLE + pickle.REDUCE)

    dispatch[str] = save_str
    dispatch[OrderedDict] = save_ordered
    dispatch[Tensor] = save_tensor


def python2_checkpoint(content: Mapping[str, Any]) -> bytes:
    """A checkpoint as Python 2.7 and torch 0.2 wrote it: five pickles, then the storages."""
    out = io.BytesIO()
    sizes = {"short": 2, "int": 4, "long": 4}
    for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}):
        _Python2Pickler(out).dump(part)
    pickler = _Python2Pickler(out)
    pickler.dump(dict(content))
    storages = pickler.storages
    _Python2Pickler(out).dump(sorted(storages))
    for key in sorted(storages):
        out.write(struct.pack("<q", storages[key].numel()))
        out.write(storages[key].detach().contiguous().numpy().astype("<f4").tobytes())
    return out.getvalue()


def write_pictures(folder: Path, classes: list[str], pictures: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
    for name, count in pictures.items():
        for number in range(count):
            coarse = random.integers(0, 256, (8, 10, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((80, 72), Image.Resampling.BICUBIC)
            picture.save(folder / name / f"{name}_{number:08d}.jpg")


def zipped(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            opened.write(path, path.relative_to(folder))


def digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
