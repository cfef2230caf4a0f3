"""The passes of a sweep over the images: a screen's pilot, the shards, and a second attempt where one is not sure enough."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import reduce
from operator import add

import numpy as np

from unitlab.compute.engine.ablation import Replacement
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.progress import images_bar, interrupt_after_shard
from unitlab.compute.sweep.replacements import unit_replacements
from unitlab.compute.sweep.screening import (
    BINS_AN_OCTAVE,
    LEAST_SCORE,
    PAIRS,
    Certificate,
    Rule,
    again,
    calibrated,
    rules_from_arrays,
    rules_to_arrays,
)
from unitlab.compute.sweep.shards import (
    Arrays,
    Ended,
    LayerShard,
    ShardComputation,
    ShardResult,
    ShardSums,
)
from unitlab.store.shards import PartialStudy, Shards

log = logging.getLogger("unitlab")

# Of the images of a screened sweep, one in so many is tried before, but for a few and no more than some: pairs of which first
# order, as far off as it may be, loses the margin, and one in eight of the others, few of which change a prediction.
PILOT_SHARE, FEWEST_PILOT, MOST_PILOT = 32, 96, 256
PILOT = Rule(-LEAST_SCORE * BINS_AN_OCTAVE, 1 / 8)  # from a score of 1 on
Counts = dict[str, np.ndarray]


def compute_shards(plan: SweepPlan, source: ImageSource, shards: Shards, progress: bool, *, for_study: bool = True) -> None:
    """Compute the shards that are not finished yet, as a study wants them or with scores alone.

    Where they are kept on disk, the first Ctrl-C lets the shard end that is being computed.
    """
    done = set(shards.finished())
    left = [index for index in range(len(plan.shard_bounds)) if index not in done]
    if not left and not plan.screened:
        return
    with interrupt_after_shard(kept=isinstance(shards, PartialStudy)) as interrupt:
        replacements = unit_replacements(plan, source, shards, interrupt, progress)
        interrupt.heed()
        rules = first_rules(plan, len(source), shards, lambda: pilot_counts(plan, source, replacements, progress))
        interrupt.heed()
        computation = ShardComputation(plan, source, replacements, for_study=for_study, rules=rules)
        with (
            images_bar(
                len(source), finished=len(source) - plan.images_in(left), description=plan.description, shown=progress
            ) as bar,
            closing(computation.shards([plan.shard_bounds[index] for index in left], bar.update)) as computed,
            WrittenMeanwhile(shards) as written,
        ):
            for index, shard in zip(left, computed, strict=True):
                written.write(index, shard)
                interrupt.heed()
        left = left_again(plan, shards)
        if left:
            second = SecondAttempt(plan, source, replacements, shards)
            with images_bar(plan.images_in(left), description=second.description, shown=progress) as bar:
                for index in left:
                    shards.write(index, second.shard(index, plan.shard_bounds[index - second.first], bar.update))
                    interrupt.heed()


class WrittenMeanwhile:
    """Puts a shard together and writes it while the next one is computed, one after the other.

    What goes wrong is raised with the next one, or at the end.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards, self.thread = shards, ThreadPoolExecutor(1, "unitlab-shards")
        self.writing: Future[None] | None = None

    def write(self, index: int, shard: Ended) -> None:
        """Begin to write a shard, once the one before it is there."""
        self._wait()
        self.writing = self.thread.submit(lambda: self.shards.write(index, shard().to_arrays()))

    def _wait(self) -> None:
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> WrittenMeanwhile:
        return self

    def __exit__(self, *_: object) -> None:
        # after an interruption, too: what was computed is kept
        with self.thread:
            self._wait()


