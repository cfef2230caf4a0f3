"""Networks that differ in how they were trained: every seed, and the mean with its interval."""

from __future__ import annotations

import holoviews as hv
import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.comparisons.training_choices import over_live_units, student_t_interval
from unitlab.errors import UnitlabError
from unitlab.views.look import BLUE, FIGURE, ORANGE


def seeds(ds: xr.Dataset, name: str, *, level: float = LEVEL) -> hv.Overlay:
    """A measure of every network, by how it was trained: a dot a seed, a diamond and a bar for mean and Student-t interval.

    Parameters
    ----------
    ds
        What `unitlab.training_choices` gives; of "memorising" with ``measured_on`` chosen.
    name
        A variable of it over ``arm, seed``, or over ``arm, seed, unit``: then the mean over the network's live units.
    level
        Coverage of the intervals, between 0 and 1.

    Returns
    -------
    holoviews.Overlay
        Drops in points of 100, accuracies in percent.

    Raises
    ------
    UnitlabError
        No such variable, or no comparison of training choices.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.seeds(unitlab.training_choices(), "max_class_drop_crossfit")
    """
    if not {"arm", "seed", "fraction_active"} <= set(ds.variables):
        raise UnitlabError("plots.seeds takes the comparison that unitlab.training_choices() gives")
    values = ds[name] if name in ds.data_vars and ds[name].dims == ("arm", "seed") else over_live_units(ds, name)
    units = str(ds[name].attrs["units"])
    scale, unit = 1.0, "" if units == "1" else units
    if units == "1" and ("drop" in name or name.endswith("_accuracy")):
        scale, unit = 100.0, "points" if "drop" in name else "%"
    what = "" if ds[name].dims == ("arm", "seed") else "mean of live units, "
    up = hv.Dimension(name, label=str(ds[name].attrs["long_name"]), unit=unit or None)
    arms = [str(arm) for arm in ds["arm"].values]
    numbers = ds["seed"].values
    # seeds side by side, in the same order in every arm
    beside = np.linspace(-0.16, 0.16, len(numbers)) if len(numbers) > 1 else np.zeros(1)
    across = hv.Dimension("at", label="trained with")
    dots = [
        (place + beside[i], scale * float(values[place, i]), arm, int(seed))
        for place, arm in enumerate(arms)
        for i, seed in enumerate(numbers)
    ]
    interval = student_t_interval(values, "seed", level=level)
    low, mean, high = (scale * interval[part].values for part in ("low", "mean", "high"))
    at = np.arange(len(arms)) + 0.32
    bars = hv.Segments([(x, a, x, b) for x, a, b in zip(at, low, high, strict=True)], [across, up, "at2", "high"])
    middle = hv.Points(list(zip(at, mean, arms, low, high, strict=True)), [across, up], ["arm", "low", "high"])
    points = hv.Points(dots, [across, up], ["arm", "seed"])
    overlay = (
        points.opts(color=BLUE, size=8, fill_alpha=0.6, tools=["hover"])
        * bars.opts(color=ORANGE, line_width=2)
        * middle.opts(color=ORANGE, marker="diamond", size=11, tools=["hover"])
    )
    title = f"{what}{len(numbers)} seeds each, {100 * level:g} % interval of their mean".capitalize()
    return overlay.opts(
        width=520, height=320, xticks=list(enumerate(arms)), xlim=(-0.5, len(arms) - 0.4), show_grid=True, show_legend=False,
        title=title, padding=0.1, **FIGURE,
    )  # fmt: skip
