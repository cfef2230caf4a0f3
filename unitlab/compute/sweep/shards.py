"""What one shard of a sweep gives, as a function of the plan, the images and what units are replaced by."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitlab.compute.engine.ablation import BatchBaseline, Engine, Replacement
from unitlab.compute.engine.host_copies import HostCopies, InTurn, Steps, on_device
from unitlab.compute.engine.network import Evaluation
from unitlab.compute.engine.scores import Scores
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.engine.torch_state import out_of_memory
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.images.source import ImageSource
from unitlab.compute.images.thumbnails import padded
from unitlab.compute.sweep.activations import ActivationStatistics, Best
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.memory import halves_in_steps
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.screening import PairChoice, Rule
from unitlab.compute.sweep.shard_bounds import batches_by_shard
from unitlab.errors import UnitlabError

Advance = Callable[[int], object]
SCORES = ("prediction", "label_margin_drop", "among_top", "outcome_drop")  # (set, image), the last two where asked for
Arrays = dict[str, Any]  # by name; numpy's, or what is read like them from a file


@dataclass
class ImageFacts:
    """What a shard keeps of its images, whatever the layer; ``image_hashes`` are those of `ImageBatch`."""

    label: Any
    baseline_prediction: Any
    baseline_margin: Any
    image_hashes: Any = None
    thumbnails: Any = None
    baseline_among_top: Any = None
    baseline_outcome: Any = None
    probability: Any = None  # (image, category)


@dataclass
class LayerShard:
    """What a shard keeps of a layer: what its ablations did, and statistics of its units and, with a basis, directions."""

    ablation: Arrays = field(default_factory=dict)
    units: Arrays = field(default_factory=dict)
    directions: Arrays = field(default_factory=dict)


@dataclass
class ShardResult:
    """What a shard gives. How its arrays are named where it is kept is known here alone."""

    images: ImageFacts
    layers: dict[str, LayerShard]

    def to_arrays(self) -> Arrays:
        arrays = {name: array for name, array in vars(self.images).items() if array is not None}
        for layer, shard in self.layers.items():
            for part, found in vars(shard).items():
                arrays.update({f"{part}/{name}/{layer}": array for name, array in found.items()})
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> ShardResult:
        images: Arrays = {}
        layers: dict[str, LayerShard] = defaultdict(LayerShard)
        for key, array in arrays.items():
            if "/" not in key:
                images[key] = array
                continue
            part, name, layer = key.split("/", 2)
            getattr(layers[layer], part)[name] = array
        images.pop("content", None)  # of older versions: of all pixels of the shard
        return cls(ImageFacts(**images), dict(layers))


@dataclass
class ScoredPart:
    """Images that were evaluated together: a batch, or as much of it as a GPU's memory takes.

    For each layer, what its units are replaced by, scores (set, image) and, where it is screened, which pairs were chosen.
    """

    images: ImageBatch
    evaluation: Evaluation
    replaced: list[Tensor]
    scored: list[Scores]
    chosen: list[PairChoice | None]


class LayerSums:
    """What the images that came so far give of a layer."""

    def __init__(self, layer: LayerPlan, plan: SweepPlan) -> None:
        self.layer = layer
        self.dtype = torch.int16 if plan.prediction_dtype is np.int16 else torch.int32
        self.units = ActivationStatistics(layer.channels, layer.layout.patches)
        self.directions = None if layer.basis is None else ActivationStatistics(layer.units, layer.layout.patches)
        self.scores: dict[str, list[np.ndarray]] = defaultdict(list)
        self.screen_counts: np.ndarray | None = None
        self.removed, self.energy = np.zeros(len(layer.units)), np.zeros(())

    def add_scores(self, scores: Scores, base: BatchBaseline, host: HostCopies, choice: PairChoice | None = None) -> None:
        """Scores (set, image) of a batch, and which pairs were chosen."""
        kept = {
            "prediction": scores["prediction"].to(self.dtype),
            "label_margin_drop": (base.scores["margin"] - scores["margin"]).half(),
        }
        if "among_top" in scores:
            kept["among_top"] = scores["among_top"]
        if "outcome" in scores:
            kept["outcome_drop"] = (base.scores["outcome"] - scores["outcome"]).float()
        if choice is not None:
            kept["evaluated"] = choice.kept
            host.then(self._add_counts, choice.counts(scores["prediction"] != base.scores["prediction"]))
        for name, values in kept.items():
            host.then(partial(_keep, self.scores[name]), values)

    def add_values(
        self, value: Tensor, change: Tensor, first_order: Tensor | None, positions: Tensor, host: HostCopies
    ) -> None:
        """The site's value, what the ablations take away from it, its first-order effect, and which images these are."""
        basis = self.layer.basis
        self.units.add(value, first_order, positions, host)
        if basis is not None and self.directions is not None:
            self.directions.add(basis.coordinates(value), None, positions, host)
            whole, change = change, basis.change(value, value - change, host)
            if not basis.orthogonal:
                host.then(self._add_energy_of_all, whole.square().sum(dtype=torch.float64))
                lengths = on_device(np.linalg.norm(basis.matrix, axis=1), change.device).to(change)
                change = change * lengths.reshape(-1, *[1] * (change.dim() - 2))
        # map by map in the values' own precision, in float64 over the images
        squares = change.square()
        by_image = squares.flatten(2).sum(2) if squares.dim() > 2 else squares
        host.then(self._add_removed, by_image.sum(0, dtype=torch.float64))

    def _add_removed(self, square: Tensor) -> None:
        basis, found = self.layer.basis, square.numpy()
        if basis is None or basis.orthogonal:
            self.energy = self.energy + found.sum()
        self.removed += found[self.layer.units]

    def _add_counts(self, counts: Tensor) -> None:
        self.screen_counts = counts.numpy() + (0 if self.screen_counts is None else self.screen_counts)

    def _add_energy_of_all(self, square: Tensor) -> None:
        self.energy = self.energy + square.numpy()

    def end(self, host: HostCopies) -> None:
        """Have what is still on the device come to the host with the rest."""
        for statistics in (self.units, self.directions):
            if statistics is not None:
                statistics.end(host)

    def result(self, best: Mapping[str, Best] | None) -> LayerShard:
        """What is kept; of activations nothing without the ``best`` of units and directions so far."""
        scores: Arrays = {name: np.concatenate(parts, 1) for name, parts in self.scores.items()}
        if self.screen_counts is not None:
            scores["screen_counts"] = self.screen_counts
        if best is None:
            return LayerShard(scores)
        return LayerShard(
            {**scores, "removed": self.removed, "energy": self.energy},
            self.units.arrays(best["units"]),
            {} if self.directions is None else self.directions.arrays(best["directions"]),
        )


