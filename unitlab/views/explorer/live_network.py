"""A study's own network and images, where they are at hand, for ablations that the study does not hold."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.accuracies import accuracy_interval
from unitlab.analysis.damage import damage
from unitlab.analysis.requirements import class_positions
from unitlab.analysis.splits import one_half
from unitlab.catalog import recipe
from unitlab.errors import UnitlabError
from unitlab.recipes.needs import at_hand
from unitlab.views.explorer.background import Progress
from unitlab.views.gallery import map_places

Array = np.ndarray[Any, Any]

FIRST_UNITS, QUICK = 64, 0.1  # units ranked together at first; seconds in which a step is quick enough for a larger one
MEMORY = 512 << 20  # bytes that the engine may use
# share of baseline predictions that may differ from the study's, as they may between machines
MOST_ROUNDING = 0.005
NOT_THOSE = "the {} at hand are not those of the study; compute the study again with them"


class NotAtHand(UnitlabError):
    """What an ablation needs is missing; ``command`` is what helps."""

    def __init__(self, sentence: str, command: str) -> None:
        super().__init__(sentence)
        self.command = command


class LiveNetwork:
    """Network and images of the recipe that a study names, or `NotAtHand`; without ``images`` the network may be there alone.
    Nothing is downloaded."""

    def __init__(self, ds: xr.Dataset, *, images: bool = True) -> None:
        self.ds, self.layer = ds, str(ds.attrs.get("layer", ""))
        if "basis" in ds:
            helps = f"unitlab.ablate(model, images, {self.layer!r}, directions=directions)"
            raise NotAtHand("The study silences directions, and from here channels would be; this silences directions:", helps)
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None:
            raise NotAtHand("The network needs torch and torchvision, which are not installed.", "pip install '.[compute]'")
        name, source = (str(ds.attrs.get(attr, "")) for attr in ("recipe", "weights_source"))
        if not name:
            raise NotAtHand(
                "The study does not say how its network is built, so that it cannot be run from here; with network and images "
                "in hand, this runs it:",
                f"unitlab.ablate_groups(model, images, {self.layer!r}, [units])",
            )
        try:
            self.recipe = recipe(name)
            self.has_images = at_hand(self.recipe, source)
            there = self.has_images or (not images and at_hand(self.recipe, source, images=False))
        except UnitlabError as error:
            raise NotAtHand(str(error), "unitlab list") from error
        # what gets weights and images
        self.command = f"unitlab compute {self.recipe.name}{'' if self.recipe.images.address else ' --images FOLDER'}"
        if not there:
            raise NotAtHand(f"Weights or images of '{name}' are not on this machine.", self.command)

    def together(self, units: Sequence[int], progress: Progress) -> xr.Dataset:
        """`unitlab.damage` of silencing ``units`` together, as a study of one unit."""
        from unitlab.compute.unit_groups import ablate_groups

        model, images = self._built(progress)
        found = ablate_groups(model, images, self.layer, [list(units)], progress=False, **self.options)
        self._check(found)
        return damage(found.drop_dims("unit").rename(group="unit"))

    def curve(self, category: int, counts: Sequence[int], progress: Progress) -> dict[str, Array]:
        """Shares right, of a class (``own``, with its 95 % interval) and ``overall``, while the ``counts`` units that it needs
        most, by the study on one half of the images, are silenced on the other; both ways, so that every image counts once."""
        from unitlab.compute.cumulative import cumulative

        ds = self.ds
        model, source = self._built(progress)
        label = class_positions(ds, ds["label"].values)
        if list(source.ids) != [str(name) for name in ds["image"].values]:
            raise UnitlabError(NOT_THOSE.format("images"))
        cluster = ds["cluster"].values if "cluster" in ds else None
        half = one_half(cluster, label, 0)
        here = np.flatnonzero(label == category)
        right = class_positions(ds, ds["prediction"][:, here].values) == category
        predicted = np.empty((len(counts), len(label)), np.int64)
        for ranked_on in (half, ~half):
            # fewest right without the unit: the largest drop; where the half has no image, units go by their number
            most = ds["unit"].values[np.argsort(right[:, ranked_on[here]].sum(1), kind="stable")[: max(counts)]].tolist()
            rest = np.flatnonzero(~ranked_on)
            found = cumulative(model, source.subset(rest), self.layer, most, ks=list(counts), progress=False, **self.options)
            self._check(found, images=False)
            if (found["baseline_prediction"].values != ds["baseline_prediction"].values[rest]).mean() > MOST_ROUNDING:
                raise UnitlabError(NOT_THOSE.format("images"))
            predicted[:, rest] = class_positions(ds, found["curve_prediction"].values[0])
        own = predicted[:, here] == category
        low, high = accuracy_interval(own, None if cluster is None else cluster[here])
        return {"own": own.mean(1), "low": low, "high": high, "overall": (predicted == label).mean(1)}

    @property
    def options(self) -> dict[str, Any]:
        """How the study was computed, as keywords."""
        from unitlab.compute.sweep.fingerprints import output_in_study, unit_dim_of

        attrs = self.ds.attrs
        kind = str(attrs.get("ablation", "zero"))
        return {"ablation": kind, "output": output_in_study(attrs), "unit_dim": unit_dim_of(attrs)}

    def _built(self, progress: Progress) -> tuple[Any, Any]:
        """Network and images; ``progress`` counts the images that are read."""
        source, read = self.images(), count(1)
        # images are read once more where pairs are compared with plain hooks
        return self.files.model(), source.watched(lambda: progress(min(next(read), len(source)), len(source)))

    @cached_property
    def files(self) -> Any:
        """The recipe's files."""
        from unitlab.compute.files.recipe_files import RecipeFiles

        return RecipeFiles(self.recipe, network_only=not self.has_images, decode=self.ds.attrs.get("decode"))

    def images(self) -> Any:
        """The study's images."""
        from unitlab.compute.sweep.fingerprints import as_in_study

        return as_in_study(self.files.images(), self.ds.attrs)

    def _check(self, found: xr.Dataset, *, images: bool = True) -> None:
        for name, what in (("fingerprint_weights", "weights"), ("fingerprint_images", "images"))[: 1 + images]:
            here, there = found.attrs.get(name), self.ds.attrs.get(name)
            if here is not None and there is not None and here != there:
                raise UnitlabError(NOT_THOSE.format(what))


