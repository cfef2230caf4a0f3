"""The value that a share of a unit's activations exceeds, from a stream of them, in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class LargestValues:
    """The largest activations of each unit, as many as tell which value the ``share`` of them exceeds.

    Of ``total`` values a unit at most about ``kept`` are held. Where the share is more than that, positions are drawn, the same
    for all units, and the share that exceeds the threshold has the standard error ``error``; otherwise nothing is left out and
    it is exact.

    Parameters
    ----------
    units, total
        How many units there are, and values of each.
    share
        Of the values that lie above the threshold, at most.
    kept
        How many values of a unit are held.
    seed
        Of the positions that are drawn.
    """

    def __init__(self, units: int, total: int, share: float, kept: int, seed: int) -> None:
        self.share, self.drawn = share, min(1.0, kept / max(share * total, 1.0))
        mean = share * self.drawn * total
        # six standard deviations more than are expected where positions are drawn
        self.most = math.floor(mean + (6 * math.sqrt(mean) if self.drawn < 1 else 0)) + 1
        self.error = 0.0 if self.drawn == 1 else math.sqrt(share * (1 - share) * (1 - self.drawn) / (self.drawn * total))
        self.count = 0
        self._largest: Tensor | None = None
        self._units, self._random = units, torch.Generator().manual_seed(seed)

    def add(self, values: Tensor) -> None:
        """Take values (unit, position)."""
        if self.drawn < 1:
            chosen = torch.rand(values.shape[1], generator=self._random) < self.drawn
            values = values[:, chosen.to(values.device)]
        self.count += values.shape[1]
        if self._largest is None:
            self._largest = values.new_empty((self._units, 0))
        held = self._largest
        if held.shape[1] == self.most:
            # of most batches little is larger than what is held
            above = int((values > held[:, -1:]).sum(1).max()) if values.shape[1] else 0
            values = values.topk(above, dim=1).values
        if values.shape[1]:
            both = torch.cat([held, values], 1)
            self._largest = both.topk(min(self.most, both.shape[1]), dim=1).values

    def thresholds(self) -> Tensor:
        """The least of each unit's values that at most the share of them exceed, (unit,)."""
        assert self._largest is not None
        return self._largest[:, min(math.floor(self.share * self.count + 1e-9), self.most - 1)]
