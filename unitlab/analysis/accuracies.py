"""Accuracies from predictions: over all images, by class, and balanced, with intervals that respect clusters."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from unitlab.analysis.distributions import student_quantile

__all__ = ["accuracy_interval", "balanced_accuracy", "class_counts"]

Array = np.ndarray[Any, Any]


def class_counts(label: Array, prediction: Array, n_categories: int) -> tuple[Array, Array]:
    """Images of each class that are right, and images predicted as it, (…, category), from ``prediction`` (…, image)."""
    rows = prediction.reshape(-1, len(label))
    right, predicted = (np.empty((len(rows), n_categories), np.int32) for _ in range(2))
    for place, row in enumerate(rows):
        right[place] = np.bincount(label[row == label], minlength=n_categories)
        predicted[place] = np.bincount(row, minlength=n_categories)
    shape = (*prediction.shape[:-1], n_categories)
    return right.reshape(shape), predicted.reshape(shape)


def balanced_accuracy(right: Array, predicted: Array, n_images: Array) -> Array:
    """(Recall + true negative rate)/2 of each class against all others, from counts (…, category); NaN where undefined."""
    others = n_images.sum() - n_images
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (right / n_images + 1 - (predicted - right) / others) / 2
    return np.where((n_images > 0) & (others > 0), found, np.nan)


def accuracy_interval(right: Array, cluster: Array | None, level: float = 0.95) -> tuple[Array, Array]:
    """Limits of the share of true entries along the last axis, (…, image) → (…).

    Wilson (1927); where images come in clusters (``cluster``, numbers), with the number of images divided by the design
    effect, and Student's t over clusters.
    """
    n = right.shape[-1]
    share = right.mean(-1)
    effective, z = np.full(share.shape, float(n)), NormalDist().inv_cdf((1 + level) / 2)
    if cluster is not None and len(np.unique(cluster)) < n:
        number = np.unique(cluster, return_inverse=True)[1]
        size = np.bincount(number)
        rows = right.reshape(-1, n)
        sums = np.stack([np.bincount(number, row, minlength=len(size)) for row in rows]).reshape(*share.shape, len(size))
        spread = np.square(sums - share[..., None] * size).sum(-1) * len(size) / max(len(size) - 1, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = np.where((share > 0) & (share < 1), spread / (n * share * (1 - share)), size.max())
        effective, z = n / np.maximum(effect, 1), float(student_quantile((1 + level) / 2, max(len(size) - 1, 1)))
    centre = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)
