"""Quantiles, tails and adjusted p-values against ``scipy.stats``, and that opening a study does not need it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from unitlab.analysis.paired_tests import (
    benjamini_hochberg,
    fair_binomial_cdf,
    fair_binomial_pmf,
    student_quantile,
    student_tail,
)


@pytest.mark.parametrize("m", [0, 1, 2, 7, 50, 1000, 30_000])
def test_fair_coins(m: int) -> None:
    k = np.unique(np.linspace(-1, m + 1, 60).astype(int))
    np.testing.assert_allclose(fair_binomial_cdf(k, np.full(len(k), m)), scipy.stats.binom.cdf(k, m, 0.5), rtol=1e-12)
    k = np.arange(m + 1)
    np.testing.assert_allclose(fair_binomial_pmf(k, m), scipy.stats.binom.pmf(k, m, 0.5), rtol=1e-10, atol=1e-300)


def test_student() -> None:
    degrees = np.array([1, 2, 5, 40, 10_000])
    np.testing.assert_allclose(student_quantile(0.975, degrees), scipy.stats.t.ppf(0.975, degrees), rtol=1e-12)
    for t in (0.0, 0.3, 2.0, 9.0, np.inf, np.nan):
        np.testing.assert_allclose(student_tail(np.float64(t), degrees), scipy.stats.t.sf(t, degrees), rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 500])
def test_adjusted_p_values(size: int) -> None:
    p = np.random.default_rng(0).random(size).round(2)
    np.testing.assert_array_equal(benjamini_hochberg(p), scipy.stats.false_discovery_control(p))


def test_a_bundled_study_opens_without_scipy_stats() -> None:
    pytest.importorskip("anywidget")
    code = "import sys, unitlab; unitlab.explore('vgg_emoji'); print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
