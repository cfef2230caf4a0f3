"""Accuracy of the unablated network on a sample of the images, said before an hour is spent on a wrong setup."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.progress import say

log = logging.getLogger("unitlab")

BASELINE_IMAGES = 256
SIGNIFICANCE = 0.01
FAR_UNDER = 0.05
MUCH_BETTER = 0.2
CAUSES = (
    "classes in another order than the logits (categories= takes them in the order of the logits), another normalisation "
    "than in training (transform=), BGR in place of RGB or the reverse, an output that is no logits (output=), weights that "
    "were not loaded"
)


@dataclass(frozen=True)
class Baseline:
    """Accuracy on a sample.

    Attributes
    ----------
    images, correct
        How many there are, and how many of them are recognised.
    chance
        Σ over classes of the share of labels × the share of predictions: a constant predictor is at chance.
    recorded
        Accuracy that is recorded for the network, as a share; None where none is.
    reordered
        Accuracy with the classes in the order that suits the predictions best, where that is 20 points more and more than in 99
        trials with shuffled labels; else 0.
    reversed
        Accuracy with the channels reversed, on a quarter of the images, where that is more (sign test, 99 %); else 0.
    """

    images: int
    correct: int
    chance: float
    recorded: float | None = None
    reordered: float = 0.0
    reversed: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.correct / self.images

    @property
    def at_chance(self) -> bool:
        """Whether chance reaches as many with a probability of 1 % or more (binomial)."""
        return self.correct < self.images and float(binom.sf(self.correct - 1, self.images, self.chance)) >= SIGNIFICANCE

    @property
    def far_under_recorded(self) -> bool:
        """Whether the accuracy is 5 points or more under the recorded one, which gives so few with less than 1 %."""
        if self.recorded is None or self.accuracy > self.recorded - FAR_UNDER:
            return False
        return float(binom.cdf(self.correct, self.images, self.recorded)) < SIGNIFICANCE

    @property
    def warning(self) -> str:
        """What is wrong, with the likely causes; "" where nothing is."""
        wrong = []
        if self.at_chance:
            wrong.append(f"not above chance ({self.chance:.1%})")
        if self.far_under_recorded:
            wrong.append(f"far under the recorded {self.recorded:.1%}")
        if self.reordered:
            wrong.append(f"which would be {self.reordered:.1%} with the classes in another order")
        if self.reversed:
            wrong.append(f"which are {self.reversed:.1%} with the channels reversed (BGR for RGB)")
        if not wrong:
            return ""
        return f"THE NETWORK RECOGNISES {self.correct} OF {self.images} IMAGES, {', '.join(wrong)}. Likely causes: {CAUSES}"

    def __str__(self) -> str:
        recorded = "" if self.recorded is None else f", recorded {self.recorded:.1%}"
        return (
            f"{self.accuracy:.1%} accuracy on {self.images} images spread over all classes (chance {self.chance:.1%}{recorded})"
        )


def sampled_positions(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Positions of ``count`` images, as many of each class as its share, drawn by a seed; all where there are no more."""
    random = np.random.default_rng(seed).permutation(len(labels))
    by_class = random[np.argsort(labels[random], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(labels) - 1, min(count, len(labels))).round().astype(int)])


def measured_baseline(
    plan: SweepPlan, source: ImageSource, attrs: dict[str, Any] | None = None, count: int | None = None
) -> Baseline | None:
    """Accuracy on a sample spread over all classes; None where labels are the network's own predictions.

    ``attrs`` may have "top1_accuracy", the one that is recorded.
    """
    if plan.request.labels == "predicted":
        return None
    positions = sampled_positions(source.labels, count or BASELINE_IMAGES)
    labels = source.labels[positions]
    size, predicted, pairs = plan.batch_size, list[np.ndarray](), list[np.ndarray]()
    for batch in source.stream(positions[first : first + size] for first in range(0, len(positions), size)):
        predicted.append(plan.network.predictions(batch.pixels))
        if batch.pixels.shape[1] == 3:
            some = slice(None, None, 4)
            turned = plan.network.predictions(batch.pixels[some].flip(1))
            pairs.append(np.stack([predicted[-1][some], turned]) == source.labels[batch.positions[some]])
    found = np.concatenate(predicted)
    recorded = (attrs or {}).get("top1_accuracy")
    shares = [np.bincount(values, minlength=len(plan.categories)) / len(positions) for values in (labels, found)]
    return Baseline(
        images=len(positions),
        correct=int((labels == found).sum()),
        chance=float(shares[0] @ shares[1]),
        recorded=None if recorded is None else float(recorded),
        reordered=_reordered(labels, found),
        reversed=_reversed(*np.concatenate(pairs, 1)) if pairs else 0.0,
    )


def _reordered(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Accuracy in the order of classes that suits the predictions best; 0 where that is not much more, or could be chance."""
    best = _best_order(labels, predicted)
    gain = best - float((labels == predicted).mean())
    if gain < MUCH_BETTER or len(labels) < 4 * len(np.unique(labels)):
        return 0.0
    random = np.random.default_rng(0)
    return best if best > max(_best_order(random.permutation(labels), predicted) for _ in range(99)) else 0.0


def _best_order(labels: np.ndarray, predicted: np.ndarray) -> float:
    confusion = np.zeros((1 + max(labels.max(), predicted.max()),) * 2)
    np.add.at(confusion, (labels, predicted), 1)
    return float(confusion[linear_sum_assignment(confusion, maximize=True)].sum() / len(labels))


def _reversed(right: np.ndarray, turned: np.ndarray) -> float:
    """Accuracy with reversed channels; 0 where that is not more (sign test of the pairs)."""
    won, lost = int((turned & ~right).sum()), int((right & ~turned).sum())
    return float(turned.mean()) if binom.sf(won - 1, won + lost, 0.5) < SIGNIFICANCE else 0.0


def say_baseline(baseline: Baseline, shown: bool) -> None:
    """Accuracy to the log, and to stderr where that is not read and progress is ``shown``; a loud warning if it is wrong."""
    say(str(baseline), shown)
    if baseline.warning:
        log.warning("%s", baseline.warning)
