"""What an ablation is: what replaces the units, the sets silenced together, what a batch gives before, and the scores after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
import torch.fx
from torch import Tensor

from unitlab.compute.engine.capture import Values
from unitlab.compute.engine.host_copies import HostCopies, Steps, on_device
from unitlab.compute.engine.scores import Scores, Scoring
from unitlab.errors import UnitlabError

ABLATIONS = ("zero", "mean", "resample")
# Maps of so many images are kept for each layer: 26 MB for VGG16's conv5_3, 822 MB for its conv1_1. Studies that resample hang
# on this number: another one draws other donors.
DONORS = 64
EVERY = slice(None)


@dataclass
class Replacement:
    """``values`` (1 or donor, unit, …) and, for resample, the donor of each image.

    Two units of mean 0.3 and 1.2 become that everywhere: values (1, 2, 1, 1). With three donors and ``donor`` (2, 0, 0, 1), the
    maps of image 0 become those of the third donor, values (3, 2, row, column).
    """

    values: Tensor
    donor: np.ndarray | None = None
    _ready: Tensor | None = None

    def of(self, positions: np.ndarray, like: Tensor) -> Tensor:
        """Replacement values for the images at ``positions``, expandable to ``like`` (image, unit, …)."""
        if self.donor is None:
            if self._ready is None or (self._ready.device, self._ready.dtype) != (like.device, like.dtype):
                self._ready = on_device(self.values, like.device).to(like)  # once, not for every batch
            return self._ready
        return on_device(self.values[torch.as_tensor(self.donor[positions])], like.device).to(like)


def donor_of_image(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the donor images, and for each image the index of its donor, never the image itself."""
    if images < 2:
        raise UnitlabError("ablation='resample' takes a unit's map from another image; give two images or more")
    random = np.random.default_rng(seed)
    donors = np.sort(random.choice(images, size=min(images, DONORS), replace=False))
    chosen = random.integers(len(donors), size=images)
    chosen = np.where(donors[chosen] == np.arange(images), (chosen + 1) % len(donors), chosen)
    return donors, chosen


def replacement_of(ablation: str, shape: tuple[int, ...], images: int, seed: int, values: np.ndarray | None) -> Replacement:
    """What each unit of a site is replaced by.

    Parameters
    ----------
    ablation
        ``"zero"``, ``"mean"`` (one number per unit, over images and positions) or ``"resample"``.
    shape
        Of the site's value for one image, (image=1, unit, …).
    images
        How many images there are.
    seed
        Of the choice of donors.
    values
        For mean (unit), for resample (donor, unit, …).
    """
    flat = (1, -1, *[1] * (len(shape) - 2))
    if ablation == "zero":
        return Replacement(torch.zeros(1, shape[1]).reshape(flat))
    if values is None:
        raise UnitlabError(f"what the units are replaced by is missing for ablation={ablation!r}; run the same again")
    if ablation == "mean":
        return Replacement(torch.from_numpy(values).reshape(flat))
    return Replacement(torch.from_numpy(values), donor_of_image(images, seed)[1])


class UnitSets:
    """Sets of units in the order in which they are evaluated.

    A set that holds all of the one before it *follows* it: what it adds is all that has to be worked out, so that the
    prefixes of an order cost about what its units cost one at a time. The sets (3), (3, 7), (5) follow: no, yes, no; they
    add (3), (7), (5); and their chains start at the places 0, 0, 2.

    Parameters
    ----------
    sets
        Unit numbers, each set without repeats; a set may be empty.
    channels
        Units that the layer has.
    device
        Where the engine computes.
    """

    def __init__(self, sets: Sequence[Sequence[int]], channels: int, device: torch.device) -> None:
        self.sets = [list(one) for one in sets]
        self.single = all(len(one) == 1 for one in self.sets)
        self.follows = [False] * len(self.sets)
        self.added = list(self.sets)
        for place in range(1, len(self.sets) if not self.single else 0):
            before, here = set(self.sets[place - 1]), self.sets[place]
            if before and before.issubset(here):
                self.follows[place] = True
                self.added[place] = [unit for unit in here if unit not in before]
        self.start_of = [0] * len(self.sets)
        for place in range(1, len(self.sets)):
            self.start_of[place] = self.start_of[place - 1] if self.follows[place] else place
        self.chained = any(self.follows)
        # the last column is for positions that no unit owns
        self.member = _membership(self.sets, channels + 1, device)
        self._added = _membership(self.added, channels + 1, device)[:, :channels].float().t()
        self.units = torch.tensor([one[0] for one in self.sets], device=device) if self.single else None

    def __len__(self) -> int:
        return len(self.sets)

    def added_any(self, by_unit: Tensor) -> Tensor:
        """(image, unit) booleans → (set, image): whether any of the units that a set adds has it."""
        if self.units is not None:
            return by_unit[:, self.units].t().contiguous()
        return (by_unit.float() @ self._added > 0).t().contiguous()

    def totals(self, by_unit: Tensor) -> Tensor:
        """(image, unit) numbers → (image, set): their sum over the units of each set."""
        if self.units is not None:
            return by_unit[:, self.units]
        return by_unit @ self.member[:, :-1].t().to(by_unit.dtype)

    def owned(self, numbers: Tensor, owner: Tensor) -> Tensor:
        """For each numbered set, which positions of ``owner`` (1, …), −1 for nobody's, one of its units owns: (row, …)."""
        if self.units is not None:
            return owner == self.units[numbers].reshape(-1, *[1] * (owner.dim() - 1))
        return self.member[numbers][:, owner.flatten()].reshape(len(numbers), *owner.shape[1:])


