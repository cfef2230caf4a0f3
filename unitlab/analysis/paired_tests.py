"""Distributions, exact paired tests, intervals of paired differences, and false-discovery control for discrete tests."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy

Array = np.ndarray[Any, Any]

ROUNDING = 1e-9  # two chances that differ by less of themselves are equal


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


@lru_cache(maxsize=65536)
def sign_flip_p_values(counts: tuple[int, ...]) -> Array:
    """Two-sided exact p-values P(|T| ≥ t) under random signs, for t = 0, 1, … up to the largest."""
    distribution = sign_flip_distribution(counts)
    p = np.minimum(1.0, 2 * distribution[len(distribution) // 2 :][::-1].cumsum()[::-1])
    p[0] = 1.0
    return p


def mcnemar(n_broken: Array, n_fixed: Array) -> Array:
    """Two-sided exact p-value of McNemar's test: 2·P(Bin(m, ½) ≤ min(broken, fixed)), at most 1."""
    m = (n_broken + n_fixed).astype(np.int64)
    least = np.minimum(n_broken, n_fixed).astype(np.int64)
    width = int(m.max(initial=0)) + 1
    pairs, where = np.unique(m * width + least, return_inverse=True)
    p = np.minimum(1.0, 2 * fair_binomial_cdf(pairs % width, pairs // width))
    return p[where].reshape(m.shape)


def mcnemar_p_values(m: int) -> Array:
    """Every p-value that McNemar's test can give where ``m`` images change."""
    return np.minimum(1.0, 2 * fair_binomial_cdf(np.arange(m // 2 + 1), np.array(m)))


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


def simultaneous(level: float, n: int) -> float:
    """Level of each of ``n`` intervals that all cover with ``level`` (Bonferroni)."""
    return 1 - (1 - level) / max(n, 1)


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


def discrete_benjamini_hochberg(p: Array, attainable: Iterable[tuple[Array, int]]) -> Array:
    """Adjusted p-values of exact tests that can attain few values only (Döhler, Durand and Roquain 2018, step-down: DBH-SD).

    ``attainable``: the p-values that a test can give under its null, each the chance of one as small, and how many tests are of
    that kind; all tests whose ``p`` is not NaN. With F the step functions of these chances, the i-th smallest p has the largest
    of Σ F(pⱼ)/(1 − F(pⱼ))/j over j ≤ i.
    """
    q, some = np.full(p.shape, np.nan), np.isfinite(p)
    values, where, n = np.unique(p[some], return_inverse=True, return_counts=True)
    # the sum rises where a test attains another value; equal chances of different tests differ by rounding
    rise = np.zeros(len(values) + 1)
    for chances, count in attainable:
        steps = np.unique(chances[chances < 1 - ROUNDING])
        odds = steps / (1 - steps)
        np.add.at(rise, np.searchsorted(values, steps * (1 - ROUNDING)), count * np.diff(odds, prepend=0.0))
    odds = np.where(values < 1 - ROUNDING, rise[:-1].cumsum(), np.inf)
    # of equal p-values the first has the largest quotient
    first = np.cumsum(n) - n + 1
    q[some] = np.minimum(np.maximum.accumulate(odds / first), 1.0)[where]
    return q
