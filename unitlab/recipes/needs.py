"""What a recipe needs: what is downloaded from where to where, which files are remembered for it, whether all is here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unitlab.bundled_images import IMAGE_SETS
from unitlab.errors import UnitlabError, write_failure
from unitlab.files import home, write_whole
from unitlab.recipes.recipe import Images, Recipe, Weights


def is_url(address: str) -> bool:
    return re.match(r"https?://", address) is not None


def torchvision_weights(address: str) -> object:
    """The member of torchvision's weight enum that ``torchvision:ENUM.MEMBER`` names.

    Raises
    ------
    UnitlabError
        torchvision is not installed, or has no such weights.
    """
    try:
        import torchvision.models as models
    except ImportError as error:
        raise UnitlabError("torchvision is not installed; install unitlab with its extra 'compute'") from error
    enum, _, member = address.removeprefix("torchvision:").partition(".")
    try:
        return getattr(models, enum)[member]
    except (AttributeError, KeyError) as error:
        raise UnitlabError(f"torchvision has no weights called {enum}.{member}; give one of its weight enums") from error


def weights_url(weights: Weights) -> str:
    """URL of the weights, or "" where they are no download."""
    if weights.address.startswith("torchvision:"):
        return str(torchvision_weights(weights.address).url)  # type: ignore[attr-defined]
    return weights.address if is_url(weights.address) else ""


def download_place(url: str) -> Path:
    """Where a download is kept: files of one name from two addresses stay apart."""
    return home() / "downloads" / _told_apart("from", url) / (url.rpartition("/")[2] or "file")


def unpacked_place(name: str, *parts: object) -> Path:
    """Where the images of an archive are unpacked; ``parts`` tell archives of one name apart."""
    return home() / "images" / _told_apart(name, *parts)


def _told_apart(name: str, *parts: object) -> str:
    """A name with the first digits of a digest of ``parts``."""
    return f"{name.partition('.')[0]}-{hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()[:12]}"


def what_is_needed(recipe: Recipe) -> str:
    """Lines that say what must be downloaded from where, and the command that computes the study."""
    command = f"unitlab compute {recipe.name}"
    weights, images = _weights(recipe.weights), _images(recipe.images)
    if not recipe.images.address:
        lines = ["Compute it with", f"    {command} --images FOLDER", f"where FOLDER holds {images}."]
        return "\n".join([*lines, f"That downloads {weights}." if weights else "Nothing else has to be downloaded."])
    lines = ["Compute it with", f"    {command}"]
    needed = [text for text in (weights, images) if text]
    if not needed:
        return "\n".join([*lines, "Nothing has to be downloaded for it."])
    lines += ["which downloads", *(f"    {text}" for text in needed)]
    options = [*(["--weights FILE"] if weights else []), *(["--images FOLDER"] if images else [])]
    return "\n".join([*lines, "or, from files that you have,", f"    {command} {' '.join(options)}"])


def _weights(weights: Weights | None) -> str:
    if weights is None:
        return ""
    size = f" (about {weights.megabytes} MB)" if weights.megabytes else ""
    try:
        url = weights_url(weights)
    except UnitlabError:
        return f"the weights that torchvision calls {weights.address.removeprefix('torchvision:')}"
    if weights.address.startswith("torchvision:"):
        size = f" ({torchvision_weights(weights.address).meta['_file_size']:.0f} MB)"  # type: ignore[attr-defined]
    return f"the weights{size} from {url}" if url else ""


def _images(images: Images) -> str:
    if not images.address:
        return images.source
    return f"the images from {images.address}" if is_url(images.address) else ""


def remembered_files(name: str) -> dict[str, Any]:
    """``weights``, ``images`` and ``any_weights`` as they were given for the recipe of this name the last time."""
    path = _record(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UnitlabError(f"{path} cannot be read ({error}); remove it and give the files again") from error
    return content if isinstance(content, dict) else {}


def remember_files(name: str, content: Mapping[str, Any]) -> None:
    """Keep what `remembered_files` is to say."""
    path = _record(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise write_failure(error, path) from error


def _record(name: str) -> Path:
    return home() / "given" / f"{name}.json"


def at_hand(recipe: Recipe, weights_source: str = "", *, images: bool = True) -> bool:
    """Whether weights and, unless ``images`` is false, images are on this machine; ``weights_source`` is what a study of the
    recipe says of them.

    Needs no torch, and reads none of the files.
    """
    known = remembered_files(recipe.name)
    there = {name: bool(known.get(name)) and Path(known[name]).exists() for name in ("weights", "images")}
    return (there["weights"] or _weights_at_hand(recipe, weights_source)) and (
        not images or there["images"] or _images_at_hand(recipe.images)
    )


def _weights_at_hand(recipe: Recipe, source: str) -> bool:
    if recipe.weights is None or recipe.weights.address.startswith("package:"):
        return True
    address = source or recipe.weights.address
    return (download_place(address) if is_url(address) else Path(address)).is_file()


def _images_at_hand(images: Images) -> bool:
    address = images.address
    if is_url(address):
        return unpacked_place(download_place(address).name, address, images.digest).is_dir()
    return address in IMAGE_SETS or (bool(address) and Path(address).exists())
