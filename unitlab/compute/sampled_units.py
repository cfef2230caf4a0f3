"""What a screened sweep of many units takes, told from a few units of each layer: of a ResNet50 all would take hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add

import numpy as np
import torch

from unitlab.compute.engine.ablation import Replacement
from unitlab.compute.engine.host_copies import Steps, finished
from unitlab.compute.engine.scores import Scores
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.passes import PILOT, replacements_of
from unitlab.compute.sweep.plan import SweepPlan, engine_of
from unitlab.compute.sweep.screening import BINS, FEWEST_FLIPS, PAIRS, PairChoice, Rule, calibrated
from unitlab.compute.sweep.shards import ShardComputation, ShardResult, ShardSums

FEW_UNITS = 256  # of fewer all are tried
LONG, SECONDS = 20.0, 30.0  # where a few images take longer with every unit, so long is spent on some of them
MOST_SAMPLED = 16  # units of a layer
NOTHING = Rule(BINS, 0.0)  # scores alone


@dataclass(frozen=True)
class SampledUnits:
    """What a few units of each screened layer show, on some images.

    Attributes
    ----------
    units, images
        How many of each layer were ablated, on how many images.
    flips
        How many changed predictions that has shown: of all layers together, since a layer shows few. From them follow, by
        score, the chances of all pairs, whose scores are known.
    shares
        Of each layer's live pairs that a rule evaluates which is calibrated on these chances.
    sweep, pilot
        Seconds of an image.
    result
        Of the sweep that evaluates no pair of the screened layers, for the size of what it gives.
    """

    units: int
    images: int
    flips: int
    shares: dict[str, float]
    sweep: float
    pilot: float
    result: ShardResult

    def __str__(self) -> str:
        few = "" if self.flips >= FEWEST_FLIPS else ": too few, so that every pair is taken for evaluated"
        return (
            f"guessed: times of pairs from {self.units} unit{'s' if self.units > 1 else ''} of each screened layer on "
            f"{self.images} images; shares from the scores of all units and the {self.flips:,} changed predictions of those, "
            f"as if a score meant the same in every layer{few}"
        )


def sampled_units(
    plan: SweepPlan, source: ImageSource, replacements: list[Replacement], batch: ImageBatch
) -> SampledUnits | None:
    """What a few units show; None where the batch can be evaluated with every unit."""
    if sum(len(layer.units) for layer in plan.screened) <= FEW_UNITS:
        return None
    images = len(batch.positions)
    computation = ShardComputation(plan, source, replacements, rules={layer.name: NOTHING for layer in plan.screened})
    sums = ShardSums(plan)
    base = seconds_of(plan, partial(computation.add, batch, sums))
    sums.end()
    result = sums.result()
    pairs = {layer.name: np.asarray(result.layers[layer.name].ablation["screen_counts"])[PAIRS] for layer in plan.screened}

    def all_pairs(costs: dict[str, float], share: Callable[[str], float] = lambda _: 1.0) -> float:
        return sum(pairs[name].sum() * cost * share(name) for name, cost in costs.items())

    units, (costs, counts) = 1, _of_pairs(plan, source, replacements, batch, 1)
    if all_pairs(costs) < LONG:
        return None
    spent = sum(costs[name] * of[PAIRS].sum() for name, of in counts.items())
    units = int(np.clip(SECONDS / max(spent, 1e-9), 1, MOST_SAMPLED))
    if units > 1:
        costs, counts = _of_pairs(plan, source, replacements, batch, units)
    seen, weight = Rule().seen(reduce(add, counts.values())), len(source) / images
    assert plan.request.screen is not None
    rules = {name: calibrated(weight * of, seen, plan.request.screen, 1) for name, of in pairs.items()}
    shares = {name: 1.0 if rule.exact else rule.evaluated(pairs[name][None]) for name, rule in rules.items()}
    return SampledUnits(
        units, images, int(seen[1].sum()), shares, (base + all_pairs(costs, shares.__getitem__)) / images,
        (base + all_pairs(costs, lambda name: PILOT.evaluated(pairs[name][None]))) / images, result,
    )  # fmt: skip


def _of_pairs(
    plan: SweepPlan, source: ImageSource, replacements: list[Replacement], batch: ImageBatch, count: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Seconds of a live pair of each screened layer, and counts (4, bin), from so many of its units spread over all."""
    few = plan.of_layers(layer.name for layer in plan.screened)
    few = replace(few, layers=[_of_some(plan, layer, count) for layer in few.layers])
    labels = None if plan.request.labels == "predicted" else torch.as_tensor(source.labels[batch.positions])
    found = few.network.evaluate(
        batch.pixels, labels, few.sites, few.needed,
        first_order=False, scoring=few.scoring, positions=batch.positions, meeting=few.meeting,
    )  # fmt: skip
    costs, counts = dict[str, float](), dict[str, np.ndarray]()
    own = replacements_of(plan, few, replacements)
    with torch.no_grad():
        for layer, value, replacement in zip(few.layers, found.site_values, own, strict=True):
            engine, replaced = layer.engine, replacement.of(batch.positions, value)
            assert isinstance(engine, SuffixEngine) and found.rivals is not None
            taken, scores = list[float](), list[Scores]()
            for rule in (NOTHING, Rule()):
                choice = PairChoice(layer, plan.request.seed, 0, rule, batch.positions)
                steps = engine.screened(found.baseline, replaced, found.rivals, choice)
                taken.append(seconds_of(plan, partial(_finish, steps, scores)))
            changed = scores[-1]["prediction"] != found.baseline.scores["prediction"]
            counts[layer.name] = choice.counts(changed).cpu().numpy()
            costs[layer.name] = max(taken[1] - taken[0], 0.0) / max(counts[layer.name][PAIRS].sum(), 1)
    return costs, counts


def _finish(steps: Steps[Scores], into: list[Scores]) -> None:
    into.append(finished(steps))


def _of_some(plan: SweepPlan, layer: LayerPlan, count: int) -> LayerPlan:
    """A layer of which so many units, spread over all, are ablated."""
    places = np.unique(np.linspace(0, len(layer.units) - 1, count + 2).round().astype(int)[1:-1])
    units = [layer.units[place] for place in places]
    return replace(layer, units=units, engine=engine_of(plan.network, plan.request, layer.site, units, layer.basis))


def seconds_of(plan: SweepPlan, action: Callable[[], object]) -> float:
    """By the clock, when the device has done it."""
    if plan.network.device.type == "cuda":
        torch.cuda.synchronize(plan.network.device)
    begin = time.perf_counter()
    action()
    if plan.network.device.type == "cuda":
        torch.cuda.synchronize(plan.network.device)
    return time.perf_counter() - begin
