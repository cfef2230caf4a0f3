"""Damage of every unit to every class, with its uncertainty."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA, LEVEL
from unitlab.analysis.accuracies import balanced_accuracy, class_counts
from unitlab.analysis.margins import MarginContrasts, margin_drops, outcome_drops
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import (
    bonett_price,
    discrete_benjamini_hochberg,
    fair_binomial_cdf,
    mcnemar,
    mcnemar_p_values,
    sign_flip_distribution,
    sign_flip_p_values,
    simultaneous,
)
from unitlab.analysis.requirements import check_level, class_positions, is_screened, require
from unitlab.analysis.specificity import Specificity, concentration
from unitlab.analysis.splits import SPLITS, crossfit_and_reliability
from unitlab.analysis.undefined import leading, ratio
from unitlab.errors import check_seed
from unitlab.progress import stages
from unitlab.schema import VARIABLES, described_like
from unitlab.schema.results import DAMAGE

Array = np.ndarray[Any, Any]

KEPT = ("n_images", "baseline_accuracy", "n_broken", "n_fixed", "accuracy_drop", "overall_drop")
TOP_K = ("n_broken_topk", "n_fixed_topk", "topk_accuracy_drop", "topk_overall_drop", "baseline_topk_accuracy")
LEAST_CHANGED = 6  # with so many images the least p is 2⁻⁵, below `ALPHA`
READ_ONCE = 256 << 20  # bytes of a variable that is read but once, and kept meanwhile; larger ones are read at each use
SMALL = 0.25  # added to the variance of a class's lost images, so that one with few changes does not lead


def damage(ds: xr.Dataset, *, level: float = LEVEL, seed: int = 0, progress: bool = True) -> xr.Dataset:
    """What silencing each unit costs each class, and how sure that is.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    level
        Coverage of the intervals, between 0 and 1.
    seed
        Of the splits in halves and of the shuffles.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    xarray.Dataset
        Drops are fractions of images, positive = damage. Over ``unit, category``: ``accuracy_drop``, ``drop_low``,
        ``drop_high``, ``p_value``, ``q_value``, ``damaged``, ``precision_drop``, ``balanced_accuracy_drop``,
        ``margin_drop`` (logits) with ``margin_drop_low``, ``margin_drop_high``, ``margin_p_value``, ``margin_q_value``;
        ``margin_specific`` (logits: what the class loses beyond what the unit costs all and all units cost the class) with
        ``_low``, ``_high``, ``_p_value``, ``_q_value``; ``n_broken``, ``n_fixed``, ``n_changed``.
        Over ``unit``: ``overall_drop`` with ``overall_drop_low``, ``overall_drop_high`` (for all units at once),
        ``overall_drop_upper`` (one-sided) and ``p_overall``; ``max_class_drop`` with ``max_class_drop_low``, ``_high`` (for the
        worst of all classes) and ``max_class_drop_null``, ``max_class`` (position along category);
        ``max_class_drop_crossfit`` with ``_low``, ``_high`` (for all units at once) and ``_null``; ``max_z``, ``p_any``,
        ``p_specific``, ``p_margin_specific``, ``n_damaged``, ``concentration`` with ``concentration_null`` and
        ``p_concentration``. Of a study with an outcome: ``class_outcome_drop`` with ``_low``, ``_high``, ``outcome_p_value``,
        ``outcome_q_value`` over ``unit, category``, ``overall_outcome_drop`` with ``_low``, ``_high`` (for all units at once),
        ``p_overall_outcome``, ``q_overall_outcome`` over ``unit``; top-k counts and drops where it has them. One number
        each: ``overall_drop_bound`` (no unit costs more), ``reliability`` with
        ``reliability_low``, ``reliability_high``. Attributes: the study's, ``level``, ``seed``, ``n_tested`` of ``n_cells``
        (the cells in which enough images change for a p of 0.05), and ``tested``, the same in words, with what helps. Each
        variable's attributes hold its definition, and which sampling an interval covers. Where the study has ``cluster``,
        splits, intervals and tests go by cluster.

    Raises
    ------
    UnitlabError
        ``ds`` is no study (the message says what it lacks), or ``level`` is no coverage.

    Notes
    -----
    McNemar (1947); Bonett and Price, J. Educ. Behav. Stat. 37 (2012); Döhler, Durand and Roquain,
    Electron. J. Stat. 12 (2018); Besag and Clifford, Biometrika 78 (1991).

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.damage(unitlab.load("vgg_fashion"))
    >>> found.q_value.dims
    ('unit', 'category')
    """
    check_level(level)
    check_seed(seed)
    require(ds, [*KEPT, "prediction", "n_predicted", "label_margin_drop"], "damage", screened=True)
    if is_screened(ds):
        return _of_screened(ds, level)
    ds = ds.copy()
    for name in ("prediction", "label_margin_drop"):
        if ds[name].nbytes <= READ_ONCE:
            ds.variables[name].load()
    # NumPy leaves Python's lock free while it works: what is told by flips and what by margins, on two processors
    with stages("damage", 4, progress) as begin, ThreadPoolExecutor(1) as beside:
        begin("exact tests")
        images = PairedImages(ds, "damage")
        of_margins = beside.submit(margin_damage, images, level, seed, progress)
        drop = ds["accuracy_drop"].values
        broken, fixed = (ds[name].values.astype(np.int64) for name in ("n_broken", "n_fixed"))
        cells = tested_cells(images, broken, fixed)
        tests, largest = exact_tests(cells), largest_drop(drop)
        begin("cross-fitted drops")
        crossfit, reliability = crossfit_and_reliability(images, seed, level)
        begin("do flips single out classes")
        specific = Specificity(images, seed, progress)
        begin("margins")
        margins = of_margins.result()
    values: dict[str, Array] = {
        **{name: ds[name].values for name in KEPT},
        **{name: ds[name].values for name in TOP_K if name in ds},
        "n_broken": broken,
        "n_fixed": fixed,
        "n_changed": cells.n_changed.astype(np.int32),
        "n_images": images.n_images,
        **rate_drops(images, broken, fixed),
        **outcome_drops(images, level),
        **margins,
        **paired_intervals(cells, largest["max_class"], level),
        **overall_intervals(images, broken, fixed, level),
        **tests,
        **false_discoveries(tests["p_value"], cells, drop),
        **largest,
        "max_class_drop_null": specific.limit,
        **not_narrower(crossfit, cells, largest["max_class"], level),
        "max_class_drop_crossfit_null": specific.crossfit_limit,
        "p_specific": specific.p_value,
        "concentration": concentration(np.nan_to_num(drop)),
        "concentration_null": specific.concentration,
        "p_concentration": specific.p_concentration(concentration(np.nan_to_num(drop))),
        **reliability,
    }
    some = np.isfinite(values["p_value"])
    n_tested, n_cells = int((cells.n_changed[some] >= LEAST_CHANGED).sum()), int(some.sum())
    observations = "clusters of images" if images.clustered else "images"
    told = {"n_tested": n_tested, "n_cells": n_cells, "tested": enough_images(n_tested, n_cells, observations=observations)}
    return described_like(ds, values, {"level": level, "seed": seed, "n_splits": SPLITS, **told})


def _of_screened(ds: xr.Dataset, level: float) -> xr.Dataset:
    """What is known of a study of which pairs were left out: the rest is NaN, or not there where it would be a count."""
    require(ds, ["evaluated", "overall_drop_error", "n_unevaluated", "accuracy_drop_missed"], "damage", screened=True)
    images = PairedImages(ds, "damage", screened=True)
    broken, fixed = (ds[name].values.astype(np.int64) for name in ("n_broken", "n_fixed"))
    cells = (ClusterCells if images.clustered else ImageCells)(images, broken, fixed)
    known = (ds["n_unevaluated"].values == 0) & (images.n_images > 0)
    largest = largest_drop(ds["accuracy_drop"].values)
    intervals = paired_intervals(cells, largest["max_class"], level)
    of_cells = {"p_value": cells.p_value, **{name: intervals[name] for name in ("drop_low", "drop_high")}}
    values = {
        **{name: ds[name].values for name in (*KEPT, "overall_drop_error", "n_unevaluated", "accuracy_drop_missed")},
        **largest,
        **{name: np.where(known, found, np.nan) for name, found in of_cells.items()},
    }
    for row in DAMAGE:
        if row.kind == "f" and row.name not in values:
            values[row.name] = np.full([ds.sizes[dim] for dim in row.dims], np.nan)
    some = int(known.sum())
    told = f"The study is screened: of {some:,} of {known.size:,} unit–class pairs every image was evaluated; others have no p."
    return described_like(ds, values, {"level": level, "n_cells": some, "tested": told})


def enough_images(n_tested: int, n_cells: int, *, cells: str = "unit–class pairs", observations: str = "images") -> str:
    """In how many cells enough images change for a significant p, in words, with what would help where these are few."""
    if n_tested == n_cells:
        return f"All {n_cells:,} {cells} can be tested: in each of them {LEAST_CHANGED} {observations} or more change."
    some = (
        f"{n_tested:,} of {n_cells:,} {cells} can be tested; in the others fewer than {LEAST_CHANGED} {observations} change, "
        f"so that no p can be {ALPHA:g} or less."
    )
    if 2 * n_tested >= n_cells:
        return some
    margins, own, unit = (VARIABLES[name].long_name for name in ("margin_q_value", "margin_specific_q_value", "p_specific"))
    return (
        f"Too few images: {some} More images of each class would help; margins ({margins}, {own}) use every image and need "
        f"none to change, and “{unit}” judges all classes of a unit together."
    )


def tested_cells(images: PairedImages, broken: Array, fixed: Array) -> Cells:
    """What is tested of every cell: single images, or clusters of them."""
    return (ClusterCells if images.clustered else ImageCells)(images, broken, fixed)


def margin_damage(images: PairedImages, level: float, seed: int, progress: bool) -> dict[str, Array]:
    """What is told by margins."""
    contrasts = MarginContrasts(images)
    of_cells = contrasts.cells(level)
    return {**margin_drops(images, level), **of_cells, "p_margin_specific": contrasts.p_value(seed, progress)}


def paired_intervals(cells: Cells, worst: Array, level: float) -> dict[str, Array]:
    """Intervals of the accuracy drops: of so many images as the design effect leaves independent.

    The class that is named because it is a unit's ``worst`` of K is covered where the intervals of all K are.
    """
    effect = cells.design_effect
    counts = (cells.broken / effect, cells.fixed / effect, cells.n_images / effect)
    low, high = bonett_price(*counts, level, cells.degrees)
    worst_low, worst_high = _of_worst(cells, worst, simultaneous(level, int((cells.n_images > 0).sum())))
    return {"drop_low": low, "drop_high": high, "max_class_drop_low": worst_low, "max_class_drop_high": worst_high}


def _of_worst(cells: Cells, worst: Array, level: float) -> tuple[Array, Array]:
    """Limits of the drop of the unit's class ``worst``; NaN where that is −1."""
    effect, place = cells.design_effect, np.maximum(worst, 0)[:, None]
    limits = bonett_price(cells.broken / effect, cells.fixed / effect, cells.n_images / effect, level, cells.degrees)
    low, high = (np.where(worst >= 0, np.take_along_axis(limit, place, 1)[:, 0], np.nan) for limit in limits)
    return low, high


