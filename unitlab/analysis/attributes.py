"""Attributes of units: what they respond to and how large their filters are, without any ablation."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.mutual_information import ChanceInformation, activation_bins, plug_in_information
from unitlab.analysis.requirements import class_positions, require, require_all_images
from unitlab.analysis.undefined import leading, ratio
from unitlab.errors import UnitlabError
from unitlab.schema import VARIABLES, described_like
from unitlab.schema.stored import UNDEFINED, why_undefined

Array = np.ndarray[Any, Any]

# older studies, or those by hooks, lack them
OPTIONAL = ("outgoing_l1_norm", "outgoing_l2_norm", "first_order_margin_drop")
STORED = (
    "class_activation", "class_correlation", "l1_norm", "l2_norm", "l1_norm_folded", "l2_norm_folded",
    "batch_norm_scale", "fraction_active", "mean_activation", "max_activation",
    *OPTIONAL,
)  # fmt: skip


def attributes(ds: xr.Dataset) -> xr.Dataset:
    """Attributes of every unit that do not come from ablating it.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path. Which site of the network it was taken at,
        before or after the ReLU, is in its attribute ``site``.

    Returns
    -------
    xarray.Dataset
        Over ``unit``: ``class_selectivity``, ``class_selectivity_max``, ``max_class_correlation``,
        ``max_correlation_class`` (position along category), ``l1_norm``, ``l2_norm``, ``l1_norm_folded``,
        ``l2_norm_folded``, ``batch_norm_scale``, ``outgoing_l1_norm``, ``outgoing_l2_norm``, ``mutual_information`` (bits),
        ``top_precision``, ``fraction_active``, ``mean_activation``, ``max_activation``, ``first_order_margin_drop_overall``
        (logits), and how far the ablation is from the unit's own activations, ``ablated_distance`` and ``ablated_typicality``
        (not for directions). Over ``unit, category``: ``class_activation``, ``class_correlation``,
        ``class_selectivity_by_class``, ``first_order_margin_drop``. Each variable's attributes hold its definition, and
        ``n_undefined``, the number of units for which it is NaN (over classes also ``n_undefined_cells``); the dataset's hold
        ``n_dead``. The first-order estimates are left out where the study was computed without them. Class selectivity is NaN
        for directions, whose coordinates are signed; `unitlab.discrimination` has measures for both.

    Raises
    ------
    UnitlabError
        ``ds`` is no study (the message says what it lacks).

    Notes
    -----
    Class selectivity: Morcos et al. (2018). Class correlation: Zhou et al. (2018). L1 norm: Li et al. (2016).

    Examples
    --------
    >>> import unitlab
    >>> unitlab.attributes(unitlab.load("vgg_emoji")).class_selectivity.dims
    ('unit',)
    """
    return attributes_with(ds, information=True)


@np.errstate(invalid="ignore")  # of activations that overflowed their 16 bits nothing is known: NaN
def attributes_with(ds: xr.Dataset, *, information: bool) -> xr.Dataset:
    """`attributes`, without the mutual information where it is not asked for: it takes longer than all others."""
    needed = [name for name in STORED if name not in OPTIONAL]
    require(
        ds, [*needed, "label", "n_images", "activation_mean", "activation_max", "top_image", "top_activation"], "attributes"
    )
    label = class_positions(ds, ds["label"].values)
    n = np.bincount(label, minlength=ds.sizes["category"])
    require_all_images(ds, n, "attributes")
    mean, peak = ds["activation_mean"].values, ds["activation_max"].values
    dead = ~(ds["fraction_active"].values > 0)
    best, best_class = leading(ds["class_correlation"].values)
    found: dict[str, Array] = {
        **{name: ds[name].values for name in STORED if name in ds},
        "class_selectivity": selectivity(ds["class_activation"].values.astype(float), n),
        "class_selectivity_max": selectivity(class_means(peak, label, ds.sizes["category"]), n),
        "max_class_correlation": best,
        "max_correlation_class": best_class,
        "class_selectivity_by_class": selectivity(ds["class_activation"].values.astype(float), n, by_class=True),
        "top_precision": _top_precision(ds["top_image"].values, ds["top_activation"].values, label),
        **_ablated(ds, mean),
    }
    if information:
        bits = _information(mean, label, ds["cluster"].values if "cluster" in ds else None)
        found["mutual_information"] = np.where(dead, np.nan, bits)
    if "basis" in ds:
        # coordinates along directions are signed, whatever their means happen to be
        for name in ("class_selectivity", "class_selectivity_max", "class_selectivity_by_class"):
            found[name] = np.full_like(found[name], np.nan)
    if "first_order_margin_drop" in ds:
        first_order = np.nan_to_num(ds["first_order_margin_drop"].values.astype(float))
        found["first_order_margin_drop_overall"] = first_order @ n / max(int(n.sum()), 1)
    result = described_like(ds, found, {"n_dead": int(dead.sum())})
    for variable in result.data_vars.values():
        if variable.dtype.kind == "f":
            without = np.isnan(variable.values).reshape(len(variable), -1)
            variable.attrs["n_undefined"] = int(without.all(1).sum())
            if variable.ndim == 2:
                variable.attrs["n_undefined_cells"] = int(without.sum())
    return result


def _information(mean: Array, label: Array, cluster: Array | None) -> Array:
    chance, bins = ChanceInformation(label, cluster), map(activation_bins, mean)
    return np.array([plug_in_information(one, label)[0] - chance.of(one) for one in bins])


def is_signed(ds: xr.Dataset) -> bool:
    """Whether activations are below zero, too, so that class means are no strengths: directions, sites before a ReLU."""
    return "basis" in ds or bool((ds["class_activation"].values < 0).any())


def _ablated(ds: xr.Dataset, mean: Array) -> dict[str, Array]:
    """How far the activation that an ablation leaves is from the unit's own, by the spatial means of the images."""
    kind, distance, typicality = ds.attrs.get("ablation", ""), *np.empty((2, len(mean)))
    if kind not in ("zero", "mean", "resample") or "basis" in ds:
        return {}
    for unit, own in enumerate(mean):
        ordered = np.sort(own.astype(np.float64))
        left = {"zero": np.zeros(1), "mean": ordered.mean(keepdims=True), "resample": ordered}[kind]
        # shares of the images at or below, and at or above
        below = np.searchsorted(ordered, left, side="right") / len(own)
        above = 1 - np.searchsorted(ordered, left, side="left") / len(own)
        distance[unit] = ratio(np.sqrt(((left - ordered.mean()) ** 2).mean()), ordered.std())
        typicality[unit] = np.minimum(2 * np.minimum(below, above), 1).mean()
    return {"ablated_distance": distance, "ablated_typicality": typicality}


