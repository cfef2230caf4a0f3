"""Halves of the images, class by class and cluster by cluster: the cross-fitted maximum and the reliability."""

from __future__ import annotations

from typing import Any

import numpy as np

from unitlab.analysis import LEVEL
from unitlab.analysis.jackknife import (
    correlation_interval,
    fisher_z,
    image_groups,
    jackknife_variance,
    t_interval,
    variance_over_splits,
)
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import simultaneous
from unitlab.analysis.undefined import mean_of_defined, ratio

Array = np.ndarray[Any, Any]

SPLITS = 100
JACKKNIFE_SPLITS = 4  # of which the reliability is taken anew without each group of images


def halves(cluster: Array, position: Array, n_splits: int, random: np.random.Generator) -> Array:
    """Bool, (split, image): in the first half. Of each class half of the clusters, a cluster never divided.

    ``cluster`` numbers the clusters 0, 1, …; one that has images of several classes counts for the class of its first.
    An odd number of clusters gives the extra one to either half at random.
    """
    n_clusters = int(cluster.max(initial=-1)) + 1
    first = np.full(n_clusters, -1)
    first[cluster[::-1]] = position[::-1]
    order = np.argsort(first, kind="stable")
    ordered = first[order].astype(np.float64)
    sizes = np.bincount(first, minlength=int(first.max(initial=-1)) + 1)
    rank_start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.arange(n_clusters) - rank_start
    halved = np.empty((n_splits, len(cluster)), bool)
    for split in range(n_splits):
        shuffled = order[np.argsort(ordered + random.random(n_clusters))]
        offset = np.repeat(random.integers(0, 2, len(sizes)), sizes)
        half = np.empty(n_clusters, bool)
        half[shuffled] = (rank + offset) % 2 == 0
        halved[split] = half[cluster]
    return halved