def _keep(parts: list[np.ndarray], values: Tensor) -> None:
    parts.append(values.numpy())


class ShardSums:
    """What the images that came so far give, for a study or of scores alone: add, add, …, end, result.

    From a GPU it comes later: `deliver` waits for it, and what is wrong with it is said then.
    """

    def __init__(self, plan: SweepPlan, *, for_study: bool = True) -> None:
        self.layers, self.for_study = [LayerSums(layer, plan) for layer in plan.layers], for_study
        self.coming: deque[HostCopies] = deque()
        self.facts: dict[str, list[np.ndarray]] = defaultdict(list)
        self.thumbnails: list[np.ndarray | None] = []

    def add(self, part: ScoredPart) -> None:
        images, evaluation, base = part.images, part.evaluation, part.evaluation.baseline
        facts = {"label": base.labels, **{f"baseline_{name}": values for name, values in base.scores.items()}}
        host = base.host
        for name, values in facts.items():
            host.then(partial(_keep, self.facts[name]), values.float() if values.is_floating_point() else values)
        if self.for_study:
            host.then(partial(_keep, self.facts["probability"]), evaluation.logits.softmax(1))
        self.thumbnails += images.thumbnails
        self.facts["image_hashes"].append(images.hashes)
        first_order: Sequence[Tensor | None] = evaluation.first_order or [None] * len(self.layers)
        for sums, value, effect, replaced, scores, choice in zip(
            self.layers, evaluation.site_values, first_order, part.replaced, part.scored, part.chosen, strict=True
        ):
            sums.add_scores(scores, base, host, choice)
            if self.for_study:
                sums.add_values(value, value - replaced, effect, base.positions, host)
        self._send(host)

    def _send(self, host: HostCopies) -> None:
        host.send()
        self.coming.append(host)

    def deliver(self, but: int = 0) -> None:
        """Take what has come, but for the last parts."""
        while len(self.coming) > but:
            self.coming.popleft().deliver()

    def end(self) -> None:
        """There are no more images: what is still on the device of a study comes to the host."""
        if self.for_study:
            host = HostCopies()
            for sums in self.layers:
                sums.end(host)
            self._send(host)

    def result(self, best: Mapping[str, Mapping[str, Best]] | None = None) -> ShardResult:
        """What is kept; ``best`` are the largest activations of the shards before, by layer, and those of units alone."""
        best = defaultdict(lambda: defaultdict(dict)) if best is None else best
        self.deliver()
        known = {name: np.concatenate(parts) for name, parts in self.facts.items()}
        facts = ImageFacts(**known, thumbnails=padded(self.thumbnails))
        found = {sums.layer.name: sums.result(best[sums.layer.name] if self.for_study else None) for sums in self.layers}
        return ShardResult(facts, found)


