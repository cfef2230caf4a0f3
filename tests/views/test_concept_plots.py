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


def test_lines_lead_from_units_to_the_classes_that_they_are_important_to() -> None:
    ds = simulated_study(20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,))
    found = unitlab.important_to(ds)
    figure = plots.important(ds)
    largest, sure, both = (layer for layer in figure if isinstance(layer, hv.Segments))
    pairs = [{(int(u), str(k)) for u, k in zip(layer["unit"], layer["class"], strict=True)} for layer in (largest, sure, both)]
    stacked = found.to_dataframe()
    for shown, rule in zip(
        pairs, ("among_largest and not damaged", "damaged and not among_largest", "damaged and among_largest"), strict=True
    ):
        assert shown == set(stacked.query(rule).index)
    assert (4, "class 2") in pairs[2] and not any(u == 7 for shown in pairs for u, _ in shown)
    drawn(figure)
    nothing = found.assign(among_largest=found.among_largest & False, damaged=found.damaged & False)
    drawn(plots.important(nothing))
