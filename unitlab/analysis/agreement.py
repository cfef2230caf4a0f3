"""Do numbers agree: a study's halves with each other, several studies of the same units, selectivity with damage?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from unitlab.analysis.attributes import is_signed
from unitlab.analysis.correlations import correlations, estimates, left_out_images, named
from unitlab.analysis.jackknife import (
    correlation_interval,
    fisher_z,
    jackknife_variance,
    t_interval,
    unit_groups,
    variance_over_splits,
)
from unitlab.analysis.left_out_images import MEASURED, LeftOutImages
from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.analysis.splits import spearman_brown
from unitlab.analysis.undefined import mean_of_defined, ratio
from unitlab.errors import UnitlabError, check_seed, nearest_names
from unitlab.progress import shown_progress

Array = np.ndarray[Any, Any]

OF_HALVES = ("overall_drop", "max_class_drop_crossfit", "accuracy_drop")
SPLITS, SPLITS_OF_INTERVAL, PERMUTATIONS = 20, 5, 999


def reliability(ds: xr.Dataset, of: str | Iterable[str] = OF_HALVES, *, seed: int = 0, progress: bool = True) -> pd.DataFrame:
    """How much of what units differ in is theirs, and how much the luck of the images: split-half reliability.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    of
        Variables: drops, or attributes that single images decide (``class_selectivity``, ``mutual_information`` …), and
        ``accuracy_drop`` for the cells (unit, class).
    seed
        Of the halves and groups.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    pandas.DataFrame
        One row a variable, which is the index: ``reliability``, ``low``, ``high`` (95 %; NaN where the reliability is 1),
        ``n`` units or cells. ``attrs``: ``covers``, which sampling the interval covers: images; units and classes are those
        of the study. Of cells nothing is taken off and every cell weighs the same, so that it is the share of their variance
        that any predictor can explain, an R² at best; ``reliability`` of `unitlab.damage` is about what is left without unit
        and class means.

    Raises
    ------
    UnitlabError
        A variable that cannot be measured on one half.

    Notes
    -----
    Pearson correlation of the values on two halves (class by class, clusters whole), mean over 20 splits, Spearman–Brown
    corrected, −1 at least; delete-group jackknife of its Fisher z over up to 20 groups of image clusters.

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.reliability(unitlab.load("vgg_fashion"), "overall_drop")
    >>> bool(found.low["overall_drop"] < found.reliability["overall_drop"])
    True
    """
    check_seed(seed)
    names, random = named(of), np.random.default_rng(seed)
    valid = [*MEASURED, "accuracy_drop"]
    for name in names:
        if name not in valid:
            raise UnitlabError(f"{name!r} cannot be measured on half the images. {nearest_names(name, valid)}")
    left_out = left_out_images([ds], seed, "reliability")[0]
    whole = LeftOutImages(left_out.images, seed=seed)
    r: dict[str, list[Array]] = {name: [] for name in names}
    count = dict.fromkeys(names, 0)
    for split in shown_progress(range(SPLITS), "reliability", progress):
        half = left_out.half(random)
        source = left_out if split < SPLITS_OF_INTERVAL else whole
        first, second = (_of_half(source, names, one) for one in (half, ~half))
        for name in names:
            both = np.isfinite(first[name]).all(0) & np.isfinite(second[name]).all(0)
            count[name] = int(both.sum())
            r[name].append(_pearson(first[name][:, both], second[name][:, both]))
    rows = {}
    for name in names:
        mean = mean_of_defined(np.array([one[0] for one in r[name]]))
        several = fisher_z(np.stack(r[name][:SPLITS_OF_INTERVAL], 1))
        variance = variance_over_splits(several[0], several[1:], left_out.share)
        low, high, _ = correlation_interval(mean, [variance])
        values = [float(spearman_brown(value)) for value in (mean, low, high)]
        rows[name] = dict(zip(("reliability", "low", "high"), values, strict=True)) | {"n": count[name]}
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variable")
    found.attrs = {"covers": "images", "seed": seed, "n_splits": SPLITS, **_about(ds)}
    return found


def agreement(
    studies: Mapping[str, xr.Dataset], of: str | Iterable[str] = OF_HALVES, *, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Do studies of the same units rank them alike: other ablations, or the same on a second set of images (test–retest)?

    Parameters
    ----------
    studies
        Two or more under names of your own: of one network and layer, with the same units and, for ``accuracy_drop``, the
        same classes.
    of
        Variables over ``unit`` of `unitlab.damage` or `unitlab.attributes`, and ``accuracy_drop`` for the cells
        (unit, class).
    seed
        Of groups.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    pandas.DataFrame
        One row a variable and pair, ``of``, ``a``, ``b`` and the columns of `unitlab.correlations` from ``n_units`` (of
        cells: the number of cells) on. Intervals cover units and images, those of both studies; images that both have are
        left out of both together.

    Raises
    ------
    UnitlabError
        Fewer than two studies, other units, other classes, a variable that is not there.

    Notes
    -----
    As for `unitlab.correlations`. Both studies' noise lowers the correlation: two that measure the same with the reliabilities
    r₁ and r₂ (`unitlab.reliability`), on other images, reach √(r₁·r₂); on the same images they share part of the noise.

    Examples
    --------
    >>> import unitlab
    >>> ds = unitlab.load("vgg_fashion")
    >>> found = unitlab.agreement({"once": ds, "again": ds}, "overall_drop")
    >>> round(float(found.spearman[0]), 6)
    1.0
    """
    check_seed(seed)
    if not isinstance(studies, Mapping) or len(studies) < 2:
        raise UnitlabError("agreement takes two studies or more under names: {'zero': ds, 'mean': other}")
    names = named(of)
    rows: list[dict[str, Any]] = []
    pairs = [(name, a, b) for name in names for a, b in combinations(studies, 2)]
    for name, a, b in shown_progress(pairs, "agreement", progress):
        one, other = studies[a], studies[b]
        if name == "accuracy_drop":
            row = _agreement_of_cells(one, other, seed)
        else:
            table = correlations(one, name, name, other=other, seed=seed, progress=False)
            row = table.drop(columns=["x", "y", "part_whole"]).iloc[0].to_dict()
        rows.append({"of": name, "a": str(a), "b": str(b), **row})
    found = pd.DataFrame(rows)
    for kind in ("spearman", "pearson"):
        found[f"{kind}_q"] = benjamini_hochberg(found[f"{kind}_p"].to_numpy(float))
    found.attrs = {"seed": seed}
    return found


