"""Recipes of the user's own, kept as text in unitlab's folder so that the command and later processes know them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unitlab.errors import UnitlabError, write_failure
from unitlab.files import home, write_whole
from unitlab.recipes.recipe import Images, Recipe, Transform, Weights

# recipes with functions that only this process has
_here: dict[str, Recipe] = {}
OF_A_PROCESS = ".process"  # beside them: a file that tells other processes of them


def keep_recipe(recipe: Recipe) -> Recipe:
    """Keep a recipe in unitlab's folder, as text; one with a function that has no name here alone.

    Raises
    ------
    UnitlabError
        Options that are no plain values; a folder that cannot be written.
    """
    _here.pop(recipe.name, None)
    path, elsewhere = _folder() / f"{recipe.name}.json", _folder() / f"{recipe.name}{OF_A_PROCESS}"
    unnamed = next(filter(callable, (recipe.network, recipe.transform)), None)
    try:
        # checked before anything of an older recipe goes
        content = "" if unnamed else json.dumps(asdict(recipe), indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in (path, elsewhere):
            other.unlink(missing_ok=True)
        if unnamed is not None:
            write_whole(elsewhere, getattr(unnamed, "__qualname__", type(unnamed).__name__).encode())
            _here[recipe.name] = recipe
            return recipe
        write_whole(path, content.encode())
    except TypeError as error:
        raise UnitlabError(
            f"the options of the recipe '{recipe.name}' are no plain numbers, texts and lists ({error})"
        ) from error
    except OSError as error:
        raise write_failure(error, path) from error
    return own_recipes()[recipe.name]


def of_another_process(name: str) -> str:
    """What to do about a recipe that another process has added with a function of its own; "" where none has."""
    try:
        function = (_folder() / f"{name}{OF_A_PROCESS}").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    return (
        f"Another process has added a recipe of that name with a function that only it has ({function}): put the function "
        "into a file and add the recipe with 'file.py:function', or 'module:function', which every process can call."
    )


def own_recipes() -> dict[str, Recipe]:
    """Name → recipe that the user added.

    Raises
    ------
    UnitlabError
        A file of a recipe that cannot be read.
    """
    found = {}
    for path in sorted(_folder().glob("*.json")):
        try:
            found[path.stem] = _recipe(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnitlabError(
                f"the recipe {path} cannot be read ({error}); remove the file and add the recipe again"
            ) from error
    return {**found, **_here}


def _recipe(content: dict[str, Any]) -> Recipe:
    images, weights, transform = content["images"], content["weights"], content["transform"]
    if isinstance(images["class_names"], list):
        images["class_names"] = tuple(map(str, images["class_names"]))
    if isinstance(transform, dict):
        pair = transform["resize"]
        transform = replace(Transform(**transform), resize=tuple(pair) if isinstance(pair, list) else int(pair))
    if weights is not None:
        weights = Weights(**{**weights, "renamed": tuple((str(old), str(new)) for old, new in weights["renamed"])})
    layers = tuple(map(str, content["layers"]))
    return Recipe(**{**content, "images": Images(**images), "weights": weights, "transform": transform, "layers": layers})


def _folder() -> Path:
    return home() / "recipes"
