"""Distributions, exact paired tests, intervals of paired differences, and false-discovery control for discrete tests."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy

from unitlab.analysis import ALPHA

Array = np.ndarray[Any, Any]


def student_quantile(probability: float, degrees: Any) -> Any:
    """t with P(T ≤ t) = ``probability``, for each number of degrees of freedom."""
    return scipy.special.stdtrit(degrees, probability)


def student_tail(t: Array, degrees: Array | int) -> Array:
    """P(T > t)."""
    return np.asarray(scipy.special.stdtr(degrees, -t))


def fair_binomial_cdf(k: Array, m: Array) -> Array:
    """P(Bin(m, ½) ≤ k) of whole numbers; 0 below zero, 1 from m on."""
    below = scipy.special.betainc(np.maximum(m - k, 1), np.maximum(k, 0) + 1, 0.5)
    return np.where(k < 0, 0.0, np.where(k >= m, 1.0, below))


def fair_binomial_pmf(k: Array, m: int) -> Array:
    """P(Bin(m, ½) = k) for 0 ≤ k ≤ m: 1/((m + 1)·B(m − k + 1, k + 1)) ways, each of chance 2^−m."""
    return np.exp(-np.log1p(m) - scipy.special.betaln(m - k + 1, k + 1) - m * np.log(2))


@lru_cache(maxsize=65536)
def sign_flip_distribution(counts: tuple[int, ...]) -> Array:
    """Distribution of Σ ±a over ``counts[a − 1]`` sums of size a with random signs; entry t + Σ a·counts is P(T = t)."""
    total = np.ones(1)
    for size, count in enumerate(counts, start=1):
        if count:
            one = np.zeros(2 * size * count + 1)
            one[:: 2 * size] = fair_binomial_pmf(np.arange(count + 1), count)
            total = np.convolve(total, one)
    return total


def sign_flip_p_value(counts: tuple[int, ...], observed: int) -> float:
    """Two-sided exact p-value: P(|T| ≥ |observed|) under random signs."""
    if observed == 0:
        return 1.0
    distribution = sign_flip_distribution(counts)
    return min(1.0, float(2 * distribution[len(distribution) // 2 + abs(observed) :].sum()))


def mcnemar(n_broken: Array, n_fixed: Array) -> Array:
    """Two-sided exact p-value of McNemar's test: 2·P(Bin(m, ½) ≤ min(broken, fixed)), at most 1."""
    m = (n_broken + n_fixed).astype(np.int64)
    least = np.minimum(n_broken, n_fixed).astype(np.int64)
    width = int(m.max(initial=0)) + 1
    pairs, where = np.unique(m * width + least, return_inverse=True)
    p = np.minimum(1.0, 2 * fair_binomial_cdf(pairs % width, pairs // width))
    return p[where].reshape(m.shape)


def bonett_price(n_broken: Array, n_fixed: Array, n: Array, level: float, degrees: Array | None = None) -> tuple[Array, Array]:
    """Interval of (broken − fixed)/n after Bonett and Price (2012); Student's t in place of z where ``degrees`` are given."""
    with np.errstate(invalid="ignore", divide="ignore"):
        broken, fixed = (n_broken + 1) / (n + 2), (n_fixed + 1) / (n + 2)
        centre = broken - fixed
        error = np.sqrt((broken + fixed - centre**2) / (n + 2))
        tail = (1 + level) / 2
        width = (NormalDist().inv_cdf(tail) if degrees is None else student_quantile(tail, np.maximum(degrees, 1))) * error
    empty = ~(n > 0)
    low, high = np.maximum(centre - width, -1.0), np.minimum(centre + width, 1.0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def can_be_rejected(least_p: Array, alpha: float = ALPHA) -> Array:
    """Tests that can be rejected at all: p* ≤ α/K, K the smallest that at most K tests satisfy (Tarone; Gilbert 2005)."""
    ordered = np.sort(least_p[np.isfinite(least_p)])
    k = np.arange(1, len(ordered) + 1)
    enough = np.searchsorted(ordered, alpha / k, side="right") <= k
    if not enough.any():
        return np.zeros(least_p.shape, bool)
    return np.asarray(least_p <= alpha / k[np.argmax(enough)])


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values (Benjamini and Hochberg 1995): the least of p·n/rank over this and all larger ones. NaN stays NaN and
    is not counted."""
    q, some = np.full(p.shape, np.nan), np.isfinite(p)
    known = p[some]
    order = np.argsort(known)
    scaled = known[order] * (len(known) / np.arange(1, len(known) + 1))
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    q[some] = adjusted
    return q