def selective_damage(ds: xr.Dataset, *, seed: int = 0, progress: bool = True) -> pd.DataFrame:
    """Does a unit's selectivity for a class say what its loss costs that class? On one half of the images against the other.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    seed
        Of halves, groups and permutations.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    pandas.DataFrame
        Two rows: "within-class correlation", Spearman over units of selectivity for the class with the class's accuracy drop,
        mean over classes; "preferred class most hurt", share of the units whose most preferred class has the largest drop
        (ties count in part). Columns: ``value``, ``low``, ``high`` (95 %, over units and images), ``chance`` (mean of 999
        permutations of the units), ``chance_95`` (what 95 % of these stay below), ``p`` (one-sided). ``attrs``:
        ``selectivity``, which variable it is: ``class_selectivity_by_class``, or ``class_auc`` where activations are signed;
        ``n_units``, and ``n_undefined`` that have none; ``covers``.

    Raises
    ------
    UnitlabError
        Fewer than three units or two classes with the measures.

    Notes
    -----
    Both directions of 20 splits (class by class, clusters whole). A permutation gives every unit the drops of another one,
    all classes together. Delete-group jackknife as for `unitlab.correlations`.

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.selective_damage(unitlab.load("vgg_fashion"))
    >>> bool(found.p["within-class correlation"] <= 0.01)
    True
    """
    check_seed(seed)
    random = np.random.default_rng(seed)
    left_out = left_out_images([ds], seed, "selective_damage")[0]
    whole = LeftOutImages(left_out.images, seed=seed)
    name = "class_auc" if is_signed(ds) else "class_selectivity_by_class"
    halves_ = [one for _ in range(SPLITS) for half in [left_out.half(random)] for one in (half, ~half)]
    classes, units = _defined(whole, name, halves_)
    if units.sum() < 3 or classes.sum() < 2:
        raise UnitlabError(
            f"selectivity and drops on both halves are there for {units.sum()} units and {classes.sum()} classes; at least 3 "
            "and 2 are needed"
        )
    groups = np.unique(unit_groups([ds], random)[units], return_inverse=True)[1]
    pairs = np.zeros((2, int(units.sum()), int(units.sum())))
    several: list[Array] = []
    for place, half in enumerate(shown_progress(halves_, "selective damage", progress)):
        source = left_out if place < 2 * SPLITS_OF_INTERVAL else whole
        selectivity = source.cells_of(name, half)[:, units][:, :, classes]
        drop = source.cells_of("accuracy_drop", ~half)[:, units][:, :, classes]
        pairs += _pairs(selectivity[0], drop[0])
        if place < 2 * SPLITS_OF_INTERVAL:
            several.append(_without_each(selectivity, drop, groups))
    pairs /= len(halves_)
    return _selective_table(pairs, np.mean(several, axis=0), groups, left_out.share, random, {
        "selectivity": name, "covers": "units and images", "n_units": int(units.sum()),
        "n_undefined": int((~units).sum()), "n_classes": int(classes.sum()), "seed": seed, **_about(ds),
    })  # fmt: skip


