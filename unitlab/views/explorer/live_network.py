"""A study's own network and images, where they are at hand, for ablations that the study does not hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr

from unitlab.analysis.damage import damage
from unitlab.catalog import recipe
from unitlab.errors import UnitlabError
from unitlab.recipes.given import at_hand
from unitlab.views.explorer.background import Progress

__all__ = ["LiveNetwork", "NotAtHand"]


class NotAtHand(UnitlabError):
    """What an ablation needs is missing; ``command`` is what helps."""

    def __init__(self, sentence: str, command: str) -> None:
        super().__init__(sentence)
        self.command = command


class LiveNetwork:
    """Network and images of the recipe that a study names.

    Raises
    ------
    NotAtHand
        torch, the recipe, its weights or its images are not there. Nothing is downloaded.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self.ds, self.layer = ds, str(ds.attrs.get("layer", ""))
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None:
            raise NotAtHand(
                "Running the network needs torch and torchvision, which are not installed.", "pip install '.[compute]'"
            )
        name = str(ds.attrs.get("recipe", ""))
        if not name:
            raise NotAtHand(
                "The study does not say how its network is built, so that it cannot be run from here; with network and images "
                "in hand, this runs it:",
                f"unitlab.ablate_groups(model, images, {self.layer!r}, [units])",
            )
        try:
            self.recipe = recipe(name)
            there = at_hand(self.recipe, str(ds.attrs.get("weights_source", "")))
        except UnitlabError as error:
            raise NotAtHand(str(error), "unitlab list") from error
        if not there:
            folder = "" if self.recipe.images.address else " --images FOLDER"
            raise NotAtHand(f"Weights or images of '{name}' are not on this machine.", f"unitlab compute {name}{folder}")

    def together(self, units: Sequence[int], progress: Progress) -> xr.Dataset:
        """`unitlab.damage` of silencing ``units`` together, as a study of one unit."""
        from unitlab.compute.group_ablation import ablate_groups

        model, images = self._built(progress, 1)
        found = ablate_groups(model, images, self.layer, [list(units)], ablation=self._ablation, progress=False)
        self._check(found)
        return damage(found.drop_dims("unit").rename(group="unit"))

    def curve(self, category: str, counts: Sequence[int], progress: Progress) -> xr.Dataset:
        """`unitlab.cumulative` of the units that a class needs most, ranked on the other half of the images."""
        from unitlab.compute.cumulative import cumulative

        model, images = self._built(progress, 2)
        found = cumulative(
            model, images, self.layer, "accuracy_drop",
            category=category, ks=counts, ablation=self._ablation, progress=False,
        )  # fmt: skip
        self._check(found)
        return found

    @property
    def _ablation(self) -> str:
        return str(self.ds.attrs.get("ablation", "zero"))

    def _built(self, progress: Progress, passes: int) -> tuple[Any, Any]:
        """Network and images; ``progress`` counts the images that ``passes`` passes read."""
        from unitlab.compute.recipe_files import RecipeFiles

        files = RecipeFiles(self.recipe)
        source = files.images()
        return files.model(), source.watched(_counter(progress, passes * len(source)))

    def _check(self, found: xr.Dataset) -> None:
        """Refuse a network or images that are not the study's."""
        for name, what in (("fingerprint_weights", "weights"), ("fingerprint_images", "images")):
            here, there = found.attrs.get(name), self.ds.attrs.get(name)
            # a curve over halves of the images has a fingerprint of its own
            if here is not None and there is not None and here != there:
                raise UnitlabError(f"the {what} at hand are not those of the study; compute the study again with them")


def _counter(progress: Progress, of: int) -> Callable[[], None]:
    count = 0

    def told() -> None:
        nonlocal count
        count += 1
        # images are read once more where pairs are compared with plain hooks
        progress(min(count, of), of)

    return told