def undefined_attributes(ds: xr.Dataset) -> str:
    """Attributes that no unit of a study has, and why; "" where there are none."""
    names = [name for name in UNDEFINED if name in ds and ds[name].isnull().all()]
    if "basis" in ds or (ds["class_activation"].min("category") < 0).all():
        names += ["class_selectivity", "class_selectivity_max"]
    return why_undefined(names)


def own_attributes(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Numbers of the units that no attribute or damage is: what the reader has added, and what concepts say.

    Raises
    ------
    UnitlabError
        One number for each unit, along another dimension, as `xarray.Dataset.assign` makes of a bare series.
    """
    known = {dim for row in VARIABLES.values() for dim in row.dims}
    for name, variable in ds.data_vars.items():
        dims = variable.dims
        if len(dims) == 1 and dims[0] not in known and len(variable) == ds.sizes["unit"]:
            raise UnitlabError(
                f"'{name}' has a number for each unit, but along '{dims[0]}'; say that they are the units: "
                f"ds.assign({name}=('unit', values))"
            )
    return {
        str(name): variable
        for name, variable in ds.data_vars.items()
        if (name not in VARIABLES or VARIABLES[name].level == "concepts")
        and variable.dims == ("unit",)
        and variable.dtype.kind in "fiu"
    }


def class_means(values: Array, label: Array, n_categories: int) -> Array:
    """Mean of ``values`` (unit, image) over the images of each class; NaN for a class without images."""
    n = np.bincount(label, minlength=n_categories)
    order = np.argsort(label, kind="stable")
    present = np.flatnonzero(n)
    means = np.full((len(values), n_categories), np.nan)
    if len(present):
        start = (np.cumsum(n) - n)[present]
        for row, own in zip(means, values, strict=True):
            row[present] = np.add.reduceat(own[order].astype(np.float64), start) / n[present]
    return means


def selectivity(means: Array, n: Array, *, by_class: bool = False) -> Array:
    """(μ − μrest)/(μ + μrest) of class means (unit, category), over the classes with images (``n`` > 0): of the largest mean,
    or ``by_class`` of each, (unit, category)."""
    known = means[:, n > 0]
    found = np.full(means.shape if by_class else len(means), np.nan)
    if known.shape[1] < 2:
        return found
    one = known if by_class else known.max(1, keepdims=True)
    rest = (known.sum(1, keepdims=True) - one) / (known.shape[1] - 1)
    value = np.where((known.min(1, keepdims=True) >= 0) & (one + rest > 0), ratio(one - rest, one + rest), np.nan)
    if not by_class:
        return np.asarray(value[:, 0])
    found[:, n > 0] = value
    return found


def _top_precision(top_image: Array, top_activation: Array, label: Array) -> Array:
    found = np.full(len(top_image), np.nan)
    for unit, (images, activations) in enumerate(zip(top_image, top_activation, strict=True)):
        active = images[(images >= 0) & (activations > 0)]
        if len(active):
            found[unit] = np.bincount(label[active]).max() / len(active)
    return found
