"""Damage while the units' axes are turned towards a random basis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import numpy as np

from unitlab.analysis.comparisons.direction_comparison import POWERS, random_bases
from unitlab.errors import UnitlabError
from unitlab.schema import VARIABLES
from unitlab.views.look import BLUE, FIGURE, ORANGE


def rotation(measure: str = "max_class_drop_crossfit", found: Mapping[float, Any] | None = None) -> hv.Overlay:
    """What removing a direction costs, from the units (α = 0) to the directions of random bases (α = 1): R^α.

    A dot is a basis, the mean over its directions; the line is the mean over bases, and its band the interval of the difference
    from the units, over other bases and other images.

    Parameters
    ----------
    measure
        One of those that `unitlab.compare_directions` has.
    found
        α → `unitlab.compare_directions` with ``unitlab.ablate(..., basis="random", power=α)``; default what is bundled.

    Returns
    -------
    holoviews.Overlay
        Drops in points of 100.

    Raises
    ------
    UnitlabError
        No such measure; no comparisons.

    Examples
    --------
    >>> from unitlab import plots
    >>> figure = plots.rotation("overall_drop")
    """
    found = {power: random_bases(power=power) for power in POWERS} if found is None else found
    if not found or not all("direction_value" in ds for ds in found.values()):
        raise UnitlabError("plots.rotation takes comparisons by their power, {0.5: unitlab.compare_directions(...)}")
    first = next(iter(found.values()))
    if measure not in first["measure"].values:
        raise UnitlabError(f"there is no measure {measure!r}; there are {', '.join(map(str, first['measure'].values))}")
    scale, unit = (100.0, "points") if "drop" in measure else (1.0, None)
    units = scale * float(first["unit_value"].sel(measure=measure).mean())
    dots, line = [], [(0.0, units, units, units)]
    for power, ds in sorted(found.items()):
        one = ds.sel(measure=measure)
        for name, value in zip(one["basis_name"].values, one["direction_value"].mean("direction").values, strict=True):
            dots.append((power, scale * float(value), str(name)))
        whole = one.sel(comparison="whole basis")
        mean, low, high = (units + scale * float(whole[f"difference_{part}"]) for part in ("mean", "low", "high"))
        line.append((float(power), mean, low, high))
    label = VARIABLES[measure].long_name if measure in VARIABLES else measure.replace("_", " ")
    across, up = hv.Dimension("alpha", label="part of the rotation, α"), hv.Dimension("value", label=label, unit=unit)
    band = hv.Area([(a, b, c) for a, _, b, c in line], [across], [hv.Dimension("low"), hv.Dimension("high")])
    overlay = (
        band.opts(color=ORANGE, alpha=0.2, line_alpha=0)
        * hv.Curve([(a, b) for a, b, _, _ in line], [across], [up]).opts(color=ORANGE, line_width=2)
        * hv.Points(dots, [across, up], ["basis"]).opts(color=BLUE, size=7, fill_alpha=0.6, tools=["hover"])
        * hv.Points([(0.0, units)], [across, up]).opts(color=ORANGE, marker="diamond", size=11)
    )
    values = np.array([*(value for row in line for value in row[1:]), *(value for _, value, _ in dots)])
    room = 0.1 * float(np.ptp(values) or 1)
    return overlay.opts(
        width=520, height=320, xticks=sorted({0.0, *map(float, found)}), xlim=(-0.05, 1.05), show_grid=True, show_legend=False,
        ylim=(values.min() - room, values.max() + room), title="From units to random directions", ylabel=up.pprint_label,
        **FIGURE,
    )  # fmt: skip
