"""What drops of accuracy or margin differ by: units, classes, units and classes together, and the luck of the images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.jackknife import image_groups, jackknife_variance, t_interval
from unitlab.analysis.margins import LEAST_BLOCKS, ClassMoments
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.requirements import check_level, require
from unitlab.analysis.undefined import ratio
from unitlab.errors import UnitlabError, check_seed, nearest_names
from unitlab.schema import described_like

Array = np.ndarray[Any, Any]

OF = ("accuracy_drop", "margin_drop")
COMPONENTS = ("unit", "class", "unit × class", "images")


class CellMeans(NamedTuple):
    """Drops (unit, class), the variance that images give each, and the one that they give the mean over units (class)."""

    drop: Array
    noise: Array
    common: Array


def variance_components(ds: xr.Dataset, of: str = "accuracy_drop", *, level: float = LEVEL, seed: int = 0) -> xr.Dataset:
    """How much of what drops differ in is of units, of classes, of both together, and the luck of the images.

    The mixed model drop(u, k) = μ + unit(u) + class(k) + unit × class(u, k) + images(u, k), all but μ random.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it.
    of
        "accuracy_drop" or "margin_drop".
    level
        Coverage of the intervals, between 0 and 1.
    seed
        Of the groups of images that are left out in turn.

    Returns
    -------
    xarray.Dataset
        Over ``component``: ``variance``, ``variance_share`` with ``variance_share_low``, ``variance_share_high`` (they cover
        images, clusters whole; units and classes are those of the study). Over ``unit, category``: ``shrunken_drop``, in the
        unit of the drop. Each variable's attributes hold its definition.

    Raises
    ------
    UnitlabError
        ``ds`` is no study (the message says what it lacks), an unknown drop, fewer than two units or two classes of five
        images (clusters), a level outside 0 to 1.

    Notes
    -----
    Method of moments: the mean squares of the two-way analysis of variance (Searle, Casella and McCulloch, Variance Components,
    1992), from each of which the variance is taken off that comes of these images; images are the same for all units, whose
    noise is therefore not independent. Prediction: Henderson, Biometrics 31 (1975), with the noise of each class.

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.variance_components(unitlab.load("vgg_fashion"), "margin_drop")
    >>> round(float(found.variance_share.sum()), 6)
    1.0
    """
    check_level(level)
    check_seed(seed)
    if of not in OF:
        raise UnitlabError(f"variance_components knows no drop {of!r}. {nearest_names(of, OF)}")
    require(ds, ["label_margin_drop"] if of == "margin_drop" else [], "variance_components")
    images = PairedImages(ds, "variance_components")
    tested = ClassMoments(images, LEAST_BLOCKS).tested
    if ds.sizes["unit"] < 2 or tested.sum() < 2:
        raise UnitlabError(
            f"variance components need two units and two classes of {LEAST_BLOCKS} images (clusters) at least; there are "
            f"{ds.sizes['unit']} units and {int(tested.sum())} such classes"
        )
    group = image_groups(images, np.random.default_rng(seed))
    means = _cell_means(images, of, tested)
    found = components(means)
    n_groups = int(group.max()) + 1
    without = np.array([components(_cell_means(images.only(group != one), of, tested)) for one in range(n_groups)])
    share, shares_without = ratio(found, found.sum()), ratio(without, without.sum(1, keepdims=True))
    variance = jackknife_variance(share, shares_without, np.bincount(group) / len(group))
    low, high, _ = t_interval(share, [variance], level)
    shrunken = np.full((ds.sizes["unit"], images.n_categories), np.nan)
    shrunken[:, tested] = predicted(means, found)
    values = {
        "component": np.array(COMPONENTS, dtype=object),
        "variance": found,
        "variance_share": share,
        "variance_share_low": low,
        "variance_share_high": high,
        "shrunken_drop": shrunken,
    }
    return described_like(ds, values, {"of": of, "level": level, "seed": seed})


def _cell_means(images: PairedImages, of: str, tested: Array) -> CellMeans:
    moments, n_units = ClassMoments(images), images.ds.sizes["unit"]
    drop, noise = np.empty((2, n_units, images.n_categories))
    total = np.zeros((1, len(images.order)))
    for units in images.unit_blocks(images.order.size):
        values = images.margin_drops(units) if of == "margin_drop" else images.flips(units).astype(np.float64)
        drop[units], noise[units], _ = moments.of(values)
        total += values.sum(0)
    return CellMeans(drop[:, tested], noise[:, tested], moments.of(total / n_units)[1][0, tested])


def components(means: CellMeans) -> Array:
    """Variances of `COMPONENTS`: mean squares of the two-way table without what images add to them."""
    drop, noise, common = means
    n_units, n_classes = drop.shape
    of_cells = (drop**2 - noise).sum()
    of_units = n_classes * (drop.mean(1) ** 2 - noise.sum(1) / n_classes**2).sum()
    of_classes = n_units * (drop.mean(0) ** 2 - common).sum()
    of_all = n_units * n_classes * (drop.mean() ** 2 - common.sum() / n_classes**2)
    cell = (of_cells - of_units - of_classes + of_all) / ((n_units - 1) * (n_classes - 1))
    unit = ((of_units - of_all) / (n_units - 1) - cell) / n_classes
    class_ = ((of_classes - of_all) / (n_classes - 1) - cell) / n_units
    return np.array([unit, class_, cell, noise.mean()])


def predicted(means: CellMeans, variances: Array) -> Array:
    """Best linear prediction of the drops (unit, class) without the luck of the images.

    A class's images give all units a part of their noise in common, which cannot be told from the class's own part; the rest is
    each cell's. As the parts of units have equal variances, and those of a class's cells have, too, the mixed model's equations
    have this closed form.
    """
    drop, noise, common = means
    n_units = len(drop)
    of_unit, of_class, of_cell = np.maximum(variances[:3], 0.0)
    of_images = noise.mean(0)
    shared = np.clip((n_units * common - of_images) / (n_units - 1), 0.0, of_images)
    class_total, cell_total = of_class + shared, of_cell + of_images - shared
    # cells without any variance of their own count as nearly exact
    cell_total = np.maximum(cell_total, 1e-9 * max(float(drop.var()), 1e-30))
    weight = 1 / cell_total
    kept = n_units * weight * class_total / (n_units * weight * class_total + 1)
    pull = weight * (1 - kept)
    by_class = drop.mean(0)
    mean = (pull * by_class).sum() / pull.sum()
    of_units = (drop * weight).sum(1) * of_unit / (weight.sum() * of_unit + 1)
    of_units -= of_units.mean()
    class_part = kept * (by_class - mean)
    rest = drop - mean - of_units[:, None] - class_part
    own = np.where(class_total > 0, ratio(of_class, class_total), 0.0) * class_part
    return np.asarray(mean + of_units[:, None] + own + of_cell / cell_total * rest)
