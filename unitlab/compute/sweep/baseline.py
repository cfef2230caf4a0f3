"""Accuracy of the unablated network on a sample of the images, said before an hour is spent on a wrong setup."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.plan import SweepPlan

log = logging.getLogger("unitlab")

BASELINE_IMAGES = 256
SIGNIFICANCE = 0.01
FAR_UNDER = 0.05
MUCH_BETTER = 0.2
CAUSES = (
    "classes in another order than the logits (categories= takes them in the order of the logits), another normalisation "
    "than in training (transform=), BGR in place of RGB or the reverse, an output that is no logits (output=), weights that were "
    "not loaded"
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
        Accuracy with the classes in the order that suits the predictions best; 0 for fewer than four images of a class, which
        some order suits by chance.
    reversed
        Accuracy with the channels reversed, tried where something is wrong with three channels; else 0.
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
        enough = self.accuracy + MUCH_BETTER
        if self.reordered >= enough:
            wrong.append(f"which would be {self.reordered:.1%} with the classes in another order")
        if self.reversed >= enough:
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
    plan: SweepPlan, source: ImageSource, attrs: dict[str, Any] | None = None, count: int = BASELINE_IMAGES
) -> Baseline | None:
    """Accuracy on a sample spread over all classes; None where labels are the network's own predictions.

    ``attrs`` may have "top1_accuracy", the one that is recorded.
    """
    if plan.request.labels == "predicted":
        return None
    positions = sampled_positions(source.labels, count)
    predicted, labels = _predictions(plan, source, positions), source.labels[positions]
    shares = [np.bincount(values, minlength=len(plan.categories)) / len(positions) for values in (labels, predicted)]
    confusion = np.zeros((len(plan.categories),) * 2)
    np.add.at(confusion, (labels, predicted), 1)
    best = confusion[linear_sum_assignment(confusion, maximize=True)].sum()
    recorded = (attrs or {}).get("top1_accuracy")
    baseline = Baseline(
        len(positions), int(confusion.trace()), float(shares[0] @ shares[1]), None if recorded is None else float(recorded),
        best / len(positions) if len(positions) >= 4 * len(np.unique(labels)) else 0.0,
    )  # fmt: skip
    if not baseline.warning or plan.network.sample.shape[1] != 3:
        return baseline
    other = _predictions(plan, source, positions, channels=(2, 1, 0))
    return replace(baseline, reversed=float((other == labels).mean()))


def _predictions(
    plan: SweepPlan, source: ImageSource, positions: np.ndarray, channels: tuple[int, ...] | None = None
) -> np.ndarray:
    """Predicted classes of some images, of which the channels are put into another order."""
    batches = [positions[first : first + plan.batch_size] for first in range(0, len(positions), plan.batch_size)]
    pixels = (batch.pixels for batch in source.stream(batches))
    return np.concatenate([plan.network.predictions(x if channels is None else x[:, list(channels)]) for x in pixels])


def say_baseline(baseline: Baseline, shown: bool) -> None:
    """Accuracy to the log, and to stderr where that is not read and progress is ``shown``; a loud warning if it is wrong."""
    log.info("%s", baseline)
    if shown and not log.isEnabledFor(logging.INFO):
        print(baseline, file=sys.stderr)
    if baseline.warning:
        log.warning("%s", baseline.warning)
