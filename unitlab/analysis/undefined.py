"""Arithmetic with numbers that may be undefined (NaN), such as the accuracy of a class without images."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ratio(above: Array, below: Array) -> Array:
    """``above / below``, without a warning where that is undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above / below)


def leading(values: Array) -> tuple[Array, Array]:
    """Largest defined value along the last axis and its place, the first among equals; NaN and −1 where none is defined."""
    defined = ~np.isnan(values)
    known, some = np.where(defined, values, -np.inf), defined.any(-1)
    return np.where(some, known.max(-1), np.nan), np.where(some, known.argmax(-1), -1).astype(np.int32)


def mean_of_defined(values: Array) -> Array:
    """Mean over the last axis of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    return np.where(finite.any(-1), ratio(np.where(finite, values, 0).sum(-1), finite.sum(-1)), np.nan)
