"""Which pairs a screened sweep evaluates, how many changed predictions that may leave out, and how sure that is."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import nbinom, poisson
from torch import Tensor

from unitlab.compute.engine.host_copies import on_device
from unitlab.compute.sweep.layer_plan import LayerPlan

ATTEMPTS = 2
LEVEL = 0.05  # of all attempts together: half of it is the first one's, a quarter the second one's
# Bins of the scores: 16 for a factor of two, from 2⁻⁶ to 2¹⁰.
BINS, LEAST_SCORE, BINS_AN_OCTAVE = 256, -6, 16
# A rule is taken that is expected to cost least, and less than a share of all pairs, if to fail costs so much and is not more
# likely than so with either attempt; it is told from some flips. Replayed on all scores and flips of vgg_emoji and resnet_emoji
# (ten cases of 1,000 to 4,428 images, six pilots each) it evaluates 26 % with the pilot, and with 0.5 in place of 0.8, 29.
FAILING, UNSURE, DEAREST, FEWEST_FLIPS = 0.3, (0.8, 0.15), 0.65, 8
# Of a pair with this score, first order errs by more than m − d with the chance Φ(−(half / score) ** steep), or the floor if
# that is more. One such curve fits the lower flips of each layer of vgg_emoji from conv3_2 on (all images): of conv5_1 5.2 % of
# the pairs at a score of 8 to 11, 0.5 % at 4, 0.005 % at 2. Floors are unlikely unless seen.
STEEP, HALF = np.linspace(0.2, 1.4, 13), np.arange(-5, 10.01, 0.25)  # HALF: log2
FLOORS, UNLIKELY = np.array([0, *np.geomspace(1e-6, 1e-2, 9)]), 0.01
LOWEST = 100  # of the flips that curves are told from
MOST_CURVES, STEP = 60, 4  # of the curves that fit best; bins from one threshold to the next
PROBABILITIES = np.geomspace(0.003, 0.6, 60)
NOT_EVALUATED, CERTAIN, SAMPLED = 0, 1, 2  # what is kept of a pair
PAIRS, SAMPLED_PAIRS, FLIPS, SAMPLED_FLIPS = range(4)  # rows of a layer's counts, each by bin of the score


@dataclass(frozen=True)
class Rule:
    """Pairs from the bin ``threshold`` on are evaluated, of the others a Bernoulli sample with ``probability``.

    Threshold 0 is exact: there is no cheaper way to a bound.
    """

    threshold: int = 0
    probability: float = 0.0

    @property
    def exact(self) -> bool:
        return self.threshold == 0

    @property
    def score(self) -> float:
        """The least score that is evaluated for sure."""
        return float(2.0 ** (self.threshold / BINS_AN_OCTAVE + LEAST_SCORE)) if self.threshold else 0.0

    def evaluated(self, counts: np.ndarray) -> float:
        """Share of the live pairs that it evaluates, as far as counts (4, bin) show."""
        above = counts[PAIRS, self.threshold :].sum() / max(counts[PAIRS].sum(), 1)
        return float(above + self.probability * (1 - above))

    def seen(self, counts: np.ndarray) -> np.ndarray:
        """(2, bin): live pairs that it has evaluated, and how many of them change a prediction."""
        certain = np.arange(BINS) >= self.threshold
        pairs = np.where(certain, counts[PAIRS], counts[SAMPLED_PAIRS])
        return np.stack([pairs, counts[FLIPS] + counts[SAMPLED_FLIPS]])

    def __str__(self) -> str:
        if self.exact:
            return "every pair is evaluated: too few changed predictions for a bound, or no cheaper way to one"
        return f"pairs with a score of {self.score:.3g} or more, and {self.probability:.2%} of the others, are evaluated"


def bins_of(score: Tensor) -> Tensor:
    """The bin of each score: uint8."""
    place = (score.double().clamp(2.0**LEAST_SCORE, 2.0**11).log2() - LEAST_SCORE) * BINS_AN_OCTAVE
    return place.floor().clamp(0, BINS - 1).to(torch.uint8)


def uniform(entropy: list[int], positions: np.ndarray, channels: int) -> np.ndarray:
    """Uniform numbers (position, channel) that hang on the entropy, position and channel alone: each position has a stretch of
    one Philox stream to itself, so that those of neighbours are drawn in one call."""
    key, blocks = np.random.SeedSequence(entropy).generate_state(2, np.uint64), -(-channels // 4)
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    stretches = [np.random.Philox(key=key, counter=int(run[0]) * blocks) for run in runs]
    draws = [np.random.Generator(start).random((len(run), 4 * blocks)) for start, run in zip(stretches, runs, strict=True)]
    return np.concatenate(draws)[:, :channels]


class PairChoice:
    """Chooses the pairs of one batch of a layer that are evaluated, and remembers which: ``kept`` (unit, image).

    Whether a pair is sampled hangs on seed, attempt, layer, the image's position and the unit alone: not on batches.
    """

    def __init__(
        self, layer: LayerPlan, seed: int, attempt: int, rule: Rule, positions: np.ndarray, known: np.ndarray | None = None
    ) -> None:
        self.rule, self.known = rule, known
        draws = uniform([seed, attempt, zlib.crc32(layer.name.encode())], positions, layer.shape[1])
        self.drawn = np.ascontiguousarray((draws < rule.probability).T)[layer.units]

    def __call__(self, live: Tensor, score: Tensor) -> Tensor:
        bins = bins_of(score)
        above, drawn = bins.short() >= self.rule.threshold, on_device(self.drawn, bins.device)
        self.kept = torch.where(~live | above, CERTAIN, torch.where(drawn, SAMPLED, NOT_EVALUATED)).to(torch.uint8)
        if self.known is not None:
            known = on_device(self.known, bins.device)
            self.kept.masked_fill_(known, NOT_EVALUATED)
            live = live & ~known
        self.live, self.bins = live, bins
        return self.kept > 0

    def counts(self, changed: Tensor) -> Tensor:
        """(4, bin): live pairs, those of them sampled, changed predictions found for sure, and those found in the sample."""
        sampled = self.kept == SAMPLED
        rows = [self.live, self.live & sampled, self.live & changed & (self.kept == CERTAIN), self.live & changed & sampled]
        bins = self.bins.long().flatten().expand(len(rows), -1)
        # of integers, whose sum is the same in any order
        return bins.new_zeros(len(rows), BINS).scatter_add_(1, bins, torch.stack(rows).flatten(1).long())


def missed_limit(found: int, probability: float, attempt: int) -> float:
    """Upper limit of the changed predictions that a Bernoulli sample has left unevaluated, where it found ``found``.

    The chance that of M flips a sample with probability p finds x or fewer is binomial; the largest M for which that is not
    under the level, less x, is the quantile of a negative binomial with x + 1 successes (Clopper and Pearson 1934, of a number
    in place of a share). The level at attempt j is 0.05/2ʲ, so that all attempts together err with less than 0.05.
    """
    return float(nbinom.ppf(1 - LEVEL / 2**attempt, found + 1, probability))


@cache
def _curves() -> tuple[np.ndarray, np.ndarray]:
    """(curve, bin): chances of a flip; and (curve): logarithm of how likely each curve is before anything is seen."""
    middle = (np.arange(BINS) + 0.5) / BINS_AN_OCTAVE + LEAST_SCORE
    chance = ndtr(-(2.0 ** (STEEP[:, None, None, None] * (HALF[:, None, None] - middle))))
    chance = np.clip(np.maximum(chance, FLOORS[:, None]), 1e-12, 1 - 1e-12)
    likely = np.where(FLOORS > 0, UNLIKELY, 1 - UNLIKELY * (len(FLOORS) - 1))
    return chance.reshape(-1, BINS), np.log(np.broadcast_to(likely, chance.shape[:3])).ravel()


def flip_chances(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chances of a flip (curve, bin) that go with what was ``seen``, pairs and flips (2, bin), and the weight of each curve.

    Curves are of the bins that hold the lowest-ranked flips; those above have chances of their own.
    """
    chance, before = _curves()
    end = min(int(np.searchsorted(np.cumsum(seen[1]), LOWEST)) + 1, BINS - 1)
    pairs, flips = seen[:, :end]
    fit = np.log(chance[:, :end]) @ flips + np.log1p(-chance[:, :end]) @ (pairs - flips) + before
    best = np.argsort(-fit, kind="stable")[:MOST_CURVES]
    weight = np.exp(fit[best] - fit[best[0]])
    found = chance[best]
    found[:, end:] = seen[1, end:] / np.maximum(seen[0, end:], 1)
    return found, weight / weight.sum()


