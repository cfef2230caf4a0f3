"""What a recipe needs, for people: what is downloaded from where, and the command that does it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unitlab.bundled_images import IMAGE_SETS
from unitlab.errors import UnitlabError

if TYPE_CHECKING:
    from unitlab.recipes.recipe import Images, Recipe, Weights

__all__ = ["is_url", "torchvision_weights", "weights_url", "what_is_needed"]


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
    return f"the images from {images.address}" if is_url(images.address) and images.address not in IMAGE_SETS else ""
