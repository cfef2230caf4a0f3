"""Dissect the default layers of networks whose images need no annotation, and write what is found to data/dissections.

    python data/rebuild/dissections.py                # vgg_emoji, both procedures: colours and foreground
    python data/rebuild/dissections.py STAMPS         # squeezenet_stamps: kinds of objects by their masks, foreground, colours

STAMPS is where the pictures of tuxpaint-stamps-default are, as for stamps.py; only numbers are kept. Some minutes each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import unitlab
from unitlab.concepts.bundled_dissections import write_bundled_dissection

FOLDER = Path(__file__).parents[1] / "dissections"
STEP = 4  # pixels between the labels of photographs, as in 2020


def emoji() -> None:
    images = unitlab.images("emoji")
    concepts = [unitlab.concepts.colours(images), unitlab.concepts.foreground(images)]
    layer = unitlab.load("vgg_emoji").attrs["layer"]
    for procedure in ("2017", "2020"):
        found = unitlab.dissect(unitlab.network("vgg_emoji"), images, layer, concepts, procedure=procedure)
        write_bundled_dissection(FOLDER, "vgg_emoji", found)


def stamps(folder: str) -> None:
    from unitlab.compute.files.recipe_files import RecipeFiles
    from unitlab.recipes import RECIPES

    recipe = RECIPES["squeezenet_stamps"]
    files = RecipeFiles(recipe, images=folder)
    images = files.images()
    masks = {image: mask.astype(int) for image, mask in unitlab.stamp_masks(images, folder).items()}
    kinds = sorted({image.partition("/")[0] for image in images.ids})
    of_kind = {image: mask * (1 + kinds.index(image.partition("/")[0])) for image, mask in masks.items()}
    concepts = [
        unitlab.concepts.masks(images, of_kind, [f"object: {kind}" for kind in kinds], step=STEP),
        unitlab.concepts.masks(images, masks, ["figure: foreground"], step=STEP),
        unitlab.concepts.colours(images, step=STEP),
    ]
    found = unitlab.dissect(files.model(), images, recipe.layers[-1], concepts)
    write_bundled_dissection(FOLDER, recipe.name, found)


if __name__ == "__main__":
    if sys.argv[1:]:
        stamps(sys.argv[1])
    else:
        emoji()