def calibrated(left: np.ndarray, seen: np.ndarray, share: float, attempt: int, found: float = 0) -> Rule:
    """The rule that evaluates least and is likely to leave out no more than ``share`` of the changed predictions.

    ``left`` (bin) are the pairs that there are to evaluate, ``seen`` (2, bin) pairs that were and flips among them, and
    ``found`` those of the flips that count. Whatever the curves are worth, the independent sample decides.
    """
    if seen[1].sum() < (FEWEST_FLIPS if attempt == 1 else 1):
        return Rule()
    chance, weight = flip_chances(seen)
    missed = np.cumsum(chance * left, 1)  # below the threshold that follows each bin
    allowed = share / (1 - share) * (found + weight @ missed[:, -1])
    above = 1 - np.cumsum(left) / max(left.sum(), 1)
    # with each probability, how many the sample may find
    most = (nbinom.cdf(allowed, np.arange(1, 151)[None], PROBABILITIES[:, None]) >= 1 - LEVEL / 2**attempt).sum(1) - 1
    places = np.arange(STEP - 1, BINS, STEP)
    fails = 1 - np.tensordot(weight, poisson.cdf(most, missed[:, places, None] * PROBABILITIES), 1)
    cost = above[places, None] + PROBABILITIES * (1 - above[places, None])
    expected = np.where(fails > UNSURE[attempt - 1], np.inf, cost + FAILING * fails)
    place, which = np.unravel_index(np.argmin(expected), cost.shape)
    return Rule(int(places[place]) + 1, float(PROBABILITIES[which])) if expected[place, which] <= DEAREST else Rule()


