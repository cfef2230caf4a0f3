"""The trained network of a name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from unitlab import catalog
from unitlab.compute.files.recipe_files import RecipeFiles


def network(name: str, *, weights: str | Path | None = None, any_weights: bool = False) -> nn.Module:
    """The network of a bundled study or a recipe, with its trained weights, in eval mode, on the CPU.

    It carries ``categories``, the class names in the order of the logits, and ``transform``, from a picture of Pillow to what
    it sees: what `unitlab.images` takes. "squeezenet_imagenet" is bundled: a network of ImageNet that needs no download.

    Parameters
    ----------
    name
        Of a study or recipe, as `studies` lists them ("vgg_emoji", "vgg16_places"; "vgg_emoji+units" is the same network).
        Published weights are downloaded once.
    weights
        A file of weights that is here already; remembered like the command's ``--weights``.
    any_weights
        Take a weights file of another hash than the recipe's.

    Raises
    ------
    UnitlabError
        No such recipe (the nearest are suggested); weights that cannot be had, or that are not the recipe's.

    Examples
    --------
    >>> import unitlab
    >>> unitlab.network("vgg_fashion").features.conv3_2.out_channels
    64
    >>> from PIL import Image
    >>> model = unitlab.network("squeezenet_imagenet")
    >>> logits = model(model.transform(Image.new("RGB", (300, 240), "orange"))[None])
    >>> len(model.categories) == logits.shape[1]
    True
    """
    recipe = catalog.recipe(name.partition("+")[0])
    files = RecipeFiles(recipe, weights=weights, any_weights=any_weights, network_only=True)
    model = files.model()
    for attribute, value in (("categories", files.categories()), ("transform", files.transform())):
        if not hasattr(model, attribute):
            # not by torch's own way, which would make a transform that is a module a part of the network
            object.__setattr__(model, attribute, value)
    return model
