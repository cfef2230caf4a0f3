"""Recipes of the user's own, kept as text in unitlab's folder so that the command and later processes know them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unitlab.bundled_images import IMAGE_SETS
from unitlab.errors import UnitlabError, write_failure
from unitlab.files import home, write_whole
from unitlab.recipes.recipe import Images, Recipe, Transform, Weights
from unitlab.recipes.shipped import RECIPES

# recipes with functions that only this process has
_here: dict[str, Recipe] = {}
OF_A_PROCESS = ".process"  # beside them: a file that tells other processes of them


def new_recipe(  # noqa: PLR0913  add_recipe's
    name: str,
    *,
    network: str | Callable[..., Any],
    images: str | Path,
    layers: str | Sequence[str],
    weights: str | Path | None = None,
    sha256: str = "",
    within: str = "",
    renamed: Mapping[str, str] | None = None,
    transform: Transform | str | Callable[..., Any] | None = None,
    categories: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    title: str = "",
) -> Recipe:
    """A recipe from what `unitlab.add_recipe` takes; refused where that cannot be one, whatever is on this machine."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UnitlabError(f"a recipe cannot be called {name!r}; use letters, digits, '_', '-' and '.'")
    if name in RECIPES:
        raise UnitlabError(f"unitlab has a recipe '{name}' of its own; choose another name")
    chosen = (layers,) if isinstance(layers, str) else tuple(layers)
    if not chosen:
        raise UnitlabError(f"the recipe '{name}' names no layer; give one, such as layers='layer4'")
    if isinstance(transform, str) and not transform.partition(":")[2]:
        raise UnitlabError(f"transform={transform!r} is neither 'torchvision:ENUM.MEMBER' nor 'module:function'")
    network, place = _named(network), _place(images)
    kind = network if isinstance(network, str) else getattr(network, "__qualname__", type(network).__name__)
    return Recipe(
        name=name,
        title=title or kind.rpartition(":")[2],
        network=network,
        images=Images(
            name=place.rstrip("/").rpartition("/")[2],
            address=place,
            categories=len(categories),
            class_names=tuple(categories),
        ),
        layers=chosen,
        weights=None if weights is None else Weights(_place(weights), sha256.lower(), within, tuple((renamed or {}).items())),
        transform=transform if transform is None or isinstance(transform, Transform) else _named(transform),
        options=dict(options or {}),
    )


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


def _place(given: str | Path) -> str:
    """A URL, an address or the name of a bundled set as it is, a path made absolute."""
    text = str(given)
    if text in IMAGE_SETS or re.match(r"[a-z]+:", text):
        return text
    return os.path.abspath(os.path.expanduser(text))


def _named(function: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """``module:function`` of a function that other processes find by it."""
    if isinstance(function, str):
        head, colon, tail = function.rpartition(":")
        if not colon or not head or not tail:
            raise UnitlabError(f"{function!r} names no function; give 'module:function' or 'file.py:function'")
        return f"{os.path.abspath(head)}:{tail}" if head.endswith(".py") else function
    if not callable(function):
        raise UnitlabError(f"{function!r} is no function that builds something; give a function or 'module:function'")
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not module or not name or module == "__main__" or "<" in name:
        return function
    return f"{module}:{name}"