Ended = Callable[[], ShardResult]  # what is left to do of a shard, on the host alone
Begun = tuple[InTurn, ImageBatch, ShardSums, bool]  # what is done of a batch, for which shard, and whether it is its last


class ShardComputation:
    """Computes shards of a plan: the same plan, images and replacements give the same bytes, wherever and in any order."""

    def __init__(
        self, plan: SweepPlan, source: ImageSource, replacements: list[Replacement], *, for_study: bool = True,
        rules: Mapping[str, Rule] | None = None, attempt: int = 1,
    ) -> None:  # fmt: skip
        self.plan, self.source, self.replacements = plan, source, replacements
        self.for_study = for_study  # which has first-order effects and thumbnails
        self.attempt = attempt
        self.rules = {name: rule for name, rule in (rules or {}).items() if attempt != 1 or not rule.exact}
        self.known: dict[str, np.ndarray] = {}  # pairs of the shard that an earlier attempt has evaluated, by layer
        self.first = 0  # image of the shard
        self.meeting = plan.meeting if self.rules else []
        self.best: defaultdict[str, defaultdict[str, Best]] = defaultdict(lambda: defaultdict(dict))

    def shards(self, bounds: Sequence[tuple[int, int]], advance: Advance) -> Generator[Ended, None, None]:
        """What the images within each pair of bounds give, once it is called, in this order.

        ``advance`` hears how many images are done. The next images are read while a shard is computed or written. What a GPU
        gives is taken when it has the next batches to work on, the end of a shard when it has the first one of the next shard;
        where there is memory for two batches, it has the next one to work on while the host waits for what it must know.
        """
        # what was asked for before the wait for the batch after next need not be waited for
        late = self.plan.at_a_time if self.plan.network.device.type != "cpu" else 0
        begun: deque[Begun] = deque()
        ended: deque[ShardSums] = deque()
        wrong: UnitlabError | None = None
        try:
            for batch, sums, last in self._batches(bounds):
                begun.append((self.begin(batch, sums, begun[0][0] if begun else None), batch, sums, last))
                if len(begun) == self.plan.at_a_time:
                    yield from self._done(begun, ended, late, advance)
        except UnitlabError as error:
            wrong = error
        # what is wrong with images before these is said first, and a shard before them is kept; none that would lack images
        try:
            while begun:
                yield from self._done(begun, ended, late, advance)
        except UnitlabError as error:
            wrong = error
        while ended:
            yield partial(ended.popleft().result, self.best)
        if wrong is not None:
            raise wrong

    def _batches(self, bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[ImageBatch, ShardSums, bool]]:
        """Batches, the sums that they belong to, and whether they are the last ones of these."""
        parts = batches_by_shard(self.source, bounds, self.plan.batch_size, **self.plan.reading, thumbnails=self.for_study)
        for (_, stop), batches in zip(bounds, parts, strict=True):
            sums = ShardSums(self.plan, for_study=self.for_study)
            for batch in batches:
                yield batch, sums, int(batch.positions[-1]) == stop - 1

    def _done(self, begun: deque[Begun], ended: deque[ShardSums], late: int, advance: Advance) -> Iterator[Ended]:
        """Finish the batch that was begun first, or none after it either, and take what has ended before it."""
        work, batch, sums, last = begun.popleft()
        try:
            work.finish(begun[0][0] if begun else None)
        except UnitlabError:
            begun.clear()
            sums.deliver()
            raise
        while ended:
            yield partial(ended.popleft().result, self.best)
        try:
            sums.deliver(but=late)
        except UnitlabError:
            begun.clear()
            raise
        advance(len(batch.positions))
        if last:
            sums.end()
            ended.append(sums)
        while ended and not late:
            yield partial(ended.popleft().result, self.best)

    def add(self, batch: ImageBatch, sums: ShardSums) -> None:
        """Evaluate a batch with every ablation of every layer, and add what that gives."""
        self.begin(batch, sums).finish()

    def begin(self, batch: ImageBatch, sums: ShardSums, before: InTurn | None = None) -> InTurn:
        """`add` until it must wait; the results of what was begun ``before`` come first."""
        work = InTurn(self._added(batch, sums, before))
        work.step()
        return work

    def _added(self, batch: ImageBatch, sums: ShardSums, before: InTurn | None) -> Steps[None]:
        for part in halves_in_steps(self._scored, batch, self.source, before):
            if part is None:
                yield
                continue
            if before is not None:
                before.finish()
            try:
                sums.add(part)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                several = f"{len(part.images.positions)} images at a time"
                raise UnitlabError(f"the device's memory runs out with {several}; give a smaller batch_size=") from error

    def _refuse_undefined(self, layer: LayerPlan, positions: np.ndarray, finite: Tensor) -> None:
        undefined = (~finite).nonzero().tolist()
        if undefined:
            place, image = undefined[0]
            raise UnitlabError(
                f"outcome={self.plan.scoring.name} is NaN or infinite for image {self.source.ids[positions[image]]!r}, "
                f"unablated or under ablation number {place} of {layer.name}; give a function that is finite for any logits"
            )

    def _scored(self, images: ImageBatch) -> Steps[ScoredPart]:
        plan, positions = self.plan, images.positions
        labels = None if plan.request.labels == "predicted" else torch.as_tensor(self.source.labels[positions])
        first_order, replaced = self.for_study and plan.first_order, list[Tensor]()
        scored, chosen = list[Scores](), list[PairChoice | None]()
        try:
            found = plan.network.evaluate(
                images.pixels, labels, plan.sites, plan.needed,
                first_order=first_order, scoring=plan.scoring, positions=positions, meeting=self.meeting,
            )  # fmt: skip
            for layer, value, replacement in zip(plan.layers, found.site_values, self.replacements, strict=True):
                replaced.append(replacement.of(positions, value))
                choice = self._choice(layer, positions)
                chosen.append(choice)
                scored.append((yield from _scores(layer.engine, found, replaced[-1], choice)))
                if plan.scoring.outcome is not None:
                    base = found.baseline
                    finite = torch.isfinite((base.scores["outcome"] - scored[-1]["outcome"]).float())
                    base.host.then(partial(self._refuse_undefined, layer, positions), finite)
        except RuntimeError as error:
            for layer in plan.layers if out_of_memory(error) else ():
                if isinstance(layer.engine, SuffixEngine):
                    layer.engine.memory //= 2  # smaller bites, beside half as many images
            raise
        return ScoredPart(images, found, replaced, scored, chosen)

    def _choice(self, layer: LayerPlan, positions: np.ndarray) -> PairChoice | None:
        """What chooses the pairs of a layer for these images; None where all are evaluated."""
        rule = self.rules.get(layer.name)
        if rule is None:
            return None
        known = self.known[layer.name][:, positions - self.first] if self.known else None
        return PairChoice(layer, self.plan.request.seed, self.attempt, rule, positions, known)


@torch.no_grad()
def _scores(engine: Engine, found: Evaluation, replaced: Tensor, choice: PairChoice | None) -> Steps[Scores]:
    """Scores of the pairs that are chosen, (set, image)."""
    if choice is None:
        return (yield from engine.steps(found.baseline, replaced))
    assert isinstance(engine, SuffixEngine) and found.rivals is not None
    return (yield from engine.screened(found.baseline, replaced, found.rivals, choice))