def one_half(cluster: Array | None, position: Array, seed: int) -> Array:
    """Bool, (image,): in the first of two such halves; ``cluster`` any numbers, or None where images are independent."""
    number = np.arange(len(position)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    return halves(number, position, 1, np.random.default_rng(seed))[0]


def measured_elsewhere(chosen_on: Array, measured_on: Array, valid: Array | None = None, axis: int = 0) -> Array:
    """What the class along ``axis`` that leads ``chosen_on`` has in ``measured_on``, the mean over tied ones.

    Classes that are not ``valid`` take no part; NaN where none is.
    """
    known = chosen_on if valid is None else np.where(valid, chosen_on, -np.inf)
    tied = known == known.max(axis, keepdims=True)
    if valid is not None:
        tied &= valid
    return ratio(np.where(tied, measured_on, 0).sum(axis, dtype=np.float64), tied.sum(axis))


def crossfit(images: PairedImages, seed: int) -> Array:
    """Cross-fitted max class drop per unit: the class with the largest drop on one half (the mean over tied ones) measured on
    the other, both ways, mean over `SPLITS` splits."""
    splits = _Splits.at_random(images, seed)
    found = np.full(images.ds.sizes["unit"], np.nan)
    for units in images.unit_blocks(images.n_categories * SPLITS):
        found[units] = mean_of_defined(splits.crossfit(*splits.drops(units)))
    return found


def crossfit_and_reliability(
    images: PairedImages, seed: int, level: float = LEVEL
) -> tuple[dict[str, Array], dict[str, Array]]:
    """`crossfit`, and the split-half ``reliability`` of the unit × class drops, with their intervals over image clusters.

    Reliability: correlation of the halves' drops after removal of unit and class means, a class with the weight of its images,
    mean over splits, Spearman–Brown corrected. Intervals: delete-group jackknife, of the cross-fitted drops for all units at
    once (Bonferroni), of Fisher's z of that mean correlation.
    """
    splits = _Splits.at_random(images, seed)
    group = image_groups(images, np.random.default_rng(seed))
    fewer = splits.without_each(group)
    n_units, n_groups = images.ds.sizes["unit"], fewer.whole.shape[1]
    mean, whole, without = np.empty(n_units), np.empty(n_units), np.empty((n_groups, n_units))
    moments, moments_without = _Moments(splits.weight), _Moments(fewer.weight)
    for units in images.unit_blocks(images.n_categories * SPLITS):
        first, second = splits.drops(units)
        of_splits = splits.crossfit(first, second)
        mean[units], whole[units] = mean_of_defined(of_splits), mean_of_defined(of_splits[:, :JACKKNIFE_SPLITS])
        moments.add(first, second)
        first, second = fewer.drops(units)
        without[:, units] = mean_of_defined(fewer.crossfit(first, second).reshape(-1, n_groups, JACKKNIFE_SPLITS)).T
        moments_without.add(first, second)
    share = np.bincount(group, minlength=n_groups) / len(group)
    low, high, _ = t_interval(mean, [jackknife_variance(whole, without, share)], simultaneous(level, n_units))
    found = {"": mean, "_low": low, "_high": high}
    return (
        {f"max_class_drop_crossfit{end}": value for end, value in found.items()},
        _reliability(moments, moments_without, share),
    )


def _reliability(moments: _Moments, moments_without: _Moments, share: Array) -> dict[str, Array]:
    r, n_groups = moments.correlations(), len(share)
    without = moments_without.correlations().reshape(n_groups, JACKKNIFE_SPLITS)
    variance = variance_over_splits(fisher_z(r[:JACKKNIFE_SPLITS]), fisher_z(without), share)
    mean = mean_of_defined(r)
    low, high, _ = correlation_interval(mean, [variance])
    ends = {"reliability": mean, "reliability_low": low, "reliability_high": high}
    return {name: spearman_brown(value) for name, value in ends.items()}


def spearman_brown(r: Array) -> Array:
    """Correlation of two wholes of whose halves it is ``r``; −1 at least."""
    return np.maximum(ratio(2 * r, 1 + r), -1.0)


class _Splits:
    """Pairs of halves of the images, with the ``weight`` of each class (class, split).

    ``first`` (image, split) is one half of the images in column ``of_whole[split]`` of ``whole``; the second is the rest.
    """

    def __init__(self, images: PairedImages, first: Array, whole: Array, of_whole: Array) -> None:
        self.images, self.of_whole = images, of_whole
        self.first, self.whole = first.astype(np.float32), whole.astype(np.float32)
        ones = np.ones((1, len(first)), np.float32)
        self.n_first, self.n_second = (sums[:, 0] for sums in self._sums(ones))
        self.valid = (self.n_first > 0) & (self.n_second > 0)
        self.weight = self.valid * images.n_images[:, None].astype(float)

    @classmethod
    def at_random(cls, images: PairedImages, seed: int) -> _Splits:
        half = halves(images.cluster, images.position, SPLITS, np.random.default_rng(seed)).T
        return cls(images, half, np.ones((len(half), 1)), np.zeros(SPLITS, np.int64))

    def without_each(self, group: Array) -> _Splits:
        """The first splits without each group of images, (group, split) on the last axis."""
        kept = group[:, None] != np.arange(int(group.max()) + 1)
        first = (kept[:, :, None] * self.first[:, None, :JACKKNIFE_SPLITS]).reshape(len(group), -1)
        return _Splits(self.images, first, kept, np.repeat(np.arange(kept.shape[1]), JACKKNIFE_SPLITS))

    def drops(self, units: slice) -> tuple[Array, Array]:
        """(class, unit, split), of both halves; 0 for a class that has no image in one."""
        first, second = self._sums(self.images.flips(units).astype(np.float32))
        for net, n in ((first, self.n_first), (second, self.n_second)):
            net *= (self.valid / np.maximum(n, 1)).astype(np.float32)[:, None]
        return first, second

    def _sums(self, values: Array) -> tuple[Array, Array]:
        """(class, row, split): sums of values (row, image) over both halves."""
        shape = (self.images.n_categories, len(values))
        first, whole = (np.zeros((*shape, of.shape[1]), np.float32) for of in (self.first, self.whole))
        for k, some in self.images.class_slices():
            np.matmul(values[:, some], self.first[some], out=first[k])
            np.matmul(values[:, some], self.whole[some], out=whole[k])
        second = whole[:, :, self.of_whole]
        second -= first
        return first, second

    def crossfit(self, first: Array, second: Array) -> Array:
        """(unit, split); NaN for a split without a class that has images in both halves."""
        in_both = None if self.valid.all() else self.valid[:, None]
        return (measured_elsewhere(first, second, in_both) + measured_elsewhere(second, first, in_both)) / 2


class _Moments:
    """Sums from which the correlation of doubly centred drops follows, split by split.

    With class weights w, x and y less their weighted means over classes and their means over units, plus the mean of all
    (U units, W the sum of the weights; R the weighted sums over classes, C the sums over units, T that of R over units):
    Σ wxy − Σ RxRy/W − Σ wCxCy/U + TxTy/(UW). So no drop is kept, and units come in blocks.
    """

    def __init__(self, weight: Array) -> None:
        n_categories, n_splits = weight.shape
        self.root = np.sqrt(weight).astype(np.float32)
        self.total, self.n_valid = weight.sum(0), (weight > 0).sum(0)
        self.products = np.zeros((3, n_splits))  # xx, xy, yy
        self.by_unit = np.zeros((3, n_splits))
        self.columns = np.zeros((2, n_categories, n_splits))
        self.n_units = 0

    def add(self, x: Array, y: Array) -> None:
        """Drops (class, unit, split); they are weighted in place."""
        for drops in (x, y):
            drops *= self.root[:, None]
        rows = [np.einsum("kus,ks->us", drops, self.root, dtype=np.float64, casting="same_kind") for drops in (x, y)]
        for place, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
            left, right = (x, y)[a], (x, y)[b]
            self.products[place] += np.einsum("kus,kus->s", left, right, dtype=np.float64, casting="same_kind")
            self.by_unit[place] += (rows[a] * rows[b]).sum(0)
        self.columns += np.stack([x.sum(1, dtype=np.float64), y.sum(1, dtype=np.float64)])
        self.n_units += x.shape[1]

    def correlations(self) -> Array:
        """(split,); NaN where a half varies in nothing but unit and class means."""
        if self.n_units < 2 or self.n_valid.min() < 2:
            return np.full(len(self.total), np.nan)
        sums = (self.columns * self.root).sum(1)
        centred = []
        for place, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
            by_class = (self.columns[a] * self.columns[b]).sum(0) / self.n_units
            grand = sums[a] * sums[b] / (self.n_units * self.total)
            centred.append(self.products[place] - self.by_unit[place] / self.total - by_class + grand)
        xx, xy, yy = centred
        least = 1e-12 * self.total
        return np.where((xx > least) & (yy > least), xy / np.sqrt(np.maximum(xx * yy, 1e-300)), np.nan)
