"""Attributes of units: what they respond to and how large their filters are, without any ablation."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.requirements import class_positions, require
from unitlab.analysis.undefined import leading, ratio
from unitlab.errors import UnitlabError
from unitlab.schema import VARIABLES, described_like
from unitlab.schema.stored import UNDEFINED, why_undefined

Array = np.ndarray[Any, Any]

QUANTILES = 10
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
        A study, as `unitlab.load` or `unitlab.ablate` give it. Which site of the network it was taken at, before or after
        the ReLU, is in its attribute ``site``.

    Returns
    -------
    xarray.Dataset
        Over ``unit``: ``class_selectivity``, ``class_selectivity_max``, ``max_class_correlation``,
        ``max_correlation_class`` (position along category), ``l1_norm``, ``l2_norm``, ``l1_norm_folded``,
        ``l2_norm_folded``, ``batch_norm_scale``, ``outgoing_l1_norm``, ``outgoing_l2_norm``, ``mutual_information`` (bits),
        ``top_precision``, ``fraction_active``,
        ``mean_activation``, ``max_activation``, ``first_order_margin_drop_overall`` (logits). Over ``unit, category``:
        ``class_activation``, ``class_correlation``, ``first_order_margin_drop``. Each variable's attributes hold its
        definition, and ``n_undefined``, the number of units for which it is NaN; the dataset's hold ``n_dead``. The
        first-order estimates are left out where the study was computed without them. Class selectivity is NaN for
        directions, whose coordinates are signed; `unitlab.discrimination` has measures for both.

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
    needed = [name for name in STORED if name not in OPTIONAL]
    require(
        ds, [*needed, "label", "n_images", "activation_mean", "activation_max", "top_image", "top_activation"], "attributes"
    )
    label = class_positions(ds, ds["label"].values)
    n = np.bincount(label, minlength=ds.sizes["category"])
    mean, peak = ds["activation_mean"].values, ds["activation_max"].values
    dead = ~(ds["fraction_active"].values > 0)
    best, best_class = leading(ds["class_correlation"].values)
    found: dict[str, Array] = {
        **{name: ds[name].values for name in STORED if name in ds},
        "class_selectivity": selectivity(ds["class_activation"].values.astype(float), n),
        "class_selectivity_max": selectivity(class_means(peak, label, ds.sizes["category"]), n),
        "max_class_correlation": best,
        "max_correlation_class": best_class,
        "mutual_information": np.array([mutual_information(row, label) for row in mean]),
        "top_precision": _top_precision(ds["top_image"].values, ds["top_activation"].values, label),
    }
    found["mutual_information"][dead] = np.nan
    if "basis" in ds:
        # coordinates along directions are signed, whatever their means happen to be
        for name in ("class_selectivity", "class_selectivity_max"):
            found[name] = np.full_like(found[name], np.nan)
    if "first_order_margin_drop" in ds:
        first_order = np.nan_to_num(ds["first_order_margin_drop"].values.astype(float))
        found["first_order_margin_drop_overall"] = first_order @ n / max(int(n.sum()), 1)
    result = described_like(ds, found, {"n_dead": int(dead.sum())})
    for variable in result.data_vars.values():
        if variable.dtype.kind == "f":
            without = np.isnan(variable.values).reshape(len(variable), -1).all(1)
            variable.attrs["n_undefined"] = int(without.sum())
    return result


def undefined_attributes(ds: xr.Dataset) -> str:
    """Attributes that no unit of a study has, and why; "" where there are none."""
    names = [name for name in UNDEFINED if name in ds and ds[name].isnull().all()]
    if "basis" in ds or (ds["class_activation"].min("category") < 0).all():
        names += ["class_selectivity", "class_selectivity_max"]
    return why_undefined(names)


def own_attributes(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Numbers of the units that are none of the schema's: those that the reader has added.

    Raises
    ------
    UnitlabError
        One number for each unit, along another dimension, as `xarray.Dataset.assign` makes of a bare series.
    """
    known = {dim for row in VARIABLES.values() for dim in row.dims}
    for name, variable in ds.data_vars.items():
        dims = variable.dims
        if name not in VARIABLES and len(dims) == 1 and dims[0] not in known and len(variable) == ds.sizes["unit"]:
            raise UnitlabError(
                f"'{name}' has a number for each unit, but along '{dims[0]}'; say that they are the units': "
                f"ds.assign({name}=('unit', values))"
            )
    return {
        str(name): variable
        for name, variable in ds.data_vars.items()
        if name not in VARIABLES and variable.dims == ("unit",) and variable.dtype.kind in "fiu"
    }


def class_means(values: Array, label: Array, n_categories: int) -> Array:
    """Mean of ``values`` (unit, image) over the images of each class; NaN for a class without images."""
    n = np.bincount(label, minlength=n_categories)
    order = np.argsort(label, kind="stable")
    present = np.flatnonzero(n)
    means = np.full((len(values), n_categories), np.nan)
    if len(present):
        start = (np.cumsum(n) - n)[present]
        means[:, present] = np.add.reduceat(values[:, order].astype(np.float64), start, axis=1) / n[present]
    return means


def selectivity(means: Array, n: Array) -> Array:
    """(μmax − μrest)/(μmax + μrest) of class means (unit, category), over the classes with images (``n`` > 0)."""
    means = means[:, n > 0]
    if means.shape[1] < 2:
        return np.full(len(means), np.nan)
    most = means.max(1)
    rest = (means.sum(1) - most) / (means.shape[1] - 1)
    return np.where((means.min(1) >= 0) & (most > 0), ratio(most - rest, most + rest), np.nan)


def mutual_information(activation: Array, label: Array) -> float:
    """Bits that an activation, in a zero bin and ten quantile bins, has about the class; Miller–Madow corrected.

    Parameters
    ----------
    activation
        One value an image.
    label
        One class, 0 or more, an image.

    Raises
    ------
    UnitlabError
        The two have different lengths, or none.
    """
    if len(activation) != len(label) or not len(label):
        raise UnitlabError(
            f"mutual information takes as many activations as labels, at least one; given {len(activation)}, {len(label)}"
        )
    positive = activation > 0
    edges = np.quantile(activation[positive], np.arange(1, QUANTILES) / QUANTILES) if positive.any() else np.empty(0)
    bins = np.where(positive, 1 + np.searchsorted(edges, activation, side="right"), 0)
    size = int(label.max()) + 1
    joint = np.bincount(bins * size + label, minlength=(QUANTILES + 1) * size)
    return _entropy(np.bincount(bins)) + _entropy(np.bincount(label)) - _entropy(joint)


def _entropy(counts: Array) -> float:
    """Miller–Madow: plug-in entropy + (occupied bins − 1)/(2 n), in bits."""
    counts = counts[counts > 0]
    n = counts.sum()
    share = counts / n
    return float(-(share * np.log2(share)).sum() + (len(counts) - 1) / (2 * n * np.log(2)))


def _top_precision(top_image: Array, top_activation: Array, label: Array) -> Array:
    found = np.full(len(top_image), np.nan)
    for unit, (images, activations) in enumerate(zip(top_image, top_activation, strict=True)):
        active = images[(images >= 0) & (activations > 0)]
        if len(active):
            found[unit] = np.bincount(label[active]).max() / len(active)
    return found