def not_narrower(crossfit: dict[str, Array], cells: Cells, worst: Array, level: float) -> dict[str, Array]:
    """Intervals of the cross-fitted drops that are as wide as that of the worst class, at least: a jackknife of the few images
    that change may see no variance at all."""
    mean = crossfit["max_class_drop_crossfit"]
    low, high = _of_worst(cells, worst, simultaneous(level, len(worst)))
    half = np.fmax((crossfit["max_class_drop_crossfit_high"] - crossfit["max_class_drop_crossfit_low"]) / 2, (high - low) / 2)
    low, high = np.clip([mean - half, mean + half], -1, 1)  # a class has no more to lose than all of its images
    return {**crossfit, "max_class_drop_crossfit_low": low, "max_class_drop_crossfit_high": high}


def overall_intervals(images: PairedImages, broken: Array, fixed: Array, level: float) -> dict[str, Array]:
    """The exact test and the intervals of the overall drops, a class as a cell of its own: all images are one."""
    whole = images.of_one_class()
    counts = broken.sum(1, keepdims=True), fixed.sum(1, keepdims=True)
    cells = tested_cells(whole, *counts)
    effect = cells.design_effect
    of_each = (cells.broken / effect, cells.fixed / effect, cells.n_images / effect)
    low, high = bonett_price(*of_each, simultaneous(level, len(broken)), cells.degrees)
    # one-sided: what lies above has half the chance
    upper = bonett_price(*of_each, 2 * level - 1, cells.degrees)[1][:, 0]
    return {
        "overall_drop_low": low[:, 0],
        "overall_drop_high": high[:, 0],
        "overall_drop_upper": upper,
        "overall_drop_bound": np.array(upper.max()),
        "p_overall": cells.p_value[:, 0],
    }


