"""Which concepts a unit answers to: the area under the ROC curve of its activations, beside chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from unitlab.analysis import ALPHA
from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.analysis.requirements import require
from unitlab.analysis.undefined import leading, ratio
from unitlab.concepts.exchangeable import ImageClusters
from unitlab.errors import UnitlabError
from unitlab.schema import described_like

Array = np.ndarray[Any, Any]

LEAST = 10  # fewer clusters with (or without) a concept, and the normal approximation says too little
ROUNDING = 1e-9
UNITS_AT_ONCE = 256
OF = ("activation_max", "label_margin_drop")


def align(ds: xr.Dataset, concepts: xr.Dataset, *, of: str = "activation_max", within_classes: bool = False) -> xr.Dataset:
    """Does a unit tell images that have a concept from those that have not, and is that more than chance?

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    concepts
        What `unitlab.concepts.tags` or `unitlab.concepts.bundled` give, for the study's images (and others, if need be).
    of
        ``"activation_max"``: which images the unit answers to; ``"label_margin_drop"``: which images its loss harms.
    within_classes
        Whether chance keeps the class: does the unit answer to the concept beyond what the classes of the images explain?

    Returns
    -------
    xarray.Dataset
        Over ``unit, concept``: ``concept_auc`` (NaN for concepts that are numbers), ``concept_correlation`` (Spearman),
        ``concept_z``, ``concept_p``, ``concept_q``. Over ``unit``: ``best_concept``, the one with the largest area among those
        with q ≤ 0.05 and more than ½ ("" for none), and ``best_concept_auc``. Over ``concept``: ``n_tagged`` and
        ``n_exchanged``. NaN for a unit that is constant, and where fewer than ten clusters with, or without, the concept
        change places.

    Raises
    ------
    UnitlabError
        ``ds`` is no study, ``concepts`` are none, or say nothing of some of its images, ``of`` is something else.

    Notes
    -----
    The area is INVERT's measure (Bykov, Kopf, Nakajima, Kloft, Höhne 2023), of the stored spatial max activations. z = (T −
    E)/√V of the rank sum T = Σ tag · rank, with the exact moments of its permutations: E = Σ_s n_s·t̄_s·r̄_s and
    V = Σ_s Σ(t − t̄_s)²·Σ(r − r̄_s)²/(n_s − 1) over strata s. A concept that all images of each cluster have or have not
    changes places with whole clusters of equal size (and class), any other with images of the same class and cluster. p is that
    of a normal z, two-sided; q that of Benjamini and Hochberg over the table.

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.align(unitlab.load("vgg_fashion"), unitlab.concepts.bundled("fashion_mnist"))
    >>> found.concept_auc.dims
    ('unit', 'concept')
    """
    if of not in OF:
        raise UnitlabError(f"of is {of!r}; align takes {' or '.join(map(repr, OF))}")
    require(ds, ["image", "category", "unit", "label", of], "align")
    tag, number = _tags_of(ds, concepts)
    clusters = ImageClusters.of_study(ds, within_classes=within_classes)
    # of a number, what a unit may rise with counts, not by how much
    weight = np.where(number, scipy.stats.rankdata(tag, axis=0), tag)
    parts = []
    for start in range(0, ds.sizes["unit"], UNITS_AT_ONCE):
        rank = scipy.stats.rankdata(ds[of][start : start + UNITS_AT_ONCE].values, axis=1)
        z, exchanged = _z(rank, weight, number, clusters)
        parts.append((z, _area(rank, np.where(number, np.nan, tag)), _spearman(rank, tag)))
    z, area, correlation = (np.concatenate(part) for part in zip(*parts, strict=True))
    p = 2 * scipy.special.ndtr(-np.abs(z))
    q = benjamini_hochberg(p)
    largest, best = leading(np.where((q <= ALPHA) & (area > 0.5), area, np.nan))
    name = concepts["concept"].values
    values = {
        **{own: concepts[own].values for own in ("concept", "concept_category", "tag_is_number")},
        "concept_auc": area,
        "concept_correlation": correlation,
        "concept_z": z,
        "concept_p": p,
        "concept_q": q,
        "n_tagged": np.where(number, len(tag), tag.sum(0)).astype(np.int32),
        "n_exchanged": exchanged,
        "best_concept": np.where(best >= 0, name[best], "").astype(object),
        "best_concept_auc": largest,
    }
    return described_like(ds, values, {"of": of, "within_classes": int(within_classes), "n_tested": int(np.isfinite(p).sum())})


def _tags_of(ds: xr.Dataset, concepts: xr.Dataset) -> tuple[Array, Array]:
    """(image, concept) for the study's images, and whether a concept is a number."""
    if not isinstance(concepts, xr.Dataset) or not {"tag", "tag_is_number", "concept_category"} <= set(concepts.variables):
        raise UnitlabError("concepts are what unitlab.concepts.tags(table) gives, of a table with a row an image")
    images = ds["image"].values.astype(str)
    place = pd.Index(concepts["image"].values.astype(str)).get_indexer(images)
    if (place < 0).any():
        raise UnitlabError(
            f"the concepts say nothing of {int((place < 0).sum())} of the study's {len(images)} images, such as "
            f"'{images[place < 0][0]}'; the table's index holds ids such as '{concepts['image'].values[0]}'"
        )
    return concepts["tag"].values[place], concepts["tag_is_number"].values