def again(rule: Rule, counts: np.ndarray, share: float) -> Rule:
    """The second attempt's rule, from what the first one has found."""
    seen = rule.seen(counts)
    return calibrated(counts[PAIRS] - seen[0], seen, share, ATTEMPTS, float(seen[1].sum()))


@dataclass(frozen=True)
class Certificate:
    """What a layer's screen has found: ``found`` changed predictions, ``limit`` of those missed, and the pairs' numbers."""

    rule: Rule
    attempts: int
    pairs: int
    evaluated: int
    found: int
    limit: float

    @classmethod
    def of(cls, rules: list[Rule], counts: list[np.ndarray]) -> Certificate:
        """Of the rules and counts of one attempt or two."""
        last, found = counts[-1], sum(int(one[FLIPS].sum() + one[SAMPLED_FLIPS].sum()) for one in counts)
        evaluated = sum(int(rule.seen(one)[0].sum()) for rule, one in zip(rules, counts, strict=True))
        sure = rules[-1].exact
        limit = 0.0 if sure else missed_limit(int(last[SAMPLED_FLIPS].sum()), rules[-1].probability, len(rules))
        left = int(counts[0][PAIRS].sum()) - evaluated
        return cls(rules[-1], len(rules), int(counts[0][PAIRS].sum()), evaluated, found, min(limit, left))

    @property
    def missed_share(self) -> float:
        """Upper limit of the share of the changed predictions that are not evaluated."""
        return self.limit / max(self.limit + self.found, 1)

    def attrs(self) -> dict[str, Any]:
        """As attributes of the ablation's group."""
        return {
            "screen_evaluated_share": self.evaluated / max(self.pairs, 1),
            "screen_flips_found": self.found,
            "screen_missed_limit": self.limit,
            "screen_missed_share_limit": self.missed_share,
            "screen_confidence": 1 - LEVEL,
            "screen_attempts": self.attempts,
            "screen_threshold": self.rule.score,
            "screen_probability": self.rule.probability,
        }

    def __str__(self) -> str:
        return (
            f"{self.evaluated / max(self.pairs, 1):.1%} of the live pairs evaluated, {self.found:,} changed predictions found, "
            f"no more than {self.limit:,.0f} missed ({self.missed_share:.2%} of all; 95 %, attempt {self.attempts})"
        )


def rules_to_arrays(rules: Mapping[str, Rule]) -> dict[str, np.ndarray]:
    """As they are kept beside an unfinished sweep."""
    return {name: np.array([rule.threshold, rule.probability]) for name, rule in rules.items()}


def rules_from_arrays(arrays: Mapping[str, Any]) -> dict[str, Rule]:
    found = {name: np.asarray(values) for name, values in arrays.items()}
    return {name: Rule(int(values[0]), float(values[1])) for name, values in found.items()}
