"""Accuracies along a curve, from its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unitlab.analysis.accuracies import accuracy_interval, balanced_accuracy, class_counts

__all__ = ["accuracy_curves"]

Array = np.ndarray[Any, Any]


def accuracy_curves(root: Mapping[str, Any], prediction: Array, *, own: bool, names: Sequence[str] = ()) -> dict[str, Array]:
    """Variables of `unitlab.schema.CURVE_VARIABLES` from predictions (order, k, image).

    ``root`` holds ``label``, ``n_images``, ``category`` and perhaps ``cluster``. With ``own``, the orders are those of the
    classes ``names``, and each class is told under its own.
    """
    label, n = np.asarray(root["label"], np.int64), np.asarray(root["n_images"])
    right, predicted = class_counts(label, prediction, len(n))
    balanced = balanced_accuracy(right, predicted, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_class = right / n
    cluster = root.get("cluster")
    low, high = (np.empty(prediction.shape[:2]) for _ in range(2))
    for number, rows in enumerate(prediction):
        low[number], high[number] = accuracy_interval(rows == label, cluster)
    defined = np.isfinite(balanced[0, 0])
    values = {
        "accuracy": right.sum(-1) / len(label),
        "accuracy_low": low,
        "accuracy_high": high,
        "mean_balanced_accuracy": balanced[..., defined].mean(-1) if defined.any() else np.full(prediction.shape[:2], np.nan),
        "class_accuracy": by_class.astype(np.float32),
        "balanced_accuracy": balanced.astype(np.float32),
    }
    if own:
        classes = [str(name) for name in root["category"]]
        place, at = np.arange(len(names)), [classes.index(name) for name in names]
        values["own_accuracy"], values["own_balanced_accuracy"] = by_class[place, :, at], balanced[place, :, at]
    return values