def _z(rank: Array, weight: Array, number: Array, clusters: ImageClusters) -> tuple[Array, Array]:
    """(unit, concept) z, and over concepts how many clusters (images) change places."""
    z, exchanged = np.full((len(rank), weight.shape[1]), np.nan), np.zeros(weight.shape[1], np.int32)
    first = weight[clusters.order[clusters.start]]
    whole = (weight == first[clusters.of_image]).all(0)
    # a whole cluster moves with the sum of its ranks
    sums = np.add.reduceat(rank[:, clusters.order], clusters.start, axis=1)
    of_class = np.unique(np.stack([clusters.of_image, clusters.position]), axis=1, return_inverse=True)[1].reshape(-1)
    for some, (ranks, weights, stratum) in (
        (whole, (sums, first, clusters.kind)), (~whole, (rank, weight, of_class)),
    ):  # fmt: skip
        if some.any():
            z[:, some], exchanged[some] = stratified_z(ranks, weights[:, some], stratum, number[some])
    return z, exchanged


def stratified_z(ranks: Array, weights: Array, stratum: Array, number: Array) -> tuple[Array, Array]:
    """z of Σ weight · rank, ranks (unit, block) and weights (block, concept), blocks changing places within their stratum."""
    n_blocks = len(stratum)
    inside = scipy.sparse.csr_array((np.ones(n_blocks), (np.arange(n_blocks), stratum)))
    size = inside.sum(0)
    x = ranks.T - ((inside.T @ ranks.T) / size[:, None])[stratum]
    y = weights - ((inside.T @ weights) / size[:, None])[stratum]
    square_x, square_y = inside.T @ x**2, inside.T @ y**2
    variance = (square_x / np.maximum(size - 1, 1)[:, None]).T @ square_y
    moves = (square_y > ROUNDING)[stratum]
    with_it = (moves & (weights > 0)).sum(0)
    exchanged = moves.sum(0)
    enough = np.where(number, exchanged // 2, np.minimum(with_it, exchanged - with_it)) >= LEAST
    return np.where((variance > ROUNDING) & enough, ratio(x.T @ y, np.sqrt(variance)), np.nan), exchanged


def _area(rank: Array, tag: Array) -> Array:
    """(unit, concept): under the ROC curve."""
    n = tag.sum(0)
    area = ratio(rank @ tag - n * (n + 1) / 2, n * (len(tag) - n))
    return np.where(np.ptp(rank, axis=1, keepdims=True) == 0, np.nan, area)


def _spearman(rank: Array, tag: Array) -> Array:
    x = rank - rank.mean(1, keepdims=True)
    y = scipy.stats.rankdata(tag, axis=0)
    y = y - y.mean(0)
    return ratio(x @ y, np.sqrt((x**2).sum(1)[:, None] * (y**2).sum(0)))
