"""What chance alone stays below, as a band along another variable."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def null_band(x: Array, limit: Array) -> tuple[Array, Array]:
    """``x`` in order, and over it the mean of the limits of neighbouring units.

    Each unit's limit comes from few shuffles; neighbours along x have nearly the same. At the ends the last one counts
    for those beyond.
    """
    some = np.flatnonzero(np.isfinite(x) & np.isfinite(limit))
    order = some[np.argsort(x[some], kind="stable")]
    if not len(order):
        return x[order], limit[order]
    size = max(3, len(order) // 8)
    padded = np.pad(limit[order], (size // 2, size - 1 - size // 2), mode="edge")
    return x[order], np.lib.stride_tricks.sliding_window_view(padded, size).mean(1)
