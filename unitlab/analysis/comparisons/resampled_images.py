"""Importances of units on resampled images: a bootstrap by image clusters."""

from __future__ import annotations

from typing import Any

import numpy as np

from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.splits import halves, measured_elsewhere
from unitlab.analysis.undefined import ratio

Array = np.ndarray[Any, Any]

SPLITS = 10  # fewer than of the cross-fitted maximum itself


def bootstrap_weights(images: PairedImages, n: int, random: np.random.Generator) -> Array:
    """(image, sample): how often each image is in a sample, with replacement, of the clusters of each class."""
    first = np.full(int(images.cluster.max()) + 1, -1)
    first[images.cluster[::-1]] = images.position[::-1]
    times = np.zeros((len(first), n), np.float32)
    for k in np.unique(first):
        members = np.flatnonzero(first == k)
        times[members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), n).T
    return times[images.cluster]


def resampled_drops(images: PairedImages, weights: Array, seed: int) -> tuple[Array, Array, Array]:
    """Overall drop, max class drop and the same cross-fitted, (sample, unit) each, where images count ``weights`` (image,
    sample) times; copies of an image stay in one half."""
    flips = images.flips(slice(None)).astype(np.float32)
    ones = np.ones((1, len(weights)), np.float32)

    def sums(values: Array, of: Array) -> Array:
        """(category, row of values, sample)."""
        found = np.zeros((images.n_categories, len(values), of.shape[1]), np.float32)
        for k, some in images.class_slices():
            np.matmul(values[:, some], of[some], out=found[k])
        return found

    net, n = sums(flips, weights), sums(ones, weights)
    largest = np.where(n > 0, ratio(net, n), -np.inf).max(0).T
    total, count = np.zeros(net.shape[1:]), np.zeros(net.shape[1:])
    for half in halves(images.cluster, images.position, SPLITS, np.random.default_rng(seed)):
        in_first = weights * half[:, None]
        first, n_first = sums(flips, in_first), sums(ones, in_first)
        valid = ((n_first > 0) & (n > n_first))[:, 0]
        one, other = ratio(first, n_first), ratio(net - first, n - n_first)
        for here, there in ((one, other), (other, one)):
            value = measured_elsewhere(here, there, valid[:, None])
            total += np.nan_to_num(value)
            count += np.isfinite(value)
    return ratio(net.sum(0, dtype=float), n.sum(0)).T, largest, ratio(total, count).T