def pilot_positions(images: int) -> np.ndarray:
    """Images spread over all, of which pairs are evaluated by the rule `PILOT` before a screened sweep."""
    count = min(images, max(FEWEST_PILOT, min(images // PILOT_SHARE, MOST_PILOT)))
    return np.unique(np.linspace(0, images - 1, count).round().astype(int))


def pilot_counts(plan: SweepPlan, source: ImageSource, replacements: list[Replacement], progress: bool) -> Counts:
    """Live pairs and changed predictions of the pilot's images, (4, bin) for each layer that can be screened."""
    positions, part = pilot_positions(len(source)), plan.of_layers(layer.name for layer in plan.screened)
    with images_bar(len(positions), description=f"pilot of {part.layers_text}", shown=progress) as bar:
        return counts_of(part, source, replacements_of(plan, part, replacements), positions, bar.update)


def counts_of(
    plan: SweepPlan,
    source: ImageSource,
    replacements: list[Replacement],
    positions: np.ndarray,
    advance: Callable[[int], object],
) -> Counts:
    """`pilot_counts` of a plan whose layers can all be screened, on these images."""
    rules = dict.fromkeys((layer.name for layer in plan.layers), PILOT)
    computation = ShardComputation(plan, source, replacements, for_study=False, rules=rules, attempt=0)
    sums, size = ShardSums(plan, for_study=False), plan.batch_size
    batches = (positions[first : first + size] for first in range(0, len(positions), size))
    with closing(source.stream(batches, ahead=plan.bytes_ahead)) as stream:
        for batch in stream:
            computation.add(batch, sums)
            advance(len(batch.positions))
    sums.deliver()
    return {found.layer.name: counts for found in sums.layers if (counts := found.screen_counts) is not None}


def replacements_of(plan: SweepPlan, part: SweepPlan, replacements: list[Replacement]) -> list[Replacement]:
    """Those of a part of the layers."""
    found = {layer.name: replacement for layer, replacement in zip(plan.layers, replacements, strict=True)}
    return [found[layer.name] for layer in part.layers]


def calibrated_rules(counts: Counts, share: float, weight: float) -> dict[str, Rule]:
    """The first attempt's rules; each image of the counts stands for ``weight`` of them."""
    return {name: calibrated(weight * of[PAIRS], PILOT.seen(of), share, 1) for name, of in counts.items()}


def first_rules(plan: SweepPlan, images: int, shards: Shards, measure: Callable[[], Counts]) -> dict[str, Rule]:
    """The rules of the first attempt: as they are kept, or from a pilot now, and kept."""
    if not plan.screened:
        return {}
    kept = shards.read_rules(1)
    if kept is None:
        assert plan.request.screen is not None
        rules = calibrated_rules(measure(), plan.request.screen, images / len(pilot_positions(images)))
        for name, rule in rules.items():
            log.info("%s: %s", name, rule)
        kept = rules_to_arrays(rules)
        shards.write_rules(1, kept)
    return rules_from_arrays(kept)


def left_again(plan: SweepPlan, shards: Shards) -> list[int]:
    """Numbers of the second attempt's shards that are not finished: they follow those of the first one."""
    if not plan.screened:
        return []
    kept = shards.read_rules(2)
    if kept is None:
        share, found = plan.request.screen or 0.0, first_certificates(plan, shards)
        rules = {
            name: again(certificate.rule, counts, share)
            for name, (certificate, counts) in found.items()
            if certificate.missed_share > share
        }
        if not rules:
            return []
        for name, rule in rules.items():
            log.info("%s: %s; a second attempt: %s", name, found[name][0], rule)
        shards.write_rules(2, rules_to_arrays(rules))
    done, count = set(shards.finished()), len(plan.shard_bounds)
    return [index for index in range(count, 2 * count) if index not in done]


def first_certificates(plan: SweepPlan, shards: Shards) -> dict[str, tuple[Certificate, np.ndarray]]:
    """What the first attempt has found of each layer that is screened, and its counts."""
    kept, found = rules_from_arrays(shards.read_rules(1) or {}), {}
    for name, rule in kept.items():
        if not rule.exact:
            counts = reduce(
                add,
                (np.asarray(shards.read(index)[f"ablation/screen_counts/{name}"]) for index in range(len(plan.shard_bounds))),
            )
            found[name] = Certificate.of([rule], [counts]), counts
    return found


class SecondAttempt:
    """The second attempt of the layers of which the first one was not sure enough; pairs evaluated once are kept."""

    def __init__(self, plan: SweepPlan, source: ImageSource, replacements: list[Replacement], shards: Shards) -> None:
        rules = rules_from_arrays(shards.read_rules(2) or {})
        self.shards, self.plan = shards, plan.of_layers(rules)
        # the number of its first shard; a worker's plan has bounds of its own
        self.first = -(-int(plan.fingerprint["count"]) // int(plan.fingerprint["shard"]))
        self.description = f"second attempt of {self.plan.layers_text}"
        own = replacements_of(plan, self.plan, replacements)
        self.computation = ShardComputation(self.plan, source, own, for_study=False, rules=rules, attempt=2)

    def shard(self, index: int, bounds: tuple[int, int], advance: Callable[[int], object]) -> Arrays:
        """One shard of it, with what the first attempt has evaluated."""
        first = ShardResult.from_arrays(self.shards.read(index - self.first)).layers
        known = {layer.name: np.asarray(first[layer.name].ablation["evaluated"]) > 0 for layer in self.plan.layers}
        self.computation.known, self.computation.first = known, bounds[0]
        with closing(self.computation.shards([bounds], advance)) as computed:
            result = next(computed)()
        for name, shard in result.layers.items():
            before, now = first[name].ablation, shard.ablation
            for variable in ("prediction", "label_margin_drop"):
                now[variable] = np.where(known[name], np.asarray(before[variable]), now[variable])
            now["evaluated"] = np.where(known[name], np.uint8(1), now["evaluated"])
            result.layers[name] = LayerShard(now)
        return result.to_arrays()


def results_of(plan: SweepPlan, shards: Shards) -> tuple[list[ShardResult], dict[str, Certificate]]:
    """What the shards have in the end, and how sure that is of each layer of which pairs were left out."""
    count = len(plan.shard_bounds)
    results = [ShardResult.from_arrays(shards.read(index)) for index in range(count)]
    if not plan.screened:
        return results, {}
    first = first_certificates(plan, shards)
    second = rules_from_arrays(shards.read_rules(2) or {})
    certificates = {name: certificate for name, (certificate, _) in first.items()}
    counts: dict[str, list[np.ndarray]] = {name: [] for name in second}
    for number, result in enumerate(results if second else ()):
        for name, shard in ShardResult.from_arrays(shards.read(count + number)).layers.items():
            counts[name].append(np.asarray(shard.ablation["screen_counts"]))
            result.layers[name].ablation.update(
                {variable: shard.ablation[variable] for variable in ("prediction", "label_margin_drop", "evaluated")}
            )
    for name, rule in second.items():
        certificate, before = first[name]
        certificates[name] = Certificate.of([certificate.rule, rule], [before, reduce(add, counts[name])])
    return results, {name: certificate for name, certificate in certificates.items() if not certificate.rule.exact}


def say_certificate(layer: str, certificate: Certificate | None, share: float) -> None:
    """To the log; a warning where more may be missed than was asked for."""
    log.info("%s: %s", layer, certificate or "every pair was evaluated")
    if certificate is not None and certificate.missed_share > share:
        log.warning("%s: more than screen=%s may be missed; give more images, or evaluate every pair of it", layer, share)
