"""All units of two studies of the same images beside each other: kinds of ablation, layers or networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis.agreement import agreement
from unitlab.analysis.correlations import estimates, left_out_images, measures
from unitlab.analysis.damage import ClusterCells, ImageCells, exact_tests, paired_intervals
from unitlab.analysis.jackknife import UNIT_GROUPS, jackknife_variance, t_interval
from unitlab.analysis.left_out_images import LeftOutImages
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import (
    benjamini_hochberg,
    discrete_benjamini_hochberg,
    student_quantile,
    student_tail,
)
from unitlab.analysis.undefined import mean_of_defined, ratio
from unitlab.progress import stages

Array = np.ndarray[Any, Any]

MEANS = ("overall_drop", "max_class_drop_crossfit")
# of an estimate of `correlations`, what is kept
CORRELATION = tuple(f"{kind}{end}" for kind in ("spearman", "pearson") for end in ("", "_low", "_high", "_p"))


def compared_studies(one: xr.Dataset, other: xr.Dataset, level: float, seed: int, progress: bool) -> dict[str, Array]:
    """Variables of `unitlab.schema.PAIR_VARIABLES` of two studies, each with its units."""
    paired = have_the_same_units(one, other)
    with stages("compare", 4, progress) as begin:
        begin("classes")
        images = [PairedImages(ds, "compare") for ds in (one, other)]
        found = class_drops(images[0], [_mean_flips(side) for side in images], level)
        begin("means over units")
        left_out = left_out_images([one, other], seed, "compare")
        known = [measures(ds, seed=seed, only=MEANS) for ds in (one, other)]
        found |= _means(left_out, known, level)
        begin("units")
        if paired:
            found |= _unit_drops(images, level)
        begin("correlations")
        found |= _correlations(one, other, left_out, paired, seed)
    return found


def have_the_same_units(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Whether a unit of one is a unit of the other: the same layer of the same network, and both of the same units."""
    same = all(one.attrs.get(name) == other.attrs.get(name) for name in ("fingerprint_weights", "layer", "fingerprint_site"))
    baseline = np.array_equal(one["baseline_prediction"].values, other["baseline_prediction"].values)
    return (
        same
        and baseline
        and np.array_equal(one["unit"].values, other["unit"].values)
        and not ("basis" in one or "basis" in other)
    )


def class_drops(images: PairedImages, flips: list[Array], level: float) -> dict[str, Array]:
    """Mean drop of every class on both sides and their difference, from flips (image,) or their means over units."""
    one, other = flips
    sides = [t_by_class(images, side, level) for side in (one, other)]
    mean, low, high, p = t_by_class(images, one - other, level)
    values = {
        name: np.stack([side[at] for side in sides]) for at, name in enumerate(("accuracy_drop", "drop_low", "drop_high"))
    }
    return {
        **values, "drop_difference": mean, "difference_low": low, "difference_high": high,
        "difference_q": benjamini_hochberg(p),
    }  # fmt: skip


def t_by_class(images: PairedImages, values: Array, level: float) -> tuple[Array, Array, Array, Array]:
    """Mean of ``values`` (image,) over the images of each class, with Student's t interval over clusters, and p."""
    n = images.n_images
    mean = ratio(np.bincount(images.position, values, images.n_categories), n.astype(float))
    blocks = np.bincount(images.block_position, minlength=images.n_categories)
    rest = np.add.reduceat(values - np.nan_to_num(mean)[images.position], images.block_start)
    square = np.bincount(images.block_position, rest**2, images.n_categories)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(blocks > 1, np.sqrt(square * blocks / np.maximum(blocks - 1, 1)) / n, np.nan)
    degrees = np.maximum(blocks - 1, 1)
    half = student_quantile((1 + level) / 2, degrees) * error
    p = np.where((mean == 0) & (error == 0), 1.0, 2 * student_tail(ratio(np.abs(mean), error), degrees))
    return mean, mean - half, mean + half, p


class PairedAblations(PairedImages):
    """Images under two ablations of one network's units: flips are +1 where b leaves an image right and a does not."""

    def __init__(self, one: xr.Dataset, other: xr.Dataset) -> None:
        super().__init__(one, "compare")
        self.other = other

    def flips(self, units: slice | Array) -> Array:
        """Int8, (unit, image)."""
        after = self.other["prediction"][units].values.take(self.order, axis=1) == self.label
        return after.astype(np.int8) - (self.ds["prediction"][units].values.take(self.order, axis=1) == self.label)