def exact_tests(cells: Cells) -> dict[str, Array]:
    """Tests that a cell, and that any cell of a unit, does not change; the largest studentised drop."""
    some = cells.n_images > 0
    max_z = leading(np.where(some, cells.z, np.nan))[0]
    p_any = cells.p_any(max_z) if some.any() else np.full(len(max_z), np.nan)
    return {"p_value": np.where(some, cells.p_value, np.nan), "p_any": p_any, "max_z": max_z}


def false_discoveries(p: Array, cells: Cells, drop: Array) -> dict[str, Array]:
    """The cells' q, and which are damaged; ``p`` is NaN for classes without images."""
    q = discrete_benjamini_hochberg(p, cells.attainable(np.isfinite(p)))
    damaged = (q <= ALPHA) & (drop > 0)
    return {"q_value": q, "damaged": damaged, "n_damaged": damaged.sum(1).astype(np.int32)}


def largest_drop(drop: Array) -> dict[str, Array]:
    """The largest drop over classes, and the class."""
    largest, where = leading(drop)
    return {"max_class_drop": largest, "max_class": where}


def rate_drops(images: PairedImages, broken: Array, fixed: Array) -> dict[str, Array]:
    """Drops of precision and of balanced accuracy, from counts."""
    predicted = class_positions(images.ds, images.ds["baseline_prediction"].values)[images.order]
    right, before = class_counts(images.position, predicted, images.n_categories)
    after = images.ds["n_predicted"].values.astype(np.int64)
    precision = ratio(right, before) - ratio(right - broken + fixed, after)
    return {
        "precision_drop": np.where((before > 0) & (after > 0), precision, np.nan),
        "balanced_accuracy_drop": balanced_accuracy(broken - fixed, before - after, images.n_images, lost=True),
    }


