"""Which pairs a screened sweep evaluates, how many changed predictions that may leave out, and how sure that is."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import nbinom, poisson
from torch import Tensor

from unitlab.compute.engine.host_copies import on_device
from unitlab.compute.sweep.layer_plan import LayerPlan

ATTEMPTS = 2
LEVEL = 0.05  # of all attempts together: half of it is the first one's, a quarter the second one's
# Bins of the scores: 16 for a factor of two, from 2⁻⁶ to 2¹⁰.
BINS, LEAST_SCORE, BINS_AN_OCTAVE = 256, -6, 16
# A rule is taken where it is likely to pass, and cheaper than this share of all pairs; its tail is told from some flips.
LIKELY, DEAREST, FEWEST_FLIPS = 0.8, 0.6, 8
# Below a twentieth of the flips that a sample shows, or five of them, they are taken to get fewer exponentially. With pilots of
# 64 images for 1,000 and for 4,428 (drawn from 128 of vgg_emoji, 96 of resnet_emoji; nine layers) the rules then leave 26 and
# 19 %, 30 and 14 % of the pairs to evaluate, and one layer in eight needs its second attempt; with a slower fall, or fewer
# flips to tell it from, up to half as much again.
FEW, LOWEST = 5, 0.05
PROBABILITIES = np.geomspace(0.003, DEAREST, 60)
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

    def __str__(self) -> str:
        if self.exact:
            return "every pair is evaluated: too few changed predictions for a bound, or no cheaper way to one"
        return f"pairs with a score of {self.score:.3g} or more, and {self.probability:.2%} of the others, are evaluated"


def bins_of(score: Tensor) -> Tensor:
    """The bin of each score: uint8."""
    place = (score.double().clamp(2.0**LEAST_SCORE, 2.0**11).log2() - LEAST_SCORE) * BINS_AN_OCTAVE
    return place.floor().clamp(0, BINS - 1).to(torch.uint8)


class PairChoice:
    """Chooses the pairs of one batch of a layer that are evaluated, and remembers which: ``kept`` (unit, image).

    Whether a pair is sampled hangs on seed, attempt, layer, the image's position and the unit alone: not on batches.
    """

    def __init__(
        self, layer: LayerPlan, seed: int, attempt: int, rule: Rule, positions: np.ndarray, known: np.ndarray | None = None
    ) -> None:
        self.rule, self.known = rule, known
        name, channels = zlib.crc32(layer.name.encode()), layer.shape[1]
        draws = [np.random.default_rng([seed, attempt, name, int(place)]).random(channels) for place in positions]
        self.drawn = np.stack(draws, 1)[layer.units] < rule.probability

    def __call__(self, live: Tensor, score: Tensor) -> Tensor:
        bins = bins_of(score)
        above, drawn = bins >= self.rule.threshold, on_device(self.drawn, bins.device)
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


def calibrated(pairs: np.ndarray, flips: np.ndarray, weight: float, share: float, attempt: int, found: float = 0) -> Rule:
    """The rule that evaluates least and is likely to leave out no more than ``share`` of the changed predictions.

    ``pairs`` and ``flips`` (bin) are what there is to evaluate, as far as a sample shows, of which each flip stands for
    ``weight`` of them; ``found`` have been found already. Where it shows none any more they are taken to get fewer
    exponentially: whatever that is worth, the independent sample decides.
    """
    events, total = np.rint(flips / weight), found + flips.sum()
    if events.sum() < (FEWEST_FLIPS if attempt == 1 else 1):
        return Rule()
    below = np.concatenate([[0], np.cumsum(events)])  # edge: how many are in lower bins
    few = min(max(float(FEW), LOWEST * events.sum()), events.sum())
    edge = int(np.argmax(below >= few))
    places = np.arange(edge)
    reach = float((events[:edge] * (edge - places - 0.5)).sum() / below[edge])
    tail = (below[edge] + np.sqrt(below[edge])) * np.exp(-(edge - np.arange(BINS + 1)) / max(reach, 0.5))
    missed = weight * np.where(np.arange(BINS + 1) < edge, tail, below + np.sqrt(below))
    above = np.concatenate([np.cumsum(pairs[::-1])[::-1], [0]]) / max(pairs.sum(), 1)
    allowed = share / (1 - share) * total
    # with each probability, how many the sample may find
    most = (nbinom.cdf(allowed, np.arange(1, 151)[None], PROBABILITIES[:, None]) >= 1 - LEVEL / 2**attempt).sum(1) - 1
    likely = poisson.cdf(most[None], missed[:, None] * PROBABILITIES[None]) >= LIKELY
    cost = np.where(likely, above[:, None] + PROBABILITIES * (1 - above[:, None]), np.inf)
    cost[0] = np.inf
    place = np.unravel_index(np.argmin(cost), cost.shape)
    return Rule(int(place[0]), float(PROBABILITIES[place[1]])) if cost[place] <= DEAREST else Rule()


def again(rule: Rule, counts: np.ndarray, share: float) -> Rule:
    """The second attempt's rule, from what the first one has found."""
    left = counts[PAIRS] - counts[SAMPLED_PAIRS]
    left[rule.threshold :] = 0
    weight = (1 - rule.probability) / rule.probability
    found = float(counts[FLIPS].sum() + counts[SAMPLED_FLIPS].sum())
    return calibrated(left, weight * counts[SAMPLED_FLIPS], weight, share, ATTEMPTS, found)


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
        evaluated = sum(
            int(one[PAIRS, rule.threshold :].sum() + one[SAMPLED_PAIRS].sum()) for rule, one in zip(rules, counts, strict=True)
        )
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
