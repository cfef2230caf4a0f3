"""Halves of the images, class by class and cluster by cluster: the cross-fitted maximum and the reliability."""

from __future__ import annotations

from typing import Any

import numpy as np

from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.undefined import ratio

Array = np.ndarray[Any, Any]

SPLITS = 100


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


def crossfit_and_reliability(images: PairedImages, seed: int) -> tuple[Array, float]:
    """Cross-fitted max class drop per unit, and the split-half reliability of the unit × class drops.

    The class with the largest drop on one half (the mean over tied ones) is measured on the other, both ways, over
    `SPLITS` splits. Reliability: Pearson correlation of the halves' drops after removal of unit and class means, mean
    over splits, Spearman–Brown corrected.
    """
    half = halves(images.cluster, images.position, SPLITS, np.random.default_rng(seed))
    n_first = np.stack([np.bincount(images.position[one], minlength=images.n_categories) for one in half], 1)
    n_second = images.n_images[:, None] - n_first
    valid = (n_first > 0) & (n_second > 0)
    usable = valid.any(0)
    in_both = None if valid.all() else valid[:, None]
    member = half.T.astype(np.float32)
    crossfit = np.full(images.ds.sizes["unit"], np.nan)
    moments = _Moments(images.n_categories, SPLITS)
    for units in images.unit_blocks(images.n_categories * SPLITS):
        flips = images.flips(units).astype(np.float32)
        net = np.zeros((images.n_categories, len(flips), SPLITS), np.float32)
        total = np.zeros((images.n_categories, len(flips), 1), np.float32)
        for k, some in images.class_slices():
            np.matmul(flips[:, some], member[some], out=net[k])
            total[k, :, 0] = flips[:, some].sum(1)
        first = net / np.maximum(n_first, 1)[:, None].astype(np.float32)
        second = np.subtract(total, net, out=net)
        second /= np.maximum(n_second, 1)[:, None].astype(np.float32)
        if in_both is not None:
            first *= in_both
            second *= in_both
        if usable.any():
            onward = measured_elsewhere(first, second, in_both)[:, usable].mean(1)
            back = measured_elsewhere(second, first, in_both)[:, usable].mean(1)
            crossfit[units] = (onward + back) / 2
        moments.add(first, second)
    return crossfit, moments.reliability(valid.sum(0))


class _Moments:
    """Sums from which the correlation of doubly centred drops follows, split by split.

    With x and y less their means over units and over classes, plus the mean of all (U units, K classes; R the sums over the
    classes, C those over the units, T those over both): Σ xy − Σ RxRy/K − Σ CxCy/U + TxTy/(UK). So no drop is kept, and units
    come in blocks. A class that has no image in a half is zero in both and is not counted in K.
    """

    def __init__(self, n_categories: int, n_splits: int) -> None:
        self.products = np.zeros((3, n_splits))  # xx, xy, yy
        self.by_unit = np.zeros((3, n_splits))
        self.columns = np.zeros((2, n_categories, n_splits))
        self.n_units = 0

    def add(self, x: Array, y: Array) -> None:
        rows = [x.sum(0, dtype=np.float64), y.sum(0, dtype=np.float64)]
        for place, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
            left, right = (x, y)[a], (x, y)[b]
            self.products[place] += np.einsum("kus,kus->s", left, right, dtype=np.float64, casting="same_kind")
            self.by_unit[place] += (rows[a] * rows[b]).sum(0)
        self.columns += np.stack([x.sum(1, dtype=np.float64), y.sum(1, dtype=np.float64)])
        self.n_units += x.shape[1]

    def reliability(self, n_valid: Array) -> float:
        if self.n_units < 2 or n_valid.min() < 2:
            return float("nan")
        centred = []
        for place, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
            by_class = (self.columns[a] * self.columns[b]).sum(0) / self.n_units
            grand = self.columns[a].sum(0) * self.columns[b].sum(0) / (self.n_units * n_valid)
            centred.append(self.products[place] - self.by_unit[place] / n_valid - by_class + grand)
        xx, xy, yy = centred
        with np.errstate(invalid="ignore", divide="ignore"):
            r = np.where((xx > 1e-12) & (yy > 1e-12), xy / np.sqrt(np.maximum(xx * yy, 1e-300)), np.nan)
        if np.isnan(r).all():
            return float("nan")
        mean = float(np.nanmean(r))
        return 2 * mean / (1 + mean)
