"""The band of chance against scipy's running mean."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage

from unitlab.views.plots import null_band


@pytest.mark.parametrize("size", [1, 2, 5, 32, 45, 512])
def test_neighbours_are_averaged(size: int) -> None:
    random = np.random.default_rng(size)
    x, limit = random.normal(size=size), random.random(size)
    order = np.argsort(x)
    across, band = null_band(x, limit)
    np.testing.assert_array_equal(across, x[order])
    expected = scipy.ndimage.uniform_filter1d(limit[order], max(3, size // 8), mode="nearest")
    np.testing.assert_allclose(band, expected, rtol=1e-12)


def test_a_unit_without_a_value_leaves_the_others_theirs() -> None:
    x, limit = np.array([3.0, 1.0, np.nan, 2.0]), np.array([6.0, 6.0, 6.0, np.nan])
    across, band = null_band(x, limit)
    assert across.tolist() == [1.0, 3.0] and band.tolist() == [6.0, 6.0]
    assert [part.size for part in null_band(np.full(3, np.nan), limit[:3])] == [0, 0]