class ImageCells:
    """What an ablation changes in every cell (unit, category), where each image is one observation: McNemar's test.

    ``n_changed`` counts the observations that change, ``z`` and ``p_value`` judge their sum, ``p_any`` the largest z of a
    unit; an interval is that of ``n_images / design_effect`` images, Student's t with ``degrees``, if any, or normal.
    """

    design_effect: float | Array = 1.0
    degrees: Array | None = None

    def __init__(self, images: PairedImages, broken: Array, fixed: Array) -> None:
        self.n_images, self.broken, self.fixed = images.n_images, broken, fixed
        self.n_changed = broken + fixed
        self.z = (broken - fixed) / np.sqrt(self.n_changed + SMALL)
        self.p_value = mcnemar(broken, fixed)

    def attainable(self, some: Array) -> Iterator[tuple[Array, int]]:
        """The p-values that ``some`` of the cells can have, and how many cells."""
        for m, count in zip(*np.unique(self.n_changed[some], return_counts=True), strict=True):
            yield mcnemar_p_values(int(m)), int(count)

    def p_any(self, max_z: Array) -> Array:
        """1 − Πk P(z of k < max z) with breaks ~ Bin(m, ½)."""
        m = self.n_changed[:, self.n_images > 0]
        least = _least(max_z[:, None], np.sqrt(m + SMALL))
        # 2B − m < least  ⇔  B ≤ ceil((least + m)/2) − 1
        with np.errstate(divide="ignore"):
            return -np.expm1(np.log(fair_binomial_cdf((least + m + 1) // 2 - 1, m)).sum(1))


class ClusterCells:
    """The same where images come in clusters, each one observation: random signs of the sums of flips of every cluster."""

    def __init__(self, images: PairedImages, broken: Array, fixed: Array) -> None:
        self.n_images, self.broken, self.fixed = images.n_images, broken, fixed
        shape = broken.shape
        n_blocks = np.bincount(images.block_position, minlength=images.n_categories)
        ks = np.unique(images.block_position)
        edges = np.searchsorted(images.block_position, ks)
        # how many clusters of a cell have a sum of ±1, of ±2, …
        counts = np.zeros((*shape, int(images.block_size.max())), np.int32)
        net, square, flipped, spread = (np.zeros(shape) for _ in range(4))
        for units in images.unit_blocks(images.order.size):
            flips = images.flips(units)
            sums = np.add.reduceat(flips.astype(np.int64), images.block_start, axis=1)
            changed = np.add.reduceat((flips != 0).astype(np.int64), images.block_start, axis=1)
            for size in range(1, counts.shape[2] + 1):
                counts[units, ks, size - 1] = np.add.reduceat((np.abs(sums) == size).astype(np.int32), edges, axis=1)
            net[units, ks] = np.add.reduceat(sums, edges, axis=1)
            square[units, ks] = np.add.reduceat(sums * sums, edges, axis=1)
            flipped[units, ks] = np.add.reduceat(changed, edges, axis=1)
            mean = (net[units] / np.maximum(self.n_images, 1))[:, images.block_position]
            spread[units, ks] = np.add.reduceat((sums - mean * images.block_size) ** 2, edges, axis=1)
        self.n_changed = counts.sum(2)
        self.degrees = np.maximum(n_blocks - 1, 1)
        self.design_effect = _design_effect(spread, flipped, net, self.n_images, n_blocks)
        self.z = net / np.sqrt(square + SMALL)
        sizes, kind = np.unique(counts.reshape(-1, counts.shape[2]), axis=0, return_inverse=True)
        self.sizes, self.kind = [tuple(one) for one in sizes.tolist()], kind.reshape(shape)
        self.deviation = np.sqrt(sizes @ np.arange(1, counts.shape[2] + 1) ** 2 + SMALL)
        chances = [sign_flip_p_values(one) for one in self.sizes]
        start = np.cumsum([0, *map(len, chances)])
        self.p_value = np.concatenate(chances)[start[self.kind] + np.abs(net).astype(np.int64)]

    def attainable(self, some: Array) -> Iterator[tuple[Array, int]]:
        """As for single images."""
        for number, count in zip(*np.unique(self.kind[some], return_counts=True), strict=True):
            yield sign_flip_p_values(self.sizes[number]), int(count)

    def p_any(self, max_z: Array) -> Array:
        """1 − Πk P(z of k < max z) with random signs of the cluster sums."""
        found = np.empty(len(max_z))
        for unit, kinds in enumerate(self.kind[:, self.n_images > 0]):
            log_below = 0.0
            for kind, deviation in zip(kinds, self.deviation[kinds], strict=True):
                below_all = sign_flip_distribution(self.sizes[kind])
                below = float(below_all[: max(0, int(_least(max_z[unit], deviation)) + len(below_all) // 2)].sum())
                log_below += np.log(min(below, 1.0)) if below > 0 else -np.inf
            found[unit] = -np.expm1(log_below)
        return found


def _least(max_z: Array, deviation: Array) -> Array:
    """The least whole sum that gives ``max_z``; the tolerance keeps the observed one out of "less than"."""
    return np.ceil(max_z * deviation - 1e-9).astype(np.int64)


Cells = ImageCells | ClusterCells


def _design_effect(spread: Array, flipped: Array, net: Array, n: Array, n_blocks: Array) -> Array:
    """Variance of a drop with clusters / without: the larger of the cell's own and its class's over all units, at least 1."""
    count, blocks = np.maximum(n, 1), np.maximum(n_blocks, 2)
    clustered = spread * blocks / (blocks - 1)
    alone = np.maximum(flipped - net**2 / count, 0) * count / np.maximum(count - 1, 1)
    own = np.where(alone > 0, ratio(clustered, alone), 1.0)
    pooled = np.where(alone.sum(0) > 0, ratio(clustered.sum(0), alone.sum(0)), 1.0)
    return np.clip(np.maximum(own, pooled), 1.0, count / np.maximum(n_blocks, 1) * 2)