def _membership(sets: Sequence[Sequence[int]], width: int, device: torch.device) -> Tensor:
    member = torch.zeros(len(sets), width, dtype=torch.bool)
    for place, units in enumerate(sets):
        member[place, list(units)] = True
    return member.to(device)


@dataclass
class Pairs:
    """(set, image) pairs, sorted by set: two tensors of the same length, the first of places in the engine's sets.

    Two units on two images, the first silent on the second image: sets (0, 1, 1), images (0, 0, 1). ``host`` has both once
    more where the host reads them, (2, pair), so that a GPU is not waited for.
    """

    sets: Tensor
    images: Tensor
    host: Tensor

    @classmethod
    def of(cls, mask: Tensor, device: torch.device) -> Pairs:
        """Where a mask (set, image) on the host is true."""
        return cls.on(torch.stack(mask.nonzero(as_tuple=True)), device)

    @classmethod
    def on(cls, host: Tensor, device: torch.device) -> Pairs:
        """Pairs that the host knows, on a device."""
        sets, images = on_device(host, device).unbind(0)
        return cls(sets, images, host)

    def at(self, rows: Tensor | slice) -> Pairs:
        """The pairs in these rows (ascending), which the host knows."""
        if isinstance(rows, slice):
            return Pairs(self.sets[rows], self.images[rows], self.host[:, rows])
        return Pairs.on(self.host[:, rows], self.sets.device)

    def blocks(self, size: int) -> Iterator[Pairs]:
        """The pairs, so many at a time."""
        yield from (self.at(slice(start, start + size)) for start in range(0, len(self.sets), size))

    def by_set(self, all_images: int) -> list[tuple[int, Tensor | slice, slice]]:
        """Each set with its images (all of them as a slice) and its rows."""
        numbers, counts = (found.tolist() for found in torch.unique_consecutive(self.host[0], return_counts=True))
        rows = [slice(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]
        images = [slice(None) if part.stop - part.start == all_images else self.images[part] for part in rows]
        return list(zip(numbers, images, rows, strict=True))


@dataclass
class BatchBaseline:
    """The unablated network on one batch: values of graph nodes, labels, and scores and positions of the images, (image).

    What is not a number is said once ``host`` delivers, on a CPU at once.
    """

    images: Tensor
    values: Values
    labels: Tensor
    positions: Tensor
    scoring: Scoring
    scores: Scores
    host: HostCopies = field(default_factory=HostCopies)

    def scores_of(self, logits: Tensor, images: Tensor | slice = EVERY) -> Scores:
        """Scores of logits (row, category) of some images of the batch, by default of all, (row) each."""
        return self.scoring.of(logits, self.labels[images], self.positions[images], self.images.dtype)


class Engine(Protocol):
    """A way to evaluate one batch under every ablation of one layer; its units may be directions."""

    @property
    def strategy(self) -> str:
        """What the engine does, for the log."""

    @property
    def needed(self) -> Set[torch.fx.Node]:
        """Nodes whose unablated value an evaluation reads."""

    def silence_together(self, sets: Sequence[Sequence[int]]) -> None:
        """From now on ablate each of these sets of units as a whole, in this order."""

    def evaluate(self, base: BatchBaseline, ablated: Tensor) -> Scores:
        """Scores of one batch, (set, image) each.

        ``ablated`` is what the site's value, (image, unit, …), becomes where a unit is ablated.
        """

    def steps(self, base: BatchBaseline, ablated: Tensor) -> Steps[Scores]:
        """The same in steps, without gradients."""


def refuse_not_finite(sets: Sequence[Sequence[int]], finite: Tensor) -> None:
    """Say of which set the ablation leaves no logits; ``finite`` (set, …)."""
    undefined = (~finite.flatten(1).all(1)).nonzero().flatten().tolist()
    if not undefined:
        return
    units = sets[undefined[0]]
    several = f"units {', '.join(map(str, units[:5]))}{' …' if len(units) > 5 else ''} together"
    what = f"unit {units[0]}" if len(units) == 1 else several
    raise UnitlabError(f"ablating {what} gives NaN or infinite logits; the network divides by what it removes")
