"""Damage of every unit to every class, with its uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import (
    benjamini_hochberg,
    bonett_price,
    can_be_rejected,
    fair_binomial_cdf,
    mcnemar,
    sign_flip_distribution,
    sign_flip_p_value,
    student_quantile,
    student_tail,
)
from unitlab.analysis.requirements import check_level, require
from unitlab.analysis.specificity import Specificity, concentration
from unitlab.analysis.splits import SPLITS, crossfit_and_reliability
from unitlab.errors import check_seed
from unitlab.schema import VARIABLES, variable_attrs

Array = np.ndarray[Any, Any]

ALPHA = 0.05
KEPT = ("n_images", "baseline_accuracy", "n_broken", "n_fixed", "accuracy_drop", "overall_drop")


def damage(ds: xr.Dataset, *, level: float = 0.95, seed: int = 0) -> xr.Dataset:
    """What silencing each unit costs each class, and how sure that is.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it.
    level
        Coverage of the intervals, between 0 and 1.
    seed
        Of the splits in halves and of the shuffles.

    Returns
    -------
    xarray.Dataset
        Drops are fractions of images, positive = damage. Over ``unit, category``: ``accuracy_drop``, ``drop_low``,
        ``drop_high``, ``p_value``, ``q_value``, ``testable``, ``damaged``, ``precision_drop``, ``balanced_accuracy_drop``,
        ``margin_drop`` (logits) with ``margin_drop_low``, ``margin_drop_high``, ``margin_p_value``, ``n_broken``, ``n_fixed``.
        Over ``unit``: ``overall_drop``, ``max_class_drop`` with ``max_class_drop_null``, ``max_class`` (position along
        category), ``max_class_drop_crossfit`` with ``max_class_drop_crossfit_null``, ``max_z``, ``p_any``, ``p_specific``,
        ``n_damaged``, ``concentration`` with ``concentration_null``. One number: ``reliability``. Attributes: the study's,
        ``level``, ``seed``, ``n_tested`` of ``n_cells``. Each variable's attributes hold its definition. Where the study has
        ``cluster``, splits, intervals and tests go by cluster.

    Raises
    ------
    UnitlabError
        ``ds`` is no study (the message says what it lacks), or ``level`` is no coverage.

    Notes
    -----
    McNemar (1947); Bonett and Price, J. Educ. Behav. Stat. 37 (2012); Gilbert, Appl. Stat. 54 (2005); Besag and Clifford,
    Biometrika 78 (1991).

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.damage(unitlab.load("vgg_fashion"))
    >>> found.q_value.dims
    ('unit', 'category')
    """
    check_level(level)
    check_seed(seed)
    require(ds, [*KEPT, "n_predicted", "label_margin_drop"], "damage")
    images = PairedImages(ds, "damage")
    n = images.n_images
    drop, overall = ds["accuracy_drop"].values, ds["overall_drop"].values
    broken, fixed = ds["n_broken"].values.astype(np.int64), ds["n_fixed"].values.astype(np.int64)
    cells: dict[str, Array] = {}
    cells.update(_margins(images, level))
    if images.clustered:
        paired = _ClusteredCells(images)
        scale = paired.design_effect
        degrees = np.maximum(paired.n_blocks - 1, 1)
        cells["drop_low"], cells["drop_high"] = bonett_price(broken / scale, fixed / scale, n / scale, level, degrees)
        p, changed, z, p_any = paired.p_value, paired.n_changed, paired.z, paired.p_any(drop, n)
    else:
        cells["drop_low"], cells["drop_high"] = bonett_price(broken, fixed, np.broadcast_to(n, broken.shape), level)
        p, changed, p_any = mcnemar(broken, fixed), broken + fixed, _p_any(broken, fixed, n)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.where(changed > 0, (broken - fixed) / np.sqrt(changed), 0.0)
    p = np.where(n > 0, p, np.nan)
    can_reject = can_be_rejected(np.where(n > 0, np.exp2(1.0 - changed), np.nan), ALPHA) & (n > 0)
    q = np.where(n > 0, 1.0, np.nan) * np.ones_like(p)
    if can_reject.any():
        q[can_reject] = benjamini_hochberg(p[can_reject])
    damaged = can_reject & (q <= ALPHA) & (drop > 0)
    cells.update(p_value=p, q_value=q, testable=can_reject, damaged=damaged, **_rates(images, broken, fixed))

    known = np.where(np.isnan(drop), -np.inf, drop)
    some = bool((n > 0).any())
    largest = known.max(1) if some else np.full(len(drop), np.nan)
    crossfit, reliability = crossfit_and_reliability(images, seed)
    specific = Specificity(images, largest, seed)
    units = {
        "max_class_drop": largest,
        "max_class_drop_null": specific.limit,
        "max_class": known.argmax(1).astype(np.int32) if some else np.full(len(drop), -1, np.int32),
        "max_class_drop_crossfit": crossfit,
        "max_class_drop_crossfit_null": specific.crossfit_limit,
        "max_z": np.where(n > 0, z, -np.inf).max(1) if some else np.full(len(drop), np.nan),
        "p_any": p_any,
        "p_specific": specific.p_value,
        "n_damaged": damaged.sum(1).astype(np.int32),
        "concentration": concentration(np.nan_to_num(drop)),
        "concentration_null": specific.concentration,
    }
    kept = {"accuracy_drop": drop, "overall_drop": overall, "n_broken": broken, "n_fixed": fixed, "n_images": n}
    kept["baseline_accuracy"] = ds["baseline_accuracy"].values
    values = {**kept, **cells, **units, "reliability": np.float64(reliability)}
    names = [name for name in VARIABLES if name in values]
    return xr.Dataset(
        {name: xr.Variable(VARIABLES[name].dims, values[name], variable_attrs(name)) for name in names},
        coords={name: ds[name] for name in ("unit", "category", "category_index")},
        attrs={
            **ds.attrs, "level": level, "seed": seed, "n_splits": SPLITS,
            "n_tested": int(can_reject.sum()), "n_cells": int(np.isfinite(p).sum()),
        },
    )  # fmt: skip


def _rates(images: PairedImages, broken: Array, fixed: Array) -> dict[str, Array]:
    """Drops of precision and of balanced accuracy, from counts."""
    from unitlab.analysis.requirements import class_positions

    ds, n = images.ds, images.n_images
    before = np.bincount(class_positions(ds, ds["baseline_prediction"].values), minlength=images.n_categories)
    after = ds["n_predicted"].values.astype(np.int64)
    right_before = np.bincount(images.position[images.right], minlength=images.n_categories)
    right_after = right_before - broken + fixed
    others = len(images.position) - n
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = right_before / before - right_after / after
        recall = (right_before - right_after) / n
        negative = ((after - right_after) - (before - right_before)) / others
    return {
        "precision_drop": np.where((before > 0) & (after > 0), precision, np.nan),
        "balanced_accuracy_drop": np.where((n > 0) & (others > 0), (recall + negative) / 2, np.nan),
    }


def _margins(images: PairedImages, level: float) -> dict[str, Array]:
    """Mean margin drop of each class with the paired t interval and test, over clusters."""
    shape = (images.ds.sizes["unit"], images.n_categories)
    mean, error = np.full(shape, np.nan), np.full(shape, np.nan)
    n_blocks = np.bincount(images.block_position, minlength=images.n_categories)
    first = np.searchsorted(images.block_position, np.arange(images.n_categories))
    for units in images.unit_blocks(images.order.size):
        drops = images.margin_drops(units)
        for k, some in images.class_slices():
            with np.errstate(invalid="ignore", over="ignore"):
                centre = drops[:, some].mean(1)
                rest = drops[:, some] - centre[:, None]
                if n_blocks[k] < images.n_images[k]:
                    start = images.block_start[first[k] : first[k] + n_blocks[k]]
                    rest = np.add.reduceat(rest, start - some.start, axis=1)
                square = np.einsum("ub,ub->u", rest, rest)
            mean[units, k] = centre
            error[units, k] = np.sqrt(square * n_blocks[k] / max(n_blocks[k] - 1, 1)) / images.n_images[k]
    error[:, n_blocks < 2] = np.nan
    degrees = np.maximum(n_blocks - 1, 1)
    half = student_quantile((1 + level) / 2, degrees) * error
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * student_tail(np.abs(mean) / error, degrees)
    p = np.where((mean == 0) & (error == 0), 1.0, p)
    return {"margin_drop": mean, "margin_drop_low": mean - half, "margin_drop_high": mean + half, "margin_p_value": p}


def _p_any(broken: Array, fixed: Array, n: Array) -> Array:
    """1 − Πk P(drop of k < max drop) with breaks ~ Bin(m, ½), in whole numbers."""
    m, classes = (broken + fixed)[:, n > 0], n[n > 0]
    if not len(classes):
        return np.full(len(broken), np.nan)
    net = (broken - fixed)[:, n > 0]
    lead = (net / classes).argmax(1)[:, None]
    top, size = np.take_along_axis(net, lead, 1), classes[lead]
    # (2B − m)·size < top·n  ⇔  B ≤ ceil((top·n + m·size)/(2·size)) − 1
    most = -((-(top * classes + m * size)) // (2 * size)) - 1
    below = fair_binomial_cdf(most, m)
    with np.errstate(divide="ignore"):
        return -np.expm1(np.log(below).sum(1))


class _ClusteredCells:
    """Exact tests over cluster sums, cell by cell."""

    def __init__(self, images: PairedImages) -> None:
        n_units, n_categories = images.ds.sizes["unit"], images.n_categories
        shape = (n_units, n_categories)
        self.n_blocks = np.bincount(images.block_position, minlength=n_categories)
        ks = np.unique(images.block_position)
        edges = np.searchsorted(images.block_position, ks)
        counts = np.zeros((*shape, int(images.block_size.max(initial=1))), np.int32)
        net, square, flipped = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        spread = np.zeros(shape)
        for units in images.unit_blocks(images.order.size) if len(ks) else []:
            flips = images.flips(units)
            sums = np.add.reduceat(flips.astype(np.int64), images.block_start, axis=1)
            for size in range(1, counts.shape[2] + 1):
                counts[units, ks, size - 1] = np.add.reduceat((np.abs(sums) == size).astype(np.int32), edges, axis=1)
            net[units, ks] = np.add.reduceat(sums, edges, axis=1)
            square[units, ks] = np.add.reduceat(sums * sums, edges, axis=1)
            changed = np.add.reduceat((flips != 0).astype(np.int64), images.block_start, axis=1)
            flipped[units, ks] = np.add.reduceat(changed, edges, axis=1)
            mean = (net[units] / np.maximum(images.n_images, 1))[:, images.block_position]
            spread[units, ks] = np.add.reduceat((sums - mean * images.block_size) ** 2, edges, axis=1)
        self.n_changed = counts.sum(2)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.z = np.where(square > 0, net / np.sqrt(square), 0.0)
        self.design_effect = _design_effect(spread, flipped, net, images.n_images, self.n_blocks)
        self.keys = [[tuple(int(c) for c in cell) for cell in row] for row in counts]
        self.p_value = np.array(
            [[sign_flip_p_value(self.keys[u][k], int(net[u, k])) for k in range(n_categories)] for u in range(n_units)]
        ).reshape(shape)

    def p_any(self, drop: Array, n: Array) -> Array:
        """1 − Πk P(Σ of signed cluster sums of k < max drop · n)."""
        found = np.full(len(drop), np.nan)
        for unit, row in enumerate(drop):
            if np.isnan(row).all():
                continue
            log_below = 0.0
            for k in np.flatnonzero(n > 0):
                distribution = sign_flip_distribution(self.keys[unit][k])
                reach = len(distribution) // 2
                # the tolerance keeps sums that give exactly the max drop out of "less than"
                least = int(np.ceil(np.nanmax(row) * n[k] - 1e-9))
                below = float(distribution[: max(0, least + reach)].sum())
                log_below += np.log(min(below, 1.0)) if below > 0 else -np.inf
            found[unit] = -np.expm1(log_below)
        return found


def _design_effect(spread: Array, flipped: Array, net: Array, n: Array, n_blocks: Array) -> Array:
    """Variance of a drop with clusters / without: the larger of the cell's own and its class's over all units, at least 1."""
    count, blocks = np.maximum(n, 1), np.maximum(n_blocks, 2)
    clustered = spread * blocks / (blocks - 1)
    alone = np.maximum(flipped - net**2 / count, 0) * count / np.maximum(count - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.where(alone > 0, clustered / alone, 1.0)
        pooled = np.where(alone.sum(0) > 0, clustered.sum(0) / alone.sum(0), 1.0)
    return np.clip(np.maximum(own, pooled), 1.0, count / np.maximum(n_blocks, 1) * 2)