def _selective_table(
    pairs: Array, several: Array, groups: Array, share: Array, random: np.random.Generator, attrs: dict[str, Any]
) -> pd.DataFrame:
    n_units = pairs.shape[1]
    value = np.trace(pairs, axis1=1, axis2=2) / n_units
    rows = np.arange(n_units)
    orders = [random.permutation(n_units) for _ in range(PERMUTATIONS)]
    null = np.stack([pairs[:, rows, order].mean(1) for order in orders], 1)
    n_groups = int(groups.max()) + 1
    several[0] = fisher_z(several[0])
    of_units, of_images = several[:, 1 : 1 + n_groups], several[:, 1 + n_groups :]
    size = np.bincount(groups) / len(groups)
    ends = []
    for place in range(2):
        parts = ((of_units[place], size), (of_images[place], share))
        variances = [jackknife_variance(several[place, 0], part, of) for part, of in parts]
        if place == 0:
            ends.append(correlation_interval(value[0], variances)[:2])
        else:
            low, high, _ = t_interval(value[1], variances)
            ends.append((np.maximum(low, 0), np.minimum(high, 1)))
    found = pd.DataFrame(
        {
            "value": value,
            "low": [float(low) for low, _ in ends],
            "high": [float(high) for _, high in ends],
            "chance": null.mean(1),
            "chance_95": np.quantile(null, 0.95, axis=1),
            "p": (1 + (null >= value[:, None] - 1e-12).sum(1)) / (1 + PERMUTATIONS),
        },
        index=pd.Index(["within-class correlation", "preferred class most hurt"], name="measure"),
    )
    found.attrs = {**attrs, "n_permutations": PERMUTATIONS}
    return found


def _defined(whole: LeftOutImages, name: str, halves_: list[Array]) -> tuple[Array, Array]:
    """Classes that have images in both halves of every split, and units whose selectivity for all of these is defined."""
    drop = np.stack([np.isfinite(whole.cells_of("accuracy_drop", half)[0]) for half in halves_])
    classes = drop.all((0, 1))
    selective = np.stack([np.isfinite(whole.cells_of(name, half)[0]) for half in halves_])
    return np.asarray(classes), np.asarray(selective[:, :, classes].all((0, 2)))


