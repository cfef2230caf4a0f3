"""The figure of damage against the part of a rotation: its points are what the comparisons hold."""

from __future__ import annotations

import numpy as np
import pytest

import unitlab
from unitlab import UnitlabError
from unitlab.analysis.comparisons.direction_comparison import POWERS


@pytest.mark.parametrize("measure", ["max_class_drop_crossfit", "overall_drop", "removed_energy"])
def test_points_line_and_band_are_those_of_the_comparisons(measure: str) -> None:
    found = {power: unitlab.random_bases(power=power) for power in POWERS}
    scale = 1 if measure == "removed_energy" else 100
    band, line, dots, _ = unitlab.plots.rotation(measure)
    at_zero = scale * found[1].unit_value.sel(measure=measure).mean().item()
    assert line["alpha"].tolist() == [0, *POWERS] and line["value"][0] == pytest.approx(at_zero)
    for place, (power, ds) in enumerate(found.items(), 1):
        of_bases = scale * ds.direction_value.sel(measure=measure).mean("direction").values
        np.testing.assert_allclose(sorted(dots["value"][dots["alpha"] == power]), sorted(of_bases))
        # the mean of the bases' differences from the units is the difference of the means
        assert line["value"][place] == pytest.approx(of_bases.mean(), rel=1e-6)
        whole = ds.sel(measure=measure, comparison="whole basis")
        assert band["low"][place] == pytest.approx(at_zero + scale * whole.difference_low.item())
        assert band["high"][place] == pytest.approx(at_zero + scale * whole.difference_high.item())
        assert all(f"power-{power:g}" in str(name) or power == 1 for name in ds.basis_name.values)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UnitlabError, match="there is no measure 'drop'"):
        unitlab.plots.rotation("drop")
    for found in ({}, {0.5: unitlab.load("vgg_fashion")}):
        with pytest.raises(UnitlabError, match="comparisons by their power"):
            unitlab.plots.rotation(found=found)
    with pytest.raises(UnitlabError, match=r"power=0.3 is not bundled; there are 0.25, 0.5, 0.75, 1"):
        unitlab.random_bases(power=0.3)
