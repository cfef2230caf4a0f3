"""Which files were given for a recipe the last time, and whether all that it needs is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unitlab.bundled_images import IMAGE_SETS
from unitlab.errors import UnitlabError
from unitlab.home import home
from unitlab.recipes.described import is_url
from unitlab.recipes.recipe import Recipe

__all__ = ["at_hand", "given_files", "record_of_given_files"]


def record_of_given_files(name: str) -> Path:
    """Where it is kept which files were given for the recipe of this name."""
    return home() / "given" / f"{name}.json"


def given_files(name: str) -> dict[str, Any]:
    """``weights`` and ``images``, where they were given the last time."""
    path = record_of_given_files(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UnitlabError(f"{path} cannot be read ({error}); remove it and give the files again") from error
    return content if isinstance(content, dict) else {}


def at_hand(recipe: Recipe, weights_source: str = "") -> bool:
    """Whether weights and images are on this machine; ``weights_source`` is what a study of the recipe says of them.

    Needs no torch, and reads none of the files.
    """
    given = given_files(recipe.name)
    there = {name: bool(given.get(name)) and Path(given[name]).exists() for name in ("weights", "images")}
    return (there["weights"] or _weights_at_hand(recipe, weights_source)) and (there["images"] or _images_at_hand(recipe))


def _weights_at_hand(recipe: Recipe, source: str) -> bool:
    if recipe.weights is None or recipe.weights.address.startswith("package:"):
        return True
    address = source or recipe.weights.address
    return (home() / "downloads" / address.rpartition("/")[2]).is_file() if is_url(address) else Path(address).is_file()


def _images_at_hand(recipe: Recipe) -> bool:
    address = recipe.images.address
    if address in IMAGE_SETS:
        return True
    if is_url(address):
        return (home() / "images" / address.rpartition("/")[2].partition(".")[0]).is_dir()
    return bool(address) and Path(address).exists()
