"""Sets of units that are silenced together: one unit each in a sweep, several in groups and along a curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from unitlab.errors import UnitlabError

__all__ = ["Pairs", "UnitSets", "refuse_not_finite"]


class UnitSets:
    """Sets of units in the order in which they are evaluated.

    A set that holds all of the one before it *follows* it: what it adds is all that has to be worked out, so that the
    prefixes of an order cost about what its units cost one at a time.

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
        self._units = torch.tensor([one[0] for one in self.sets], device=device) if self.single else None

    def __len__(self) -> int:
        return len(self.sets)

    def added_any(self, by_unit: Tensor) -> Tensor:
        """(image, unit) booleans → (set, image): whether any of the units that a set adds has it."""
        if self._units is not None:
            return by_unit[:, self._units].t().contiguous()
        return (by_unit.float() @ self._added > 0).t().contiguous()

    def totals(self, by_unit: Tensor) -> Tensor:
        """(image, unit) numbers → (image, set): their sum over the units of each set."""
        if self._units is not None:
            return by_unit[:, self._units]
        return by_unit @ self.member[:, :-1].t().to(by_unit.dtype)

    def owned(self, numbers: Tensor, owner: Tensor) -> Tensor:
        """For each numbered set, which positions of ``owner`` (1, …), −1 for nobody's, one of its units owns: (row, …)."""
        if self._units is not None:
            return owner == self._units[numbers].reshape(-1, *[1] * (owner.dim() - 1))
        return self.member[numbers][:, owner.flatten()].reshape(len(numbers), *owner.shape[1:])


@dataclass
class Pairs:
    """(set, image) pairs, sorted by set: two tensors of the same length, the first of places in the engine's sets."""

    sets: Tensor
    images: Tensor

    def at(self, rows: Tensor) -> Pairs:
        """The pairs in these rows (ascending)."""
        return Pairs(self.sets[rows], self.images[rows])

    def by_set(self, all_images: int) -> Iterator[tuple[int, Tensor | slice, slice]]:
        """Each set with its images (all of them as a slice) and its rows."""
        numbers, counts = torch.unique_consecutive(self.sets, return_counts=True)
        start = 0
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            rows = slice(start, start + count)
            images = self.images[rows]
            yield number, slice(None) if count == all_images else images, rows
            start += count


def refuse_not_finite(units: Sequence[int]) -> NoReturn:
    """Say that an ablation leaves no logits."""
    several = f"units {', '.join(map(str, units[:5]))}{' …' if len(units) > 5 else ''} together"
    what = f"unit {units[0]}" if len(units) == 1 else several
    raise UnitlabError(f"ablating {what} gives NaN or infinite logits; the network divides by what it removes")


def _membership(sets: Sequence[Sequence[int]], width: int, device: torch.device) -> Tensor:
    member = torch.zeros(len(sets), width, dtype=torch.bool)
    for place, units in enumerate(sets):
        member[place, list(units)] = True
    return member.to(device)
