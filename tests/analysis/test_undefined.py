"""Undefined numbers take no part: they neither lead nor are averaged, and nothing warns of them."""

from __future__ import annotations

import numpy as np
from scipy import stats

from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.analysis.splits import halves, measured_elsewhere, one_half
from unitlab.analysis.undefined import leading, mean_of_defined, ratio

NAN = np.nan


def test_the_leading_value_is_the_first_of_the_largest_that_are_defined() -> None:
    largest, place = leading(np.array([[NAN, 1.0, 3.0, 3.0], [-2.0, NAN, -1.0, NAN], [NAN] * 4]))
    np.testing.assert_array_equal(largest, [3, -1, NAN])
    assert place.tolist() == [2, 2, -1]


def test_a_mean_is_over_what_is_finite() -> None:
    values = np.array([[1.0, NAN, 3.0], [NAN, NAN, NAN], [np.inf, 4.0, NAN]])
    np.testing.assert_array_equal(mean_of_defined(values), [2, NAN, 4])


def test_a_ratio_without_images_warns_of_nothing() -> None:
    np.testing.assert_array_equal(ratio(np.array([1, 0]), np.array([2, 0])), [0.5, NAN])


def test_q_of_undefined_tests_is_undefined_and_they_do_not_count() -> None:
    p = np.array([[0.01, NAN, 0.2], [0.03, 0.03, NAN]])
    q, known = benjamini_hochberg(p), np.isfinite(p)
    np.testing.assert_allclose(q[known], stats.false_discovery_control(p[known]))
    assert np.isnan(q[~known]).all() and np.isnan(benjamini_hochberg(np.array([NAN]))).all()


def test_the_class_chosen_here_is_measured_there() -> None:
    here = np.array([[0.5, 0.2], [0.5, 0.4], [0.1, 0.9], [NAN, 0.0]])
    there = np.array([[1.0, 1.0], [3.0, 2.0], [9.0, 5.0], [7.0, NAN]])
    valid = np.array([[True, True], [True, True], [True, False], [False, False]])
    # a tie of the first two is their mean; the third class leads but is not valid
    np.testing.assert_array_equal(measured_elsewhere(here, there, valid), [2, 2])
    np.testing.assert_array_equal(measured_elsewhere(here[:3], there[:3]), [2, 5])
    np.testing.assert_array_equal(measured_elsewhere(here[:3].T, there[:3].T, axis=1), [2, 5])
    assert np.isnan(measured_elsewhere(here, there, np.zeros_like(valid))).all()


def test_one_half_takes_any_numbers_of_clusters() -> None:
    position = np.arange(40) % 4
    cluster = np.repeat(np.arange(20), 2)
    expected = halves(cluster, position, 1, np.random.default_rng(3))[0]
    np.testing.assert_array_equal(one_half(7 * cluster + 5, position, 3), expected)
    alone = halves(np.arange(40), position, 1, np.random.default_rng(3))[0]
    np.testing.assert_array_equal(one_half(None, position, 3), alone)
