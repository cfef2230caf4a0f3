"""Recipes of the user's own, checked when they are added."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unitlab.bundled_images import IMAGE_SETS
from unitlab.compute.engine.layers import layer_names
from unitlab.compute.files.recipe_files import refuse_missing, untrained_network
from unitlab.errors import UnitlabError, nearest_names
from unitlab.recipes import RECIPES, Images, Recipe, Transform, Weights
from unitlab.recipes.own import keep_recipe


def add_recipe(  # noqa: PLR0913  the public call
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
    decode: str = "cpu",
) -> Recipe:
    """Give a study of one's own a name: `studies` lists it, ``unitlab compute NAME`` computes it, `load` opens it.

    The recipe is kept in unitlab's folder, as text. Adding one of the same name again replaces it.

    Parameters
    ----------
    name
        Letters, digits, ``_``, ``-`` and ``.``.
    network
        What builds the network: a function, or ``"module:function"`` or ``"file.py:function"``. It is called once, to see
        whether it has the layers; where weights are given, without memory for its parameters. A function that was defined in a
        notebook or a script is known to this process alone.
    images
        A folder with a folder per class, the URL of a zip or tar archive of one, or a bundled set.
    layers
        The layers to silence; the last is the study's default.
    weights
        File or URL with the state dict; without, ``network`` returns a trained network.
    sha256
        Of the weights file, all hexadecimal digits or the first; a file with another one is refused.
    within
        Key of the state dict inside a checkpoint (``"state_dict"``).
    renamed
        Regular expression → replacement, from the file's names of parameters to the network's.
    transform
        A `unitlab.recipes.Transform`, ``"torchvision:ResNet18_Weights.IMAGENET1K_V1"``, or a function as for ``network``.
    categories
        Class names in the order of the logits; default the folders' names, sorted.
    options
        Keyword arguments of the function.
    title
        Of the network, for people; default its function's name.
    decode
        "gpu": a `unitlab.recipes.Transform`, or that of torchvision's weights, is done where the network is, in float32 of the
        decoded bytes; processors have only to decode. Pixels differ a little from Pillow's, so that studies of both kinds are
        not merged, and batches hold pictures in their own sizes.

    Returns
    -------
    Recipe

    Raises
    ------
    UnitlabError
        A name that is taken by a recipe of unitlab or cannot be a file's; options that are no plain values; a function that
        cannot be found or called with them; a layer that the network has not; a folder, archive or file that is not there;
        ``decode="gpu"`` with another transform, or a bundled set.

    Examples
    --------
    >>> import unitlab
    >>> mine = unitlab.add_recipe(
    ...     "resnet18_birds", network="torchvision.models:resnet18", options={"num_classes": 200},
    ...     weights="resnet18_birds.pth", images="birds/val", layers="layer4",
    ...     transform=unitlab.recipes.Transform(resize=256, crop=224),
    ... )  # doctest: +SKIP
    """
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
    recipe = Recipe(
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
        decode=decode,
    )
    refuse_missing(recipe)
    built = _built(recipe)
    modules = dict(built.named_modules())
    for layer in recipe.layers:
        called = str(layer).partition("#")[0].removesuffix(":pre")
        if called != "all" and called not in [*modules, *layer_names(built)]:
            near = nearest_names(called, [*layer_names(built), *filter(None, modules)])
            raise UnitlabError(f"the network of the recipe {name!r} has no layer {layer!r}. {near}")
    return keep_recipe(recipe)


def _built(recipe: Recipe) -> nn.Module:
    """The network; without values where they come from a file, if its function can do without."""
    with torch.random.fork_rng(devices=[]):
        if recipe.weights is not None:
            try:
                with torch.device("meta"):
                    return untrained_network(recipe)
            except UnitlabError:
                pass  # its function looks at values
        return untrained_network(recipe)


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
