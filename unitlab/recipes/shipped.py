"""The recipes that unitlab comes with."""

from __future__ import annotations

from unitlab.recipes.bundled import BUNDLED
from unitlab.recipes.imagenet import IMAGENET
from unitlab.recipes.places import PLACES

__all__ = ["RECIPES"]

RECIPES = {recipe.name: recipe for recipe in (*BUNDLED, *PLACES, *IMAGENET)}