def _mean_flips(images: PairedImages) -> Array:
    """(image,): share of the units that lose the image less the share that win it."""
    total = np.zeros(len(images.order))
    for units in images.unit_blocks(images.order.size):
        total += images.flips(units).sum(0, dtype=float)
    return total / images.ds.sizes["unit"]


def _means(left_out: list[LeftOutImages], known: list[xr.Dataset], level: float) -> dict[str, Array]:
    """Mean over the units of each side, and the difference, with its interval over images that both have."""
    share, sides = left_out[0].share, []
    for side, values in zip(left_out, known, strict=True):
        again = side.values(MEANS)
        mean = np.stack([mean_of_defined(again[name].astype(float)) for name in MEANS], 1)
        sides.append(mean - mean[:1] + [float(values[name].mean()) for name in MEANS])
    one, other = sides
    found: dict[str, Array] = {"measure": np.array(MEANS, object), "mean_drop": np.stack([one[0], other[0]])}
    difference = one - other
    low, high, p = t_interval(difference[0], [jackknife_variance(difference[0], difference[1:], share)], level)
    p = np.where(difference[0] == 0, 1.0, p)
    found |= {
        "mean_difference": difference[0],
        "mean_difference_low": low,
        "mean_difference_high": high,
        "mean_difference_p": p,
    }
    ends = [t_interval(side[0], [jackknife_variance(side[0], side[1:], share)], level)[:2] for side in sides]
    return found | {"mean_drop_low": np.stack([low for low, _ in ends]), "mean_drop_high": np.stack([high for _, high in ends])}


def _unit_drops(images: list[PairedImages], level: float) -> dict[str, Array]:
    """Overall drop of every unit on both sides, their difference with the interval of paired shares, exact q over units."""
    ds = [side.ds for side in images]
    pair = PairedAblations(*ds).of_one_class()
    n_units = ds[0].sizes["unit"]
    broken, fixed = np.zeros((2, n_units, 1), np.int64)
    for units in pair.unit_blocks(pair.order.size):
        flips = pair.flips(units)
        broken[units, 0], fixed[units, 0] = (flips > 0).sum(1), (flips < 0).sum(1)
    cells = (ClusterCells if pair.clustered else ImageCells)(pair, broken, fixed)
    limits, p = paired_intervals(cells, np.full(n_units, -1), level), exact_tests(cells)["p_value"]
    return {
        "unit": ds[0]["unit"].values,
        "unit_drop": np.stack([side["overall_drop"].values for side in ds]),
        "unit_difference": (broken - fixed)[:, 0] / len(pair.order),
        "unit_difference_low": limits["drop_low"][:, 0],
        "unit_difference_high": limits["drop_high"][:, 0],
        "unit_difference_q": discrete_benjamini_hochberg(p, cells.attainable(np.isfinite(p)))[:, 0],
    }


def _correlations(
    one: xr.Dataset, other: xr.Dataset, left_out: list[LeftOutImages], paired: bool, seed: int
) -> dict[str, Array]:
    """How alike the two sides' drops are: over units and cells where these are the same, and over classes."""
    rows: dict[str, Any] = {}
    if paired and one.sizes["unit"] > 2:
        table = agreement({"a": one, "b": other}, seed=seed, progress=False).set_index("of")
        names = {"overall_drop": "units", "max_class_drop_crossfit": "units", "accuracy_drop": "cells"}
        rows = {f"{name} of {what}": table.loc[name] for name, what in names.items()}
    columns = [mean_of_defined(side.cells_of("accuracy_drop").astype(float).swapaxes(1, 2)) for side in left_out]
    groups = np.random.default_rng(seed).permutation(one.sizes["category"]) % UNIT_GROUPS
    row = estimates(columns, groups, left_out[0].share, True)
    rows["mean accuracy_drop of classes"] = {**row, "covers": "classes and images"}
    values = {name: np.array([float(row[name]) for row in rows.values()]) for name in CORRELATION}
    return {
        "correlated": np.array(list(rows), object),
        "n_correlated": np.array([int(row["n_units"]) for row in rows.values()]),
        "sampling": np.array([str(row["covers"]) for row in rows.values()], object),
        **values,
    }
