"""Quantiles, tails and adjusted p-values from ``scipy.special``.

``scipy.stats`` has them too, and takes as long to import as a small study takes to be measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

__all__ = ["benjamini_hochberg", "fair_binomial_cdf", "fair_binomial_pmf", "student_quantile", "student_tail"]

Array = np.ndarray[Any, Any]


def student_quantile(probability: float, degrees: Any) -> Any:
    """t with P(T ≤ t) = ``probability``, for each number of degrees of freedom."""
    return scipy.special.stdtrit(degrees, probability)


def student_tail(t: Array, degrees: Array | int) -> Array:
    """P(T > t)."""
    return scipy.special.stdtr(degrees, -t)


def fair_binomial_cdf(k: Array, m: Array) -> Array:
    """P(Bin(m, ½) ≤ k) of whole numbers; 0 below zero, 1 from m on."""
    below = scipy.special.betainc(np.maximum(m - k, 1), np.maximum(k, 0) + 1, 0.5)
    return np.where(k < 0, 0.0, np.where(k >= m, 1.0, below))


def fair_binomial_pmf(k: Array, m: int) -> Array:
    """P(Bin(m, ½) = k) for 0 ≤ k ≤ m: 1/((m + 1)·B(m − k + 1, k + 1)) ways, each of chance 2^−m."""
    return np.exp(-np.log1p(m) - scipy.special.betaln(m - k + 1, k + 1) - m * np.log(2))


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values (Benjamini and Hochberg 1995): the least of p·n/rank over this and all larger ones."""
    order = np.argsort(p)
    scaled = p[order] * (len(p) / np.arange(1, len(p) + 1))
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q
