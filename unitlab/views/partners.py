"""Units of two networks that answer to the same images: do they damage the same classes?"""

from __future__ import annotations

import holoviews as hv
import numpy as np
import xarray as xr

from unitlab.errors import UnitlabError
from unitlab.schema import PARTNER_VARIABLES
from unitlab.views.look import BLUE, FIGURE, GREY, LEGEND_ABOVE

MOST_OTHERS = 5000


def partners(found: xr.Dataset) -> hv.Overlay:
    """Every pair of partners as a point, over all other pairs of units: how alike what they answer to, how alike their damage.

    Parameters
    ----------
    found
        What `unitlab.match` gives.

    Returns
    -------
    holoviews.Overlay
        Filled: the correlation with the partner is above what 95 % of the best ones reach by chance. Other pairs are grey; of
        more than 5,000 as many are drawn, evenly over the units.

    Raises
    ------
    UnitlabError
        Another dataset.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.partners(unitlab.match(unitlab.load("vgg_emoji"), unitlab.load("resnet_emoji")))
    """
    if not isinstance(found, xr.Dataset) or "partner_excess" not in found:
        raise UnitlabError("plots.partners takes what unitlab.match(a, b) gives")
    across, up = (
        hv.Dimension(name, label=PARTNER_VARIABLES[name].long_name) for name in ("activation_correlation", "damage_correlation")
    )
    r, damage = found["activation_correlation"].values, found["damage_correlation"].values
    number = found["unit"].values
    paired = found["partner"].values[:, None] == found["unit_b"].values
    extra = [hv.Dimension("unit"), hv.Dimension("partner"), hv.Dimension("chance", label="95 % of chance")]
    a, b = np.nonzero(~paired & np.isfinite(r) & np.isfinite(damage))
    some = np.linspace(0, len(a) - 1, min(len(a), MOST_OTHERS)).astype(int)
    others = hv.Points((r[a[some], b[some]], damage[a[some], b[some]]), [across, up], label="other pairs")
    layers = [others.opts(color=GREY, size=3, alpha=0.35, line_alpha=0)]
    a, b = np.nonzero(paired)
    null, above = found["correlation_null"].values[a], found["partner_excess"].values[a] > 0
    for label, shown, fill in (("partners above chance", above, 0.85), ("partners within chance", ~above, 0.0)):
        columns = (r[a, b], damage[a, b], number[a], found["unit_b"].values[b], null)
        points = hv.Points([*zip(*(column[shown] for column in columns), strict=True)], [across, up], extra, label=label)
        layers.append(points.opts(color=BLUE, line_color=BLUE, fill_alpha=fill, size=8, line_width=1.5, tools=["hover"]))
    names = [" ".join(str(found.attrs.get(f"{of}_{side}", "")) for of in ("name", "layer")).strip() for side in "ab"]
    title = f"{len(a)} pairs of partners" + (f" ({names[0]} × {names[1]})" if all(names) else "")
    return hv.Overlay(layers).opts(
        width=600, height=410, show_grid=True, title=title, padding=0.06, **LEGEND_ABOVE, **FIGURE
    )  # fmt: skip
