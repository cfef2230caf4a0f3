"""Recipes: how studies with a name are computed; unitlab's own and the user's."""

from __future__ import annotations

from unitlab.recipes.own import own_recipes
from unitlab.recipes.recipe import Images, Recipe, Transform, Weights
from unitlab.recipes.shipped import RECIPES

__all__ = ["RECIPES", "Images", "Recipe", "Transform", "Weights", "known_recipes"]


def known_recipes() -> dict[str, Recipe]:
    """Name → recipe: those that unitlab comes with, and the user's own."""
    return {**RECIPES, **own_recipes()}
