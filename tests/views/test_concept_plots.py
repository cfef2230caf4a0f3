"""Figures of what a unit is hold the numbers of the datasets, and render."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_study import simulated_study

import unitlab

hv = pytest.importorskip("holoviews")

from unitlab import plots  # noqa: E402


def drawn(figure: object) -> object:
    return hv.renderer("bokeh").get_plot(figure).state


def test_partners_stand_over_all_other_pairs() -> None:
    a = simulated_study(9, 6, 240, 3, dead_units=(2,))
    b = simulated_study(7, 6, 240, 3)
    found = unitlab.match(a, b)
    figure = plots.partners(found)
    others, above, below = figure
    assert len(others) == 8 * 7 - 7 and len(above) + len(below) == 7
    assert len(above) == int((found.partner_excess > 0).sum())
    rows = {int(u): (int(v), r) for part in (above, below) for u, v, r in
            zip(part["unit"], part["partner"], part["activation_correlation"], strict=True)}  # fmt: skip
    assert {u: v for u, (v, _) in rows.items()} == {u: int(v) for u, v in enumerate(found.partner.values) if v >= 0}
    np.testing.assert_allclose([rows[u][1] for u in sorted(rows)], found.partner_correlation.dropna("unit"))
    drawn(figure)
    with pytest.raises(unitlab.UnitlabError, match=r"takes what unitlab.match"):
        plots.partners(a)


def test_names_of_units_are_in_the_hover() -> None:
    ds = unitlab.concepts.labelled(simulated_study(9, 6, 240, 3), {2: "snow"})
    figure = plots.units(ds)
    rows = {
        u: name
        for layer in figure
        if isinstance(layer, hv.Points)
        for u, name in zip(layer["unit"], layer["name"], strict=True)
    }
    assert rows[2] == "snow" and len(rows) == 9
    drawn(figure)
