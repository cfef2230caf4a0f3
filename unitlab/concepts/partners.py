"""Partners: units of two networks that answer to the same images, and whether they damage the same classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.attributes import class_means
from unitlab.analysis.requirements import class_positions, require
from unitlab.analysis.undefined import ratio
from unitlab.concepts.exchangeable import ImageClusters
from unitlab.errors import UnitlabError, before_and_now, check_seed
from unitlab.schema import PARTNER_VARIABLES, described

Array = np.ndarray[Any, Any]

SHUFFLES, PERMUTATIONS = 199, 999


def match(a: xr.Dataset, b: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """Which unit of ``b`` answers to the same images as a unit of ``a``, and do the two damage the same classes?

    Parameters
    ----------
    a, b
        Studies of the same images with the same labels: of two networks, or of two layers of one. Units of ``a`` are along
        ``unit``, those of ``b`` along ``unit_b``.
    seed
        Of the shuffles.

    Returns
    -------
    xarray.Dataset
        Over ``unit, unit_b``: ``activation_correlation``, Pearson's r of the spatial max activations, and
        ``damage_correlation``, Spearman's over classes of the doubly centred margin drops. Over ``unit``: ``partner``, number
        of the unit of ``b`` in the one-to-one assignment with the largest sum of r (−1 for none), ``partner_correlation``,
        ``partner_excess``; ``best_partner``, which several units may share, ``best_correlation``, ``best_excess`` and
        ``best_gap``, how far the second best is behind; ``correlation_null``; ``partner_damage_correlation``, and beside it
        ``other_damage_correlation``, the mean with the partners of the other units. One number each: the means of these two,
        ``mean_partner_damage_correlation`` and ``mean_other_damage_correlation``, and ``partner_damage_p``. Each variable's
        attributes hold its definition. Units that are constant over the images take no part: NaN, and −1.

    Raises
    ------
    UnitlabError
        No studies, or studies of other images, classes, labels or clusters: the message names what differs.

    Notes
    -----
    Li, Yosinski, Clune, Lipson and Hopcroft, Convergent Learning (2016). An excess is r minus what 95 % of 199 shuffles stay
    below with the unit's best partner; images change places within classes (clusters whole, among clusters of equal size), so
    that units which merely prefer the same class have none. Shuffled over all images, every unit would pass. Both studies'
    drops are of the same images, whose luck they share.

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.match(unitlab.load("vgg_emoji"), unitlab.load("resnet_emoji"))
    >>> bool(found.mean_partner_damage_correlation > found.mean_other_damage_correlation)
    True
    """
    check_seed(seed)
    _check_same_images(a, b)
    random = np.random.default_rng(seed)
    x, y = (_standardised(ds["activation_max"].values) for ds in (a, b))
    live_a, live_b = (np.isfinite(side[:, 0]) for side in (x, y))
    r = np.clip(x @ y.T, -1, 1)
    damage = _centred_ranks(a, live_a) @ _centred_ranks(b, live_b).T
    partner = np.full(len(x), -1)
    rows, columns = (np.flatnonzero(live) for live in (live_a, live_b))
    matched, with_ = scipy.optimize.linear_sum_assignment(-r[np.ix_(rows, columns)])
    partner[rows[matched]] = columns[with_[: len(matched)]]
    best, second = _two_best(r[:, live_b])
    null = np.where(live_a, _best_by_chance(a, x, y[live_b], random), np.nan)
    of_partner = _taken(r, partner)
    values: dict[str, Any] = {
        "unit": a["unit"].values,
        "unit_b": b["unit"].values,
        "activation_correlation": r,
        "damage_correlation": damage,
        "partner": _numbers(b, partner),
        "partner_correlation": of_partner,
        "partner_excess": of_partner - null,
        "best_partner": _numbers(b, np.where(live_a & live_b.any(), np.where(np.isfinite(r), r, -np.inf).argmax(1), -1)),
        "best_correlation": best,
        "best_excess": best - null,
        "best_gap": best - second,
        "correlation_null": null,
        **_damage_of_partners(damage, partner, random),
    }
    about = {f"{name}_{side}": ds.attrs.get(name, "") for side, ds in (("a", a), ("b", b)) for name in ("name", "layer")}
    counts = {"n_dead_a": int((~live_a).sum()), "n_dead_b": int((~live_b).sum())}
    return described(PARTNER_VARIABLES, values, {**about, **counts, "seed": seed, "n_shuffles": SHUFFLES})


def _check_same_images(a: xr.Dataset, b: xr.Dataset) -> None:
    for ds in (a, b):
        require(ds, ["image", "category", "unit", "label", "activation_max", "label_margin_drop"], "match")
    for field, what in (("fingerprint_images", "images"), ("fingerprint_labels", "labels")):
        if a.attrs.get(field) != b.attrs.get(field):
            raise UnitlabError(
                f"the two studies differ in {field}{before_and_now(a.attrs.get(field), b.attrs.get(field))}: they are not of "
                f"the same {what}. match compares units on the same images; compute both studies on one set"
            )
    for field in ("image", "category", "label", "cluster"):
        if (field in a.variables) != (field in b.variables):
            raise UnitlabError(f"one of the two studies has no '{field}'; compute both on the same set of images")
        if field in a.variables and not np.array_equal(a[field].values, b[field].values):
            raise UnitlabError(
                f"the two studies differ in '{field}' ({a.sizes['image']} and {b.sizes['image']} images, {a.sizes['category']} "
                f"and {b.sizes['category']} classes). match takes two studies of the same images in the same order, with the "
                "same labels (labels='given', where networks predict differently)"
            )


def _standardised(values: Array) -> Array:
    """Rows less their mean, with a sum of squares of 1; NaN for a constant one."""
    rest = values.astype(np.float64) - values.mean(1, keepdims=True, dtype=float)
    rest[np.ptp(values, axis=1) == 0] = 0
    return ratio(rest, np.sqrt((rest**2).sum(1, keepdims=True)))


def _centred_ranks(ds: xr.Dataset, live: Array) -> Array:
    """(unit, category): standard ranks over classes of the margin drops less the means of unit and class; dead units NaN."""
    position = class_positions(ds, ds["label"].values)
    n = np.bincount(position, minlength=ds.sizes["category"])
    drop = class_means(ds["label_margin_drop"].values, position, ds.sizes["category"])[:, n > 0]
    live = live & np.isfinite(drop).all(1)
    ranks = np.full(drop.shape, np.nan)
    if live.any():
        centred = drop[live] - drop[live].mean(1, keepdims=True)
        centred = centred - centred.mean(0)
        # equal drops stay equal: rounding would rank them by chance
        ranks[live] = _standardised(scipy.stats.rankdata(centred.round(12), axis=1))
    return ranks


def _two_best(r: Array) -> tuple[Array, Array]:
    """The largest and the second largest r of each unit; NaN where there are not so many."""
    ordered = np.sort(np.where(np.isfinite(r), r, -np.inf), axis=1)[:, ::-1]
    ordered = np.where(np.isfinite(ordered), ordered, np.nan)
    ordered = np.pad(ordered, ((0, 0), (0, 2)), constant_values=np.nan)
    return ordered[:, 0], ordered[:, 1]


def _best_by_chance(ds: xr.Dataset, x: Array, y: Array, random: np.random.Generator) -> Array:
    """(unit,): what 95 % of the best r stay below where the images of one study are shuffled."""
    if not len(y):
        return np.full(len(x), np.nan)
    clusters = ImageClusters.of_study(ds, within_classes=True)
    x, y = x.astype(np.float32), y.astype(np.float32)
    best = [(x @ y[:, clusters.shuffled(random)].T).max(1) for _ in range(SHUFFLES)]
    return np.quantile(best, LEVEL, axis=0, method="higher").astype(np.float64)


def _damage_of_partners(damage: Array, partner: Array, random: np.random.Generator) -> dict[str, Any]:
    """Damage correlation with the partner and with the partners of others, and the chance of such a mean if partners are dealt
    anew."""
    rows = np.flatnonzero(partner >= 0)
    square = damage[np.ix_(rows, partner[rows])]
    # a unit whose drops are undefined or alike for all classes has no correlation with any
    some = np.isfinite(square).any(1) & np.isfinite(square).any(0)
    rows, square = rows[some], square[np.ix_(some, some)]
    own, others = np.full(len(partner), np.nan), np.full(len(partner), np.nan)
    p, n = np.nan, len(rows)
    if n > 1:
        own[rows] = square.diagonal()
        others[rows] = (square.sum(1) - square.diagonal()) / (n - 1)
        dealt = [square[np.arange(n), random.permutation(n)].mean() for _ in range(PERMUTATIONS)]
        p = (1 + int((np.array(dealt) >= square.diagonal().mean() - 1e-12).sum())) / (1 + PERMUTATIONS)
    return {
        "partner_damage_correlation": own,
        "other_damage_correlation": others,
        "mean_partner_damage_correlation": own[rows].mean() if n > 1 else np.nan,
        "mean_other_damage_correlation": others[rows].mean() if n > 1 else np.nan,
        "partner_damage_p": p,
    }


def _taken(r: Array, place: Array) -> Array:
    return np.where(place >= 0, r[np.arange(len(r)), place], np.nan)


def _numbers(ds: xr.Dataset, place: Array) -> Array:
    return np.where(place >= 0, ds["unit"].values[place], -1).astype(np.int32)
