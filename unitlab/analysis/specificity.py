"""Do flips fall on some classes more than on others? Classes shuffled among images that are alike at the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
from tqdm.auto import tqdm

from unitlab.analysis import ALPHA, LEVEL
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.analysis.splits import halves, measured_elsewhere
from unitlab.analysis.undefined import mean_of_defined, ratio

Array = np.ndarray[Any, Any]

SHUFFLES = 999
ENOUGH = 20  # Besag & Clifford (1991): a unit that was reached this often is not significant and needs no more draws
SURE = 0.999  # a unit whose p is with this confidence small enough for Benjamini–Hochberg over the units needs none either
NULL_SHUFFLES = 99
NULL_SPLITS = 6  # fewer than of the observed maximum: its limit is about 3 % wider than with 40, on the safe side
BATCH = 37
CELLS_AT_ONCE = 1 << 17
MARGIN_STRATA, LEAST_IN_STRATUM = 20, 20
ROUNDING = 1e-9  # statistics that differ by less are tied


def concentration(drops: Array) -> Array:
    """Effective number of damaged classes, (Σ d⁺)²/Σ (d⁺)² over the last axis; NaN where no drop is positive."""
    positive = np.where(drops > 0, drops, 0.0)
    square = (positive**2).sum(-1)
    return np.where(square > 0, ratio(positive.sum(-1) ** 2, square), np.nan)


class Draws:
    """Shuffles until it is known how often each of the ``active`` units is reached: ``reached``, of ``drawn``.

    After ``first`` shuffles those leave that were reached often enough, after ``least`` those that are sure to be found among
    all. There are so many that the least p of one unit of all can be found; or ``most``, and then those leave, too, that are
    sure not to be found.
    """

    def __init__(self, active: Array, n_units: int, first: int, least: int, *, most: int | None = None) -> None:
        self.active, self.first, self.least, self.brief = active, first, least, most is not None
        self.reached, self.drawn = np.zeros(n_units, int), np.zeros(n_units, int)
        self.most = max(SHUFFLES, ENOUGH * n_units - 1)
        if most is not None:
            self.most = min(self.most, most)

    def batches(self, stratum: Array, random: np.random.Generator, what: str, shown: bool) -> Iterator[tuple[int, Array]]:
        """Number of the first shuffle of each batch, and its `shuffled_blocks`, drawn beside what is done with those before; a
        bar where they take more than two seconds."""
        done, bar = 0, tqdm(total=self.most, desc=what, unit=" shuffles", delay=2, leave=False, disable=not shown)
        with bar, ThreadPoolExecutor(1) as beside:
            drawn = beside.submit(shuffled_blocks, stratum, min(BATCH, self.most), random)
            while done < self.most and len(self.active):
                shuffled, batch = drawn.result(), min(BATCH, self.most - done)
                drawn = beside.submit(shuffled_blocks, stratum, min(BATCH, self.most - done - batch), random)
                yield done, shuffled
                self.drawn[self.active] += batch
                done += batch
                if done >= self.first:
                    going = self.reached < ENOUGH
                    if done >= self.least:
                        going &= ~_settled(self.reached, self.drawn)
                        if self.brief:
                            going &= ~_hopeless(self.reached, self.drawn)
                    self.active = self.active[going[self.active]]
                bar.set_postfix_str(f"{len(self.active):,} units in play", refresh=False)
                bar.update(batch)
            bar.total = bar.n  # a bar that ends early stays in a notebook, in red

    @property
    def p_value(self) -> Array:
        """(reached + 1)/(drawn + 1), or reached/drawn of a unit that was drawn until it was reached often enough."""
        return _p_values(self.reached, self.drawn)


class Specificity:
    """``p_value`` (unit): chance of a studentised max class drop as large if flips fall on images regardless of their class;
    ``limit`` (unit): what 95 % of such max class drops stay below, ``crossfit_limit`` (unit) the same for the cross-fitted
    maximum; ``concentration`` (unit): mean concentration of such damage, ``p_concentration`` of an observed one."""

    def __init__(self, images: PairedImages, seed: int, progress: bool = False) -> None:
        self.blocks = Blocks(images)
        self.n_images = images.n_images
        entries = [self.blocks.flips(images.flips(units)) for units in images.unit_blocks(images.order.size)]
        self.start = np.concatenate([[0], *(counts for counts, _, _ in entries)]).cumsum()
        self.column = np.concatenate([columns for _, columns, _ in entries])
        self.value = np.concatenate([values for _, _, values in entries])
        self.stratum = self.blocks.strata(np.bincount(self.column, minlength=self.blocks.n) > 0)
        self.halves = _Halves(self.blocks, self.n_images, np.random.default_rng(seed))
        self.n_units = len(self.start) - 1
        self._moments()
        self._draw(np.random.default_rng(seed), progress)

    def _moments(self) -> None:
        """Exact mean and variance of net flips (unit, category) under the shuffle."""
        n_strata = int(self.stratum.max(initial=-1)) + 1
        cell = np.repeat(np.arange(self.n_units), np.diff(self.start)) * n_strata + self.stratum[self.column]
        shape = (self.n_units, n_strata)
        total, square = (
            np.bincount(cell, weights=self.value.astype(np.float64) ** power, minlength=shape[0] * shape[1]).reshape(shape)
            for power in (1, 2)
        )
        self.mean, variance = shuffle_moments(self.stratum, self.blocks.position, len(self.n_images), total, square)
        self.scale = 1 / np.sqrt(variance + 0.25)
        self.mean[:, self.n_images == 0] = np.inf

    def _studentised(self, net: Array, units: Array) -> Array:
        """Largest (net − mean)/√(variance + ¼) over classes; the ¼ keeps a class that hardly varies from leading."""
        return np.asarray(((net - self.mean[units]) * self.scale[units]).max(-1))

    def _draw(self, random: np.random.Generator, progress: bool) -> None:
        draws = Draws(np.flatnonzero(np.diff(self.start) > 0), self.n_units, NULL_SHUFFLES, SHUFFLES)
        # max class drop, the same cross-fitted, concentration
        null = np.zeros((3, NULL_SHUFFLES, self.n_units))
        null[2] = np.nan
        observed = np.zeros(self.n_units)
        for some in _parts(draws.active):
            rows, columns, values = self._entries(some)
            observed[some] = self._studentised(self._net(rows, columns[None], values, len(some))[0], some) - ROUNDING
        for done, shuffled in draws.batches(self.stratum, random, "do flips single out classes", progress):
            for some in _parts(draws.active):
                rows, columns, values = self._entries(some)
                width = max(1, CELLS_AT_ONCE // (len(some) * len(self.n_images)))
                for first in range(0, len(shuffled), width):
                    taken = shuffled[first : first + width, columns]
                    nets = self._net(rows, taken, values, len(some))
                    draws.reached[some] += (self._studentised(nets, some) >= observed[some]).sum(0)
                    for shuffle, (net, blocks) in enumerate(zip(nets, taken, strict=True), start=done + first):
                        if shuffle >= NULL_SHUFFLES:
                            break
                        null[:, shuffle, some] = self._measured(net, rows, blocks, values)
        self.limit, self.crossfit_limit = np.quantile(null[:2], LEVEL, axis=1, method="higher")
        self.concentration = mean_of_defined(null[2].T)
        self._concentrations = null[2]
        self.p_value = draws.p_value

    def p_concentration(self, observed: Array) -> Array:
        """(unit): chance of a concentration as small; NaN where no drop is positive."""
        defined = np.isfinite(self._concentrations)
        reached = (self._concentrations <= observed + ROUNDING) & defined
        return np.where(np.isfinite(observed), (reached.sum(0) + 1) / (defined.sum(0) + 1), np.nan)

    def _measured(self, net: Array, rows: Array, blocks: Array, values: Array) -> tuple[Array, Array, Array]:
        """Max class drop, cross-fitted max class drop and concentration of units whose flips fall on these blocks."""
        drops, cell = self._drops(net), rows * net.shape[1] + self.blocks.position[blocks]
        halved = (np.bincount(cell, weights=values * half, minlength=net.size) for half in self.halves.first[:, blocks])
        first = [sums.reshape(net.shape) for sums in halved]
        return drops.max(1), self.halves.crossfitted(net, first), concentration(drops)

    def _entries(self, units: Array) -> tuple[Array, Array, Array]:
        """Row (place in ``units``), block and flips of every block that one of these units flips."""
        lengths = self.start[units + 1] - self.start[units]
        where = np.concatenate([np.arange(self.start[u], self.start[u + 1]) for u in units])
        return np.repeat(np.arange(len(units)), lengths), self.column[where], self.value[where].astype(np.float64)

    def _net(self, rows: Array, blocks: Array, values: Array, n_units: int) -> Array:
        """Broken minus fixed images (shuffle, unit, category) where each flip falls on the class of its shuffled block."""
        shape = (len(blocks), n_units, len(self.n_images))
        cell = (np.arange(len(blocks))[:, None] * n_units + rows) * shape[2] + self.blocks.position[blocks]
        weights = np.broadcast_to(values, blocks.shape).ravel()
        return np.bincount(cell.ravel(), weights=weights, minlength=shape[0] * shape[1] * shape[2]).reshape(shape)

    def _drops(self, net: Array) -> Array:
        drops = ratio(net, self.n_images)
        drops[:, self.n_images == 0] = -np.inf
        return drops


def _parts(units: Array) -> list[Array]:
    return np.array_split(units, max(1, len(units) // 128)) if len(units) else []


def shuffle_moments(stratum: Array, position: Array, n_categories: int, total: Array, square: Array) -> tuple[Array, Array]:
    """Exact mean and variance (unit, category) of sums by class where the blocks' classes are shuffled within strata.

    ``total`` and ``square`` (unit, stratum) are the sums of the blocks' values and of their squares.
    """
    size = np.bincount(stratum, minlength=total.shape[1])[:, None]
    inside = np.zeros((total.shape[1], n_categories))
    np.add.at(inside, (stratum, position), 1.0)
    spread = square - total**2 / size.T
    return (total / size.T) @ inside, spread @ (inside * (size - inside) / (size * np.maximum(size - 1, 1)))


class _Halves:
    """Halves of the blocks, class by class. Shuffled with the classes, a block keeps the half of the block it stands for, so
    that every class keeps its numbers of images in both halves."""

    def __init__(self, blocks: Blocks, n_images: Array, random: np.random.Generator) -> None:
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
            some = slice(None) if self.valid[split].all() else self.valid[split]
            if self.valid[split].any():
                here = one[:, some] / self.n_first[split, some]
                there = (net - one)[:, some] / self.n_second[split, some]
                found += [measured_elsewhere(here, there, axis=1), measured_elsewhere(there, here, axis=1)]
        return np.mean(found, axis=0) if found else np.zeros(len(net))


class Blocks:
    """What is shuffled as a whole: the images of one class and cluster that are right (or wrong) at the baseline, or with
    ``whole`` all of them."""

    def __init__(self, images: PairedImages, *, whole: bool = False) -> None:
        cluster = np.repeat(np.arange(len(images.block_start)), images.block_size)
        code = cluster * 2 + (0 if whole else images.right)
        found, self.of_image = np.unique(code, return_inverse=True)
        self.size = size = np.bincount(self.of_image)
        self.position = images.block_position[found // 2]
        self.margin = np.bincount(self.of_image, weights=np.nan_to_num(images.baseline_margin)) / size
        self.n = len(found)
        # classes keep their numbers of right and wrong images, since blocks change places with their like only
        self.kind = np.unique(np.stack([found % 2, size]), axis=1, return_inverse=True)[1].reshape(-1)

    def strata(self, flipped: Array) -> Array:
        """Which blocks change places: of one kind, and of about the same baseline margin, told finely where units flip any."""
        stratum, first = np.zeros(self.n, np.int64), 0
        for kind in range(int(self.kind.max(initial=-1)) + 1):
            some = self.kind == kind
            margin = self.margin[some & flipped]
            shares = np.arange(1, MARGIN_STRATA) / MARGIN_STRATA
            # equal margins stay in one stratum: ranks would order them by class
            edges = np.quantile(margin, shares) if len(margin) else shares[:0]
            fine = np.searchsorted(edges, self.margin[some], side="right")
            joined = _joined(np.bincount(fine, minlength=len(edges) + 1))
            stratum[some] = first + joined[fine]
            first += int(joined.max()) + 1
        return stratum

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


def _joined(counts: Array) -> Array:
    """Number of the stratum of every fine one: neighbours joined until each has enough blocks, the last with those before."""
    joined, current, held = np.zeros(len(counts), np.int64), 0, 0
    for place, count in enumerate(counts):
        joined[place] = current
        held += count
        if held >= LEAST_IN_STRATUM:
            current, held = current + 1, 0
    return np.minimum(joined, max(current - 1, 0))


def _p_values(reached: Array, drawn: Array) -> Array:
    return np.where(reached >= ENOUGH, np.minimum(1.0, reached / np.maximum(drawn, 1)), (reached + 1) / (drawn + 1))


def _settled(reached: Array, drawn: Array) -> Array:
    """Units that Benjamini–Hochberg over the units rejects even with the upper limits of their p."""
    upper = scipy.special.betaincinv(reached + 1, np.maximum(drawn - reached, 1), SURE)
    return benjamini_hochberg(np.where(reached >= ENOUGH, _p_values(reached, drawn), upper)) <= ALPHA


def _hopeless(reached: Array, drawn: Array) -> Array:
    """Units that it does not reject even with the lower limits of the p of all."""
    lower = np.where(reached > 0, scipy.special.betaincinv(np.maximum(reached, 1), drawn - reached + 1, 1 - SURE), 0.0)
    return benjamini_hochberg(lower) > ALPHA


def shuffled_blocks(stratum: Array, n: int, random: np.random.Generator) -> Array:
    """Which block each block stands for, shuffled within strata, (shuffle, block)."""
    order = np.argsort(stratum, kind="stable")
    edges = np.append(np.flatnonzero(np.diff(stratum[order], prepend=-1)), len(order))
    # whole machine words are exchanged a third faster
    shuffled = np.tile(order.astype(np.int64), (n, 1))
    for start, stop in pairwise(edges):
        some = shuffled[:, start:stop]
        random.permuted(some, axis=1, out=some)
    return shuffled.astype(np.int32).take(np.argsort(order), axis=1)