def _standard_ranks(values: Array, axis: int) -> Array:
    """Ranks less their mean, with a sum of squares of 1; NaN where all are tied."""
    ranks = scipy.stats.rankdata(values, axis=axis)
    ranks = ranks - ranks.mean(axis, keepdims=True)
    return ratio(ranks, np.sqrt((ranks**2).sum(axis, keepdims=True)))


def _most(values: Array) -> Array:
    """1 for the class of the largest value of each unit, shared by tied ones."""
    known = np.where(np.isnan(values), -np.inf, values)
    tied = known == known.max(-1, keepdims=True)
    return tied / tied.sum(-1, keepdims=True)


def _pairs(selectivity: Array, drop: Array) -> Array:
    """(measure, unit, other unit): what each unit's selectivity and another's drops add to both measures, times the units.

    A class whose drops are all alike has no correlation and takes no part in their mean.
    """
    x, y = _standard_ranks(selectivity, 0), _standard_ranks(drop, 0)
    some = np.isfinite(x).all(0) & np.isfinite(y).all(0)
    products = x[:, some] @ y[:, some].T * (len(drop) / max(int(some.sum()), 1))
    return np.stack([products, _most(selectivity) @ _most(drop).T])


def _without_each(selectivity: Array, drop: Array, groups: Array) -> Array:
    """(measure, of all, then without each group of units, then of images); a group of units leaves the others' ranks alone."""
    x, y = _standard_ranks(selectivity, 1), _standard_ranks(drop, 1)
    hit = (_most(selectivity) * _most(drop)).sum(2)
    kept = (groups != np.arange(int(groups.max()) + 1)[:, None]).astype(float)
    n = kept.sum(1, keepdims=True)
    sx, sy, sxy, sxx, syy = (kept @ part for part in (x[0], y[0], x[0] * y[0], x[0] ** 2, y[0] ** 2))
    of_units = ratio(sxy - sx * sy / n, np.sqrt(np.maximum((sxx - sx**2 / n) * (syy - sy**2 / n), 0)))
    of_images = mean_of_defined((x * y).sum(1))
    correlation = np.concatenate([of_images[:1], mean_of_defined(of_units), of_images[1:]])
    return np.stack([correlation, np.concatenate([hit[:1].mean(1), (kept @ hit[0]) / n[:, 0], hit[1:].mean(1)])])


def _of_half(source: LeftOutImages, names: list[str], half: Array) -> dict[str, Array]:
    found = source.values([name for name in names if name in MEASURED], half)
    if "accuracy_drop" in names:
        found["accuracy_drop"] = source.cells_of("accuracy_drop", half).reshape(1 + source.n_groups, -1)
    return found


def _pearson(x: Array, y: Array) -> Array:
    """Correlation of each row of ``x`` with that of ``y``."""
    if not x.shape[1]:
        return np.full(len(x), np.nan)
    x, y = (side - side.mean(1, keepdims=True, dtype=float) for side in (x, y))
    return ratio((x * y).sum(1), np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def _agreement_of_cells(one: xr.Dataset, other: xr.Dataset, seed: int) -> dict[str, Any]:
    if not np.array_equal(one["category"].values, other["category"].values):
        raise UnitlabError("the two studies have other classes; leave accuracy_drop out of what is compared")
    left_out = left_out_images([one, other], seed, "agreement")
    columns = [of.cells_of("accuracy_drop").reshape(1 + of.n_groups, -1) for of in left_out]
    units = np.repeat(unit_groups([one, other], np.random.default_rng(seed)), one.sizes["category"])
    return {**estimates(columns, units, left_out[0].share, True), "covers": "units and images"}


def _about(ds: xr.Dataset) -> dict[str, str]:
    return {"study": str(ds.attrs.get("name", "")), "layer": str(ds.attrs.get("layer", ""))}
