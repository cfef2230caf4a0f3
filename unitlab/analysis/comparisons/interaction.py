"""Whether two units silenced together cost more, or less, than one and the other alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.margins import mean_drops
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.analysis.requirements import check_level, require, unit_position
from unitlab.errors import UnitlabError, before_and_now
from unitlab.schema import INTERACTION_VARIABLES, described

Array = np.ndarray[Any, Any]

SAME = ("site", "ablation", "unit_dim", "fingerprint_weights", "fingerprint_images", "fingerprint_pixels", "fingerprint_labels")


def interaction(pairs: xr.Dataset, ds: xr.Dataset, *, level: float = LEVEL) -> xr.Dataset:
    """What pairs of units cost beyond what their units cost alone: drop(ij) − drop(i) − drop(j).

    Parameters
    ----------
    pairs
        What `unitlab.ablate_groups` gives for groups of two units each.
    ds
        A study of the same layer, ablation, network and images, with every unit of the pairs.
    level
        Coverage of the intervals.

    Returns
    -------
    xarray.Dataset
        Over ``pair, category``: ``interaction`` (fractions of the class's images; positive: together they cost more than the
        sum, as units that stand in for each other do; negative: less, as units that need each other do) and
        ``margin_interaction`` (logits). Over ``pair``: ``overall_interaction`` and ``overall_margin_interaction``, over all
        images. Each with ``_low``, ``_high``, ``_p_value``, ``_q_value``: paired t intervals and tests over the images
        (clusters) that all three ablations share, limits NaN where all images have the same. ``unit_i``, ``unit_j`` (pair).

    Raises
    ------
    UnitlabError
        Groups of other than two units; a unit that the study has not; a study of another layer, network or other images.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.compute.networks import bundled_network
    >>> images, network = unitlab.images("fashion_mnist"), bundled_network("vgg_fashion")
    >>> few = images.subset(range(60))
    >>> ds = unitlab.ablate(network, few, "conv3_2", units=[3, 5], progress=False)
    >>> pairs = unitlab.ablate_groups(network, few, "conv3_2", {"3 and 5": [3, 5]}, progress=False)
    >>> unitlab.interaction(pairs, ds).interaction.dims
    ('pair', 'category')
    """
    check_level(level)
    if not isinstance(pairs, xr.Dataset) or "member" not in pairs:
        raise UnitlabError(
            "interaction takes groups of two units, as unitlab.ablate_groups(model, images, layer, pairs) gives them"
        )
    member = pairs["member"].values
    wrong = pairs["group"].values[member.sum(1) != 2]
    if len(wrong):
        raise UnitlabError(f"group {wrong[0]!r} has {int(member.sum(1)[member.sum(1) != 2][0])} units; interaction takes pairs")
    units = np.array([pairs["unit"].values[row] for row in member]).reshape(-1, 2)
    _require_same(pairs, ds)
    place = np.array([[unit_position(ds, int(unit)) for unit in pair] for pair in units]).reshape(-1, 2)
    together = pairs.drop_dims("unit").rename(group="unit").assign_coords(unit=np.arange(len(units)))
    both, alone = PairedImages(together, "interaction"), PairedImages(ds, "interaction")

    def beyond(both: PairedImages, alone: PairedImages, drops: str) -> Callable[[slice], Array]:
        def of(some: slice) -> Array:
            first, second = (getattr(alone, drops)(place[some, side]).astype(float) for side in (0, 1))
            return getattr(both, drops)(some) - first - second

        return of

    values: dict[str, Array] = {"pair": pairs["group"].values, "category": ds["category"].values}
    values |= {"unit_i": units[:, 0].astype(np.int32), "unit_j": units[:, 1].astype(np.int32)}
    for name, drops in (("interaction", "flips"), ("margin_interaction", "margin_drops")):
        found = mean_drops(both, beyond(both, alone, drops), level)
        values |= _named(name, found)
        one, other = both.of_one_class(), alone.of_one_class()
        found = mean_drops(one, beyond(one, other, drops), level)
        values |= _named(f"overall_{name}", {end: value[:, 0] for end, value in found.items()})
    return described(INTERACTION_VARIABLES, values, {**ds.attrs, "level": level})


def _named(name: str, found: dict[str, Array]) -> dict[str, Array]:
    q, constant = benjamini_hochberg(found["_p_value"]), found["_low"] == found["_high"]
    limits = {end: np.where(constant, np.nan, found[end]) for end in ("_low", "_high")}
    return {f"{name}{end}": value for end, value in {**found, **limits, "_q_value": q}.items()}


def _require_same(pairs: xr.Dataset, ds: xr.Dataset) -> None:
    require(ds, ["unit", "category", "image", "label", "baseline_prediction"], "interaction")
    # older studies, the bundled ones among them, do not say that their units are along dimension 1
    of_pairs, of_study = {"unit_dim": 1, **pairs.attrs}, {"unit_dim": 1, **ds.attrs}
    for name in SAME:
        if of_pairs.get(name) != of_study.get(name):
            raise UnitlabError(
                f"pairs and study differ in {name.removeprefix('fingerprint_')}"
                f"{before_and_now(of_study.get(name), of_pairs.get(name))}; give both of one layer, network and images"
            )
    for name in ("image", "label", "baseline_prediction"):
        if not np.array_equal(pairs[name].values, ds[name].values):
            raise UnitlabError(
                f"pairs and study are of other images or of another machine: {name!r} differs; compute both together"
            )