class PictureNetwork:
    """A study's network on one picture at a time: units are scaled by a hook at the study's site, and ranked by the engine."""

    def __init__(self, live: LiveNetwork) -> None:
        import torch
        from PIL import Image

        from unitlab.compute.engine.hooks import HookEngine
        from unitlab.compute.engine.network import Network
        from unitlab.compute.engine.suffix import SuffixEngine
        from unitlab.compute.images.pictures import READING
        from unitlab.compute.images.source import ImageSource

        self.live, self.places, self.units = live, map_places(live.ds), live.ds["unit"].values.tolist()
        self.source, transform = live.images() if live.has_images else None, live.files.transform()
        # of one picture, for the reader's own in its place
        self.own = self.source.subset([0]) if self.source is not None and transform is None else ImageSource(
            "pictures", ["picture"], np.zeros(1, np.int64), ["a class"], lambda position: Image.new("RGB", (256, 256)),
            transform_text="", transform=transform, reading=READING,
        )  # fmt: skip
        few = (self.source or self.own).at([0])
        network = self.network = Network(live.files.model(), torch.device("cpu"), few, live.options["output"])
        [(self.site, _)] = network.located([network.site(live.layer)], [live.options["unit_dim"]])
        self.running = threading.Lock()  # a ranking and a question may run at once, and their hooks must not meet
        self.engine = (
            HookEngine(network.module, self.site, self.units)
            if network.graph is None
            else SuffixEngine(network.graph, network.node(self.site), network.sample, self.units, MEMORY)
        )

    def pixels(self, picture: Any) -> Any:
        """What the network sees of a study's image (its id) or of a picture of the reader's (of Pillow)."""
        if not isinstance(picture, str):
            return replace(self.own, read=lambda position: picture).at([0])
        if self.source is None:
            raise NotAtHand(
                "The study's images are not on this machine; its network is: try a picture of yours.", self.live.command
            )
        return self.source.at([self.source.ids.index(picture)])

    def without(
        self, pixels: Any, strengths: dict[int, float], region: Sequence[float] | None = None
    ) -> tuple[Array, Array, Array]:
        """Probabilities before and after some units are scaled, and the maps as they are; ``region`` (left, top, right, bottom,
        as shares of the picture) is where they are scaled."""
        import torch

        from unitlab.compute.engine.hooks import replaced_output

        seen = []

        def scaled(value: Any) -> Any:
            seen.append(value[0].numpy())
            factor = torch.ones(2, *value.shape[1:])
            for unit, strength in strengths.items():
                factor[1, unit] += (strength - 1) * self._inside(value.shape[2:], region)
            return value * factor

        with self.running, torch.inference_mode(), replaced_output(self.network.module, self.site, scaled):
            logits = self.network.module(self.network.ready(pixels)).double()
        before, after = logits.softmax(1).numpy()
        return before, after, seen[0]

    def _inside(self, shape: Sequence[int], region: Sequence[float] | None) -> Any:
        """Which cells of a map have their centre in a region; all, where units have no map."""
        import torch

        if region is None or len(shape) != 2:
            return torch.ones(shape)
        left, top, right, bottom = region
        places = self.places or [[0.5 / cells, 1 / cells] for cells in shape]
        down, across = ([first + step * at for at in range(cells)] for (first, step), cells in zip(places, shape, strict=True))
        return torch.tensor([[float(top <= y <= bottom and left <= x <= right) for x in across] for y in down])

    def ranking(self, pixels: Any, progress: Callable[[Array], None]) -> Array:
        """(unit,): what silencing each takes from the picture's margin, in logits; ``progress`` is told of the first ones."""
        import torch

        # the layers up to the site see the picture once; logits that are linear in what units leave come for all at once
        drops, at_once = np.empty(0), len(self.units) if getattr(self.engine, "closed_form", None) else FIRST_UNITS
        found = self.network.evaluate(pixels, None, [self.site], set(self.engine.needed), first_order=False)
        silent = torch.zeros_like(found.site_values[0])
        while len(drops) < len(self.units):
            some, started = self.units[len(drops) : len(drops) + at_once], time.monotonic()
            with self.running, torch.no_grad():
                self.engine.silence_together([[unit] for unit in some])
                margin = self.engine.evaluate(found.baseline, silent)["margin"]
            drops = np.append(drops, (found.baseline.scores["margin"] - margin[:, 0]).double().numpy())
            progress(drops)
            at_once = at_once * 4 if time.monotonic() - started < QUICK else at_once
        return drops
