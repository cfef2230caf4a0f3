"""Bits that an activation has about the class, less what chance gives."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from unitlab.analysis.specificity import shuffled_blocks
from unitlab.errors import UnitlabError

Array = np.ndarray[Any, Any]

QUANTILES = 10
SHUFFLES = 20  # of clusters, whose mean has no closed form


def mutual_information(activation: Array, label: Array, cluster: Array | None = None) -> float:
    """Bits that an activation, in a zero bin and ten quantile bins, has about the class, less their mean under permuted labels.

    Parameters
    ----------
    activation
        One value an image.
    label
        One class, 0 or more, an image.
    cluster
        Images with one number are permuted together: their labels go to a cluster of the same size (20 shuffles). Without,
        the mean is exact.

    Raises
    ------
    UnitlabError
        They have different lengths, or none.
    """
    if len(activation) != len(label) or not len(label) or (cluster is not None and len(cluster) != len(label)):
        raise UnitlabError(
            f"mutual information takes as many activations as labels, at least one; given {len(activation)}, {len(label)}"
        )
    bins = activation_bins(activation)
    return float(plug_in_information(bins, label)[0]) - ChanceInformation(label, cluster).of(bins)


def activation_bins(activation: Array) -> Array:
    """0 for zero and below, else one of ten quantile bins of what is above."""
    positive = activation > 0
    edges = np.quantile(activation[positive], np.arange(1, QUANTILES) / QUANTILES) if positive.any() else np.empty(0)
    return np.where(positive, 1 + np.searchsorted(edges, activation, side="right"), 0)


def plug_in_information(bins: Array, label: Array, group: Array | None = None, n_groups: int = 0) -> Array:
    """Plug-in estimate from counts, in bits: of all images, then without each group."""
    n_labels, some = int(label.max()) + 1, np.zeros(len(label), np.int64) if group is None else group
    joint = _entropies(bins * n_labels + label, (QUANTILES + 1) * n_labels, some, n_groups)
    return _entropies(bins, QUANTILES + 1, some, n_groups) + _entropies(label, n_labels, some, n_groups) - joint


def _entropies(place: Array, n_places: int, group: Array, n_groups: int) -> Array:
    """Entropy in bits of counts of ``place`` (image,): of all images, then without each group."""
    whole, n = np.bincount(place, minlength=n_places), len(place)
    table = _n_log_n(n)
    total = table[whole].sum()
    if not n_groups:
        return np.array([np.log2(n) - total / n])
    cell = place * n_groups + group
    # a place changes by as much as its images of the group, each of which is counted with its share
    held, around = np.bincount(cell, minlength=n_places * n_groups)[cell], whole[place]
    change = np.bincount(group, weights=(table[around - held] - table[around]) / held, minlength=n_groups)
    left = n - np.bincount(group, minlength=n_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        without = np.where(left > 0, np.log2(left) - (total + change) / left, np.nan)
    return np.append(np.log2(n) - total / n, without)


@lru_cache(maxsize=4)
def _n_log_n(n: int) -> Array:
    table = np.arange(n + 1, dtype=np.float64)
    table[1:] *= np.log2(table[1:])
    return table


class ChanceInformation:
    """Mean of the plug-in estimate when labels are permuted: of images exactly, of clusters from `SHUFFLES` shuffles."""

    def __init__(self, label: Array, cluster: Array | None = None) -> None:
        self.label, self.sizes = label, np.unique(np.bincount(label), return_counts=True)
        self.shuffled: Array | None = None
        if cluster is not None and len(np.unique(cluster)) < len(label):
            self.shuffled = _shuffled_labels(label, cluster)

    def of(self, bins: Array) -> float:
        """In bits."""
        if self.shuffled is not None:
            return float(np.mean([plug_in_information(bins, label)[0] for label in self.shuffled]))
        n = len(bins)
        of_bins, times = np.unique(np.bincount(bins), return_counts=True)
        joint = sum(
            int(a_times) * int(b_times) * _mean_n_log_n(n, int(a), int(b))
            for a, a_times in zip(of_bins, times, strict=True)
            for b, b_times in zip(*self.sizes, strict=True)
        )
        alone = sum(
            float((count * size * np.log2(np.maximum(size, 1))).sum()) for size, count in ((of_bins, times), self.sizes)
        )
        return float(np.log2(n) + (joint - alone) / n)


@lru_cache(maxsize=65536)
def _mean_n_log_n(n: int, a: int, b: int) -> float:
    """E[x log2 x] of the number x of images in a bin of ``a`` and a class of ``b`` among ``n``: hypergeometric."""
    least, most = max(1, a + b - n), min(a, b)
    if most < least:
        return 0.0
    x = np.arange(least, most + 1)
    factorial = _log_factorials(n)
    chance = factorial[a] + factorial[n - a] + factorial[b] + factorial[n - b] - factorial[n]
    chance = chance - factorial[x] - factorial[a - x] - factorial[b - x] - factorial[n - a - b + x]
    return float((np.exp(chance) * x * np.log2(x)).sum())


@lru_cache(maxsize=4)
def _log_factorials(n: int) -> Array:
    return np.append(0.0, np.log(np.arange(1, n + 1)).cumsum())


def _shuffled_labels(label: Array, cluster: Array) -> Array:
    """(shuffle, image): the clusters' labels dealt anew among clusters of the same size."""
    order = np.argsort(cluster, kind="stable")
    number = np.unique(cluster, return_inverse=True)[1]
    size = np.bincount(number)
    start = np.cumsum(size) - size
    within = np.arange(len(label)) - start[number[order]]
    taken = shuffled_blocks(size, SHUFFLES, np.random.default_rng(0))
    found = np.empty((SHUFFLES, len(label)), label.dtype)
    found[:, order] = label[order][start[taken[:, number[order]]] + within]
    return found
