"""Do flips fall on some classes more than on others? Classes shuffled among images that are alike at the baseline."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from unitlab.analysis import LEVEL
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.splits import halves, measured_elsewhere
from unitlab.analysis.undefined import ratio

Array = np.ndarray[Any, Any]

SHUFFLES = 999
ENOUGH = 20  # Besag & Clifford (1991): a unit that was reached this often is not significant and needs no more draws
NULL_SHUFFLES = 99
NULL_SPLITS = 6  # fewer than of the observed maximum: its limit is about 3 % wider than with 40, on the safe side
BATCH = 37
MARGIN_STRATA = 5


def concentration(drops: Array) -> Array:
    """Effective number of damaged classes, (Σ d⁺)²/Σ (d⁺)² over the last axis; NaN where no drop is positive."""
    positive = np.where(drops > 0, drops, 0.0)
    square = (positive**2).sum(-1)
    return np.where(square > 0, ratio(positive.sum(-1) ** 2, square), np.nan)


class Specificity:
    """``p_value`` (unit): chance of a max class drop as large if flips fall on images regardless of their class;
    ``limit`` (unit): what 95 % of such drops stay below, ``crossfit_limit`` (unit) the same for the cross-fitted maximum;
    ``concentration`` (unit): mean concentration of such damage."""

    def __init__(self, images: PairedImages, max_class_drop: Array, seed: int) -> None:
        self.blocks = _Blocks(images)
        self.n_images = images.n_images
        n_units = len(max_class_drop)
        self.p_value = np.ones(n_units)
        self.concentration = np.full(n_units, np.nan)
        entries = [self.blocks.flips(images.flips(units)) for units in images.unit_blocks(images.order.size)]
        self.start = np.concatenate([[0], *(counts for counts, _, _ in entries)]).cumsum()
        self.column = np.concatenate([columns for _, columns, _ in entries])
        self.value = np.concatenate([values for _, _, values in entries])
        self.halves = _Halves(self.blocks, self.n_images, np.random.default_rng(seed))
        self._draw(max_class_drop, np.random.default_rng(seed))

    def _draw(self, observed: Array, random: np.random.Generator) -> None:
        n_units = len(observed)
        reached, drawn = np.zeros(n_units, int), np.zeros(n_units, int)
        sums, counts = np.zeros(n_units), np.zeros(n_units, int)
        largest, crossfit = np.zeros((NULL_SHUFFLES, n_units)), np.zeros((NULL_SHUFFLES, n_units))
        active = np.flatnonzero(np.diff(self.start) > 0)
        done = 0
        while done < SHUFFLES and len(active):
            batch = min(BATCH, SHUFFLES - done)
            shuffled = shuffled_blocks(self.blocks.stratum, batch, random)
            for some in np.array_split(active, max(1, len(active) // 128)):
                rows, columns, values = self._entries(some)
                for shuffle, blocks in enumerate(shuffled):
                    taken = blocks[columns]
                    net = self._net(rows, taken, values, len(some))
                    drops = self._drops(net)
                    highest = drops.max(1)
                    reached[some] += highest >= observed[some]
                    if done + shuffle < NULL_SHUFFLES:
                        largest[done + shuffle, some] = highest
                        first = [self._net(rows, taken, values * half[taken], len(some)) for half in self.halves.first]
                        crossfit[done + shuffle, some] = self.halves.crossfitted(net, first)
                        found = concentration(drops)
                        sums[some] += np.nan_to_num(found)
                        counts[some] += np.isfinite(found)
            drawn[active] += batch
            done += batch
            if done >= NULL_SHUFFLES:
                active = active[reached[active] < ENOUGH]
        self.limit, self.crossfit_limit = (np.quantile(null, LEVEL, axis=0, method="higher") for null in (largest, crossfit))
        tested = drawn > 0
        stopped = tested & (reached >= ENOUGH)
        self.p_value[tested] = (reached[tested] + 1) / (drawn[tested] + 1)
        self.p_value[stopped] = np.minimum(1.0, reached[stopped] / drawn[stopped])
        self.concentration[counts > 0] = sums[counts > 0] / counts[counts > 0]

    def _entries(self, units: Array) -> tuple[Array, Array, Array]:
        """Row (place in ``units``), block and flips of every block that one of these units flips."""
        lengths = self.start[units + 1] - self.start[units]
        where = np.concatenate([np.arange(self.start[u], self.start[u + 1]) for u in units])
        return np.repeat(np.arange(len(units)), lengths), self.column[where], self.value[where].astype(np.float64)

    def _net(self, rows: Array, blocks: Array, values: Array, n_units: int) -> Array:
        """Broken minus fixed images (unit, category) where each flip falls on the class of its shuffled block."""
        n_categories = len(self.n_images)
        cell = rows * n_categories + self.blocks.position[blocks]
        return np.bincount(cell, weights=values, minlength=n_units * n_categories).reshape(n_units, n_categories)

    def _drops(self, net: Array) -> Array:
        drops = ratio(net, self.n_images)
        drops[:, self.n_images == 0] = -np.inf
        return drops


class _Halves:
    """Halves of the blocks, class by class. Shuffled with the classes, a block keeps the half of the block it stands for, so
    that every class keeps its numbers of images in both halves."""

    def __init__(self, blocks: _Blocks, n_images: Array, random: np.random.Generator) -> None:
        self.first = halves(np.arange(blocks.n), blocks.position, NULL_SPLITS, random)
        n_categories = len(n_images)
        self.n_first = np.stack(
            [np.bincount(blocks.position, weights=blocks.size * half, minlength=n_categories) for half in self.first]
        )
        self.n_second = n_images - self.n_first
        self.valid = (self.n_first > 0) & (self.n_second > 0)

    def crossfitted(self, net: Array, first: list[Array]) -> Array:
        """(unit,): the drop of the class that leads one half (the mean over ties), measured on the other; mean over splits."""
        found = []
        for split, one in enumerate(first):
            some = self.valid[split]
            if some.any():
                here = one[:, some] / self.n_first[split, some]
                there = (net - one)[:, some] / self.n_second[split, some]
                found += [measured_elsewhere(here, there, axis=1), measured_elsewhere(there, here, axis=1)]
        return np.mean(found, axis=0) if found else np.zeros(len(net))


class _Blocks:
    """What is shuffled as a whole: the images of one class and cluster that are right (or wrong) at the baseline."""

    def __init__(self, images: PairedImages) -> None:
        cluster = np.repeat(np.arange(len(images.block_start)), images.block_size)
        code = cluster * 2 + images.right
        found, self.of_image = np.unique(code, return_inverse=True)
        self.size = size = np.bincount(self.of_image)
        self.position = images.block_position[found // 2]
        margin = np.bincount(self.of_image, weights=np.nan_to_num(images.baseline_margin)) / size
        self.n = len(found)
        # classes keep their numbers of right and wrong images, since blocks change places with their like only
        kind = np.unique(np.stack([found % 2, size]), axis=1, return_inverse=True)[1].reshape(-1)
        self.stratum = kind * MARGIN_STRATA
        for one in range(int(kind.max(initial=-1)) + 1):
            some = kind == one
            # equal margins stay in one stratum: ranks would order them by class
            edges = np.quantile(margin[some], np.arange(1, MARGIN_STRATA) / MARGIN_STRATA)
            self.stratum[some] += np.searchsorted(edges, margin[some], side="right")

    def flips(self, flips: Array) -> tuple[Array, Array, Array]:
        """Number of flipped blocks per unit, then block and sum of each, unit after unit."""
        if self.n == flips.shape[1]:
            unit, image = np.nonzero(flips)
            block, value = self.of_image[image], flips[unit, image]
        else:
            order = np.argsort(self.of_image, kind="stable")
            start = np.searchsorted(self.of_image[order], np.arange(self.n))
            sums = np.add.reduceat(flips[:, order].astype(np.int32), start, axis=1)
            unit, block = np.nonzero(sums)
            value = sums[unit, block]
        return np.bincount(unit, minlength=len(flips)), block.astype(np.int32), value.astype(np.int32)


def shuffled_blocks(stratum: Array, n: int, random: np.random.Generator) -> Array:
    """Which block each block stands for, shuffled within strata, (shuffle, block)."""
    order = np.argsort(stratum, kind="stable")
    edges = np.append(np.flatnonzero(np.diff(stratum[order], prepend=-1)), len(order))
    blocks = np.empty((n, len(stratum)), np.int32)
    for start, stop in pairwise(edges):
        some = order[start:stop]
        blocks[:, some] = random.permuted(np.tile(some.astype(np.int32), (n, 1)), axis=1)
    return blocks
