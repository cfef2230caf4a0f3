"""What ablations do to margins: means by class, and what single classes lose beyond what the unit costs all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import benjamini_hochberg, simultaneous, student_quantile, student_tail
from unitlab.analysis.specificity import Blocks, Draws, shuffle_moments
from unitlab.analysis.undefined import mean_of_defined, ratio

Array = np.ndarray[Any, Any]

LEAST_SHUFFLES = 199  # 99.9 % limits of 0 in so many are 0.034: Benjamini–Hochberg needs no more where most units are found
HUBER, ROUNDS = 3.0, 10  # standard errors beyond which a class draws the line no further; steps of the fit
MOST_SHUFFLES = 4999  # every image is shuffled; one unit alone is found among 250, nine among 2,048
LEAST_CLASSES = 4  # a line through fewer class means fits noise
LEAST_BLOCKS = 5  # a class of fewer images (clusters) tells its own spread too badly
UNITS_AT_ONCE = 64
ROUNDING = 1e-5  # of single precision
SQUARES_ROUNDING = 1e-12  # of sums of squares in double precision


def margin_drops(images: PairedImages, level: float) -> dict[str, Array]:
    """Mean margin drop of each class with the paired t interval and test, over clusters."""
    found = mean_drops(images, images.margin_drops, level)
    q = benjamini_hochberg(found["_p_value"])
    return {"margin_p_value": found.pop("_p_value"), "margin_q_value": q, **{f"margin_drop{end}": found[end] for end in found}}


def outcome_drops(images: PairedImages, level: float) -> dict[str, Array]:
    """Mean drop of a study's outcome, of each class and over all images, with paired t intervals and tests over clusters;
    nothing where the study has no outcome."""
    if "outcome_drop" not in images.ds:
        return {}
    cells, whole = mean_drops(images, images.outcome_drops, level), images.of_one_class()
    overall = mean_drops(whole, whole.outcome_drops, simultaneous(level, images.ds.sizes["unit"]))
    p_cell, p = cells.pop("_p_value"), overall.pop("_p_value")[:, 0]
    return {
        **{f"class_outcome_drop{end}": cells[end] for end in cells},
        "outcome_p_value": p_cell,
        "outcome_q_value": benjamini_hochberg(p_cell),
        **{f"overall_outcome_drop{end}": overall[end][:, 0] for end in overall},
        "p_overall_outcome": p,
        "q_overall_outcome": benjamini_hochberg(p),
    }


def mean_drops(images: PairedImages, drops: Callable[[slice], Array], level: float) -> dict[str, Array]:
    """Mean of drops (unit, image) in each class with the paired t interval and test, under what their names end in."""
    moments = ClassMoments(images)
    shape = (images.ds.sizes["unit"], images.n_categories)
    mean, variance = np.full(shape, np.nan), np.full(shape, np.nan)
    for units in images.unit_blocks(images.order.size):
        mean[units], variance[units], _ = moments.of(drops(units))
    return _tested(mean, variance, moments.degrees, level)


class MarginContrasts:
    """What a unit does to the margin of an image beyond what it does to all classes and what all units do to that class.

    The drop less the mean drop by the other units, within classes in the proportion that leaves least (``common``), and less
    a line through the class means along those of the other units (``level``, ``slope``). So what falls on all classes alike, or
    in proportion to how sensitive they are, is no contrast of any class.
    """

    def __init__(self, images: PairedImages) -> None:
        self.images = images
        self.moments = ClassMoments(images, LEAST_BLOCKS)
        self.n_units = images.ds.sizes["unit"]
        self.total = np.zeros(len(images.order))
        means = np.full((self.n_units, images.n_categories), np.nan)
        for units in images.unit_blocks(images.order.size):
            drops = images.margin_drops(units)
            with np.errstate(invalid="ignore", over="ignore"):
                self.total += drops.sum(0)
            means[units] = self.moments.means(drops)
        with np.errstate(invalid="ignore", over="ignore"):
            self.others = (means.sum(0) - means) / max(self.n_units - 1, 1)
        lined = self.n_units > 1 and int(self.moments.tested.sum()) >= LEAST_CLASSES
        self.common = self._within_classes(means) if lined else np.full(self.n_units, float(self.n_units > 1))
        self.level, self.slope = np.zeros((2, self.n_units))
        self.mean, self.variance, self.square = np.full((3, *means.shape), np.nan)
        for units in images.unit_blocks(images.order.size):
            self.mean[units], self.variance[units], self.square[units] = self.moments.of(self.of(units))
        self._fit(lined)

    def _within_classes(self, means: Array) -> Array:
        """Slope of a unit's drops on the other units', within classes; a control variate, which changes no mean contrast."""
        slope = np.zeros(self.n_units)
        total = self.total - means.sum(0)[self.images.position]
        with np.errstate(invalid="ignore", over="ignore"):
            of_all = np.einsum("i,i->", total, total)
            for units in self.images.unit_blocks(self.images.order.size):
                drops = self.images.margin_drops(units)
                drops -= means[units][:, self.images.position]
                own, along = np.einsum("ui,ui->u", drops, drops), drops @ total
                # of the others, total − drops
                square = of_all - 2 * along + own
                some = square > SQUARES_ROUNDING * (of_all + own)
                slope[units] = np.where(some, ratio((along - own) * (self.n_units - 1), square), 0.0)
        return slope

    def _fit(self, lined: bool) -> None:
        """The line of each unit; ``away`` (unit, tested class): the classes' places along it, ``pull``: their part in it."""
        tested = self.moments.tested
        with np.errstate(invalid="ignore", over="ignore"):
            left, others, bound = self.mean[:, tested], self.others[:, tested], HUBER * np.sqrt(self.variance[:, tested])
            size, rest = self.moments.n_blocks[tested].astype(float), np.zeros_like(left)
            # a class that a unit singles out must not draw the line (Huber)
            for _ in range(ROUNDS if lined else 0):
                weight = size * np.where(np.abs(rest) > bound, ratio(bound, np.abs(rest)), 1.0)
                centre = ratio((weight * others).sum(1), weight.sum(1))[:, None]
                pull = weight * (others - centre)
                square = (pull * others).sum(1, keepdims=True)
                self.pull = np.where(square > 0, ratio(pull, square), 0.0)
                self.slope = (self.pull * left).sum(1)
                rest = left - self.slope[:, None] * others
                rest -= ratio((weight * rest).sum(1), weight.sum(1))[:, None]
            if not lined:
                self.pull = np.zeros_like(left)
            self.away = others - mean_of_defined(others)[:, None]
            self.level = mean_of_defined(left - self.slope[:, None] * others)
            self.mean -= self.level[:, None] + self.slope[:, None] * self.others

    def of(self, units: slice | Array) -> Array:
        """Contrasts, (unit, image)."""
        drops = self.images.margin_drops(units)
        with np.errstate(invalid="ignore", over="ignore"):
            line = self.level[units, None] + self.slope[units, None] * self.others[units]
            others = (self.total - drops) / max(self.n_units - 1, 1)
            drops -= self.common[units, None] * others
            drops -= line[:, self.images.position]
        return drops

    def cells(self, level: float) -> dict[str, Array]:
        """Mean contrast of every cell with its interval, p and q."""
        tested = self.moments.tested
        mean = np.where(tested, self.mean, np.nan)
        # spreads of single classes of single units are too few blocks' for a maximum over classes
        spread = np.where(tested, self.square / self.moments.degrees, np.nan)
        self.of_unit = np.sqrt(mean_of_defined(spread))
        self.of_class = np.sqrt(mean_of_defined(ratio(spread, self.of_unit[:, None] ** 2).T))
        # classes that are not tested are shuffled with the others
        self.of_class[~np.isfinite(self.of_class) | (self.of_class == 0)] = 1.0
        found = _tested(mean, self._with_line(self.variance), self.moments.degrees, level)
        found["_q_value"] = benjamini_hochberg(found["_p_value"])
        return {f"margin_specific{end}": value for end, value in found.items()}

    def _with_line(self, variance: Array) -> Array:
        """Variances of the mean contrasts, level and slope being fitted to the same class means.

        The contrast of class k loses 1/K + away_k·pull_j of the deviation of each class j.
        """
        tested, found = self.moments.tested, np.full_like(variance, np.nan)
        own, away, share = variance[:, tested], self.away, 1 / max(int(self.moments.tested.sum()), 1)
        with np.errstate(invalid="ignore", over="ignore"):
            sums = [(own * self.pull**power).sum(1, keepdims=True) for power in range(3)]
            of_all = share**2 * sums[0] + 2 * share * away * sums[1] + away**2 * sums[2]
            lost = share + away * self.pull
            found[:, tested] = np.maximum(of_all + (1 - 2 * lost) * own, 0)
        return found

    def p_value(self, seed: int, progress: bool) -> Array:
        """(unit): chance of a studentised maximum of the classes' contrasts as large if classes are shuffled among blocks of
        the same size and about the same baseline margin; `cells` comes first."""
        images, random = self.images, np.random.default_rng(seed)
        blocks = Blocks(images, whole=True)
        stratum = blocks.strata(np.ones(blocks.n, bool))
        class_start = np.append(0, np.cumsum(np.bincount(blocks.position, minlength=images.n_categories)))
        ones, identity = np.ones(blocks.n, np.float32), np.arange(blocks.n)

        def sums(values: Array, shuffled: Array) -> Array:
            """(shuffle, category, unit) of values (block, unit)."""
            n = len(shuffled)
            start = np.append(0, class_start[1:] + np.arange(n)[:, None] * blocks.n)
            one_hot = scipy.sparse.csr_matrix((np.tile(ones, n), shuffled.ravel(), start), shape=(len(start) - 1, blocks.n))
            return np.asarray(one_hot @ values).reshape(n, images.n_categories, -1)

        known = np.isfinite(self.of_unit)
        draws = Draws(np.flatnonzero(known & (self.of_unit > 0)), self.n_units, 0, LEAST_SHUFFLES, most=MOST_SHUFFLES)
        centre, scale = np.zeros((2, self.n_units, images.n_categories), np.float32)
        observed, held, values = np.zeros(self.n_units, np.float32), np.empty(0, int), np.empty((blocks.n, 0), np.float32)
        for done, shuffled in draws.batches(stratum, random, "do margins single out classes", progress):
            for some in np.array_split(draws.active, -(-len(draws.active) // UNITS_AT_ONCE)):
                kept = np.isin(held, some)
                values = values[:, kept] if kept.sum() == len(some) else self._standardised(some, blocks)
                held = some
                if done == 0:
                    centre[some], scale[some] = self._moments(values, stratum, blocks)
                    found = sums(values, identity[None])[0].T
                    observed[some] = ((found - centre[some]) * scale[some]).max(1)
                    observed[some] -= ROUNDING * (1 + np.abs(observed[some]))
                width = max(1, (1 << 23) // (images.n_categories * len(some)))
                for first in range(0, len(shuffled), width):
                    found = sums(values, shuffled[first : first + width])
                    largest = ((found - centre[some].T) * scale[some].T).max(1)
                    draws.reached[some] += (largest >= observed[some]).sum(0)
        return np.where(known, draws.p_value, np.nan)

    def _standardised(self, units: Array, blocks: Blocks) -> Array:
        """Contrasts of whole blocks in spreads of their unit and class, (block, unit)."""
        contrasts = self.of(units)
        # about a mean over images that neither a class of few images nor one of much spread moves
        weight = 1 / self.of_class[self.images.position] ** 2
        contrasts -= (contrasts @ weight / weight.sum())[:, None]
        if blocks.n < contrasts.shape[1]:
            contrasts = np.add.reduceat(contrasts, self.images.block_start, axis=1)
        contrasts /= self.of_unit[units, None]
        contrasts *= ratio(np.ones(1), self.of_class)[blocks.position]
        return np.ascontiguousarray(contrasts.T, dtype=np.float32)

    def _moments(self, values: Array, stratum: Array, blocks: Blocks) -> tuple[Array, Array]:
        n_strata = int(stratum.max()) + 1
        inside = scipy.sparse.csr_matrix((np.ones(blocks.n), (stratum, np.arange(blocks.n))), shape=(n_strata, blocks.n))
        wide = values.astype(np.float64)
        mean, variance = shuffle_moments(
            stratum, blocks.position, self.images.n_categories, (inside @ wide).T, (inside @ wide**2).T
        )
        mean[:, ~self.moments.tested] = np.inf
        return mean, 1 / np.sqrt(np.maximum(variance, 1e-12))


class ClassMoments:
    """Means of values (unit, image) by class, and the variances of these means over clusters."""

    def __init__(self, images: PairedImages, least: int = 2) -> None:
        self.images = images
        self.n_blocks = np.bincount(images.block_position, minlength=images.n_categories)
        self.first = np.searchsorted(images.block_position, np.arange(images.n_categories))
        self.tested = self.n_blocks >= least
        self.degrees = np.maximum(self.n_blocks - 1, 1)

    def means(self, values: Array) -> Array:
        found = np.full((len(values), self.images.n_categories), np.nan)
        for k, some in self.images.class_slices():
            found[:, k] = values[:, some].mean(1)
        return found

    def of(self, values: Array) -> tuple[Array, Array, Array]:
        """(unit, category) each: mean, its variance (NaN for a single block), and the squares of the blocks' sums about it."""
        images = self.images
        with np.errstate(invalid="ignore", over="ignore"):
            mean, square = self.means(values), np.zeros((len(values), images.n_categories))
            for k, some in images.class_slices():
                rest = values[:, some] - mean[:, k, None]
                if self.n_blocks[k] < images.n_images[k]:
                    start = images.block_start[self.first[k] : self.first[k] + self.n_blocks[k]]
                    rest = np.add.reduceat(rest, start - some.start, axis=1)
                square[:, k] = np.einsum("ub,ub->u", rest, rest)
            variance = ratio(square * self.n_blocks / self.degrees, images.n_images.astype(float) ** 2)
        return mean, np.where(self.tested, variance, np.nan), square


def _tested(mean: Array, variance: Array, degrees: Array, level: float) -> dict[str, Array]:
    """A mean with Student's t interval and two-sided p, under what their names end in."""
    error = np.sqrt(variance)
    half = student_quantile((1 + level) / 2, degrees) * error
    with np.errstate(invalid="ignore"):
        p = np.where((mean == 0) & (error == 0), 1.0, 2 * student_tail(ratio(np.abs(mean), error), degrees))
    return {"": mean, "_low": mean - half, "_high": mean + half, "_p_value": p}
