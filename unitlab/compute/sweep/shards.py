"""What one shard of a sweep gives, as a function of the plan, the images and what units are replaced by."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from unitlab.compute.engine.ablation import Baseline, Replacement, donor_of_image
from unitlab.compute.engine.network import Evaluation
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.images.source import ImageBatch, ImageSource
from unitlab.compute.images.thumbnails import padded
from unitlab.compute.sweep.activations import ActivationStatistics
from unitlab.compute.sweep.plan import LayerPlan, SweepPlan, UnitSums
from unitlab.compute.sweep.progress import InterruptRequest, images_bar, interrupt_after_shard
from unitlab.errors import UnitlabError
from unitlab.store.shards import PartialStudy

log = logging.getLogger("unitlab")

T = TypeVar("T")
Advance = Callable[[int], object]
Arrays = dict[str, Any]  # by name; numpy's, or what is read like them from a file


@dataclass
class ImageFacts:
    """What a shard keeps of its images, whatever the layer; ``content`` is the SHA-256 of their pixels."""

    label: Any
    baseline_prediction: Any
    baseline_margin: Any
    content: Any
    thumbnails: Any = None


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
        return cls(ImageFacts(**images), dict(layers))


@dataclass
class ScoredLayer:
    """One layer on a `ScoredPart`'s images: values, their first-order effect, what replaces them and what that gives.

    ``prediction`` and ``margin`` are (set, image).
    """

    value: Tensor
    first_order: Tensor | None
    replaced: Tensor
    prediction: Tensor
    margin: Tensor


@dataclass
class ScoredPart:
    """Images that were evaluated together: a batch, or as much of it as a GPU's memory takes."""

    images: ImageBatch
    evaluation: Evaluation
    layers: list[ScoredLayer]


class ImageSums:
    """The facts of the images that came so far."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, ...]] = []
        self.thumbnails: list[np.ndarray | None] = []
        self.digest = hashlib.sha256()

    def add(self, images: ImageBatch, base: Baseline) -> None:
        self.digest.update(images.pixels.contiguous().numpy().data)
        self.parts.append(tuple(found.cpu().numpy() for found in (base.labels, base.prediction, base.margin.float())))
        self.thumbnails += images.thumbnails

    def result(self) -> ImageFacts:
        label, prediction, margin = (np.concatenate(parts) for parts in zip(*self.parts, strict=True))
        content = np.frombuffer(self.digest.digest(), np.uint8)
        return ImageFacts(label, prediction, margin, content, padded(self.thumbnails))


class LayerSums:
    """What the images that came so far give of a layer."""

    def __init__(self, layer: LayerPlan, plan: SweepPlan) -> None:
        self.layer, self.dtype = layer, plan.prediction_dtype
        self.units = ActivationStatistics(layer.units, plan.network.categories)
        self.directions = None if layer.basis is None else ActivationStatistics(layer.units, plan.network.categories)
        self.predictions: list[np.ndarray] = []
        self.drops: list[np.ndarray] = []
        self.removed, self.energy = np.zeros(len(layer.units)), np.zeros(())

    def add(self, scored: ScoredLayer, base: Baseline, positions: Tensor, probabilities: Tensor) -> None:
        value, change, basis = scored.value, scored.value - scored.replaced, self.layer.basis
        self.units.add(value, positions, base.labels, probabilities, scored.first_order)
        if basis is not None and self.directions is not None:
            self.directions.add(basis.coordinates(value), positions, base.labels, probabilities, None)
            change = basis.coordinates(change)
        # map by map in the values' own precision, in float64 over the images
        squares = change.square()
        by_image = squares.flatten(2).sum(2) if squares.dim() > 2 else squares
        square = by_image.sum(0, dtype=torch.float64).cpu().numpy()
        self.energy = self.energy + square.sum()
        self.removed += square[self.layer.units]
        self.predictions.append(scored.prediction.cpu().numpy().astype(self.dtype))
        self.drops.append((base.margin - scored.margin).half().cpu().numpy())

    def result(self) -> LayerShard:
        ablation = {
            "prediction": np.concatenate(self.predictions, 1),
            "label_margin_drop": np.concatenate(self.drops, 1),
            "removed": self.removed,
            "energy": self.energy,
        }
        return LayerShard(ablation, self.units.arrays(), {} if self.directions is None else self.directions.arrays())


class ShardSums:
    """What the images that came so far give: add, add, …, result."""

    def __init__(self, plan: SweepPlan) -> None:
        self.images, self.layers = ImageSums(), [LayerSums(layer, plan) for layer in plan.layers]

    def add(self, part: ScoredPart) -> None:
        base, positions = part.evaluation.baseline, torch.as_tensor(part.images.positions)
        probabilities = part.evaluation.logits.softmax(1)
        self.images.add(part.images, base)
        for sums, scored in zip(self.layers, part.layers, strict=True):
            sums.add(scored, base, positions, probabilities)

    def result(self) -> ShardResult:
        return ShardResult(self.images.result(), {sums.layer.name: sums.result() for sums in self.layers})


class ShardComputation:
    """Computes shards of a plan: the same plan, images and replacements give the same bytes, wherever and in any order."""

    def __init__(
        self, plan: SweepPlan, source: ImageSource, replacements: list[Replacement], *, first_order: bool = True
    ) -> None:
        self.plan, self.source, self.replacements = plan, source, replacements
        self.first_order = first_order and plan.first_order

    def shards(self, bounds: Sequence[tuple[int, int]], advance: Advance) -> Generator[ShardResult, None, None]:
        """What the images within each pair of bounds give.

        ``advance`` hears how many images are done. The next images are read while a shard is computed or written.
        """
        for batches in batches_by_shard(self.plan, self.source, bounds, thumbnails=True):
            sums = ShardSums(self.plan)
            for batch in batches:
                self.add(batch, sums)
                advance(len(batch.positions))
            yield sums.result()

    def add(self, batch: ImageBatch, sums: ShardSums) -> None:
        """Evaluate a batch and add what it gives; a function, so that nothing of it is left when the next one comes."""
        for part in self.scored(batch):
            sums.add(part)

    def scored(self, batch: ImageBatch) -> Iterator[ScoredPart]:
        """A batch evaluated with every ablation of every layer."""
        return in_halves(self._scored, batch, self.source)

    def _scored(self, images: ImageBatch) -> ScoredPart:
        plan = self.plan
        labels = None if plan.request.labels == "predicted" else torch.as_tensor(self.source.labels[images.positions])
        try:
            found = plan.network.evaluate(images.pixels, labels, plan.sites, plan.needed, first_order=self.first_order)
            effects: Sequence[Tensor | None] = found.first_order or [None] * len(plan.layers)
            layers = []
            with torch.no_grad():
                for layer, value, effect, replacement in zip(
                    plan.layers, found.site_values, effects, self.replacements, strict=True
                ):
                    replaced = replacement.of(images.positions, value)
                    layers.append(ScoredLayer(value, effect, replaced, *layer.engine.evaluate(found.baseline, replaced)))
        except torch.OutOfMemoryError:
            for layer in plan.layers:
                if isinstance(layer.engine, SuffixEngine):
                    layer.engine.memory //= 2  # smaller bites, beside half as many images
            raise
        return ScoredPart(images, found, layers)


def in_halves(work: Callable[[ImageBatch], T], batch: ImageBatch, source: ImageSource) -> Iterator[T]:
    """``work`` of a batch at once or, where a GPU's memory runs out, of its halves, or theirs, in their order.

    Raises
    ------
    UnitlabError
        The network fails on some images, which are named; one image does not fit.
    """
    waiting = [batch]
    while waiting:
        images = waiting.pop()
        try:
            yield work(images)
        except torch.OutOfMemoryError as error:
            if len(images.positions) == 1:
                raise UnitlabError("one image does not fit into the device's memory; compute on 'cpu'") from error
            half = len(images.positions) // 2
            log.warning("out of memory: going on with batches of %d images", half)
            # they wait for the next turn, where the error is gone, which holds on to the memory of what failed
            waiting += [_part(images, slice(half, None)), _part(images, slice(half))]
        except UnitlabError:
            raise
        except Exception as error:
            ids = [source.ids[position] for position in images.positions[:3]]
            raise UnitlabError(f"the network failed on images {ids} …: {type(error).__name__}: {error}") from error


def _part(images: ImageBatch, some: slice) -> ImageBatch:
    return ImageBatch(images.pixels[some], images.positions[some], images.thumbnails[some])


def activation_sums(
    plan: SweepPlan, source: ImageSource, bounds: Sequence[tuple[int, int]], advance: Advance
) -> Generator[list[UnitSums], None, None]:
    """For each pair of bounds, sums over its images and positions, layer by layer."""
    for batches in batches_by_shard(plan, source, bounds, thumbnails=False):
        sums: list[UnitSums] = []
        for batch in batches:
            for values in _site_values(plan, batch, source):
                found = [_unit_sums(value) for value in values]
                sums = [before + part for before, part in zip(sums, found, strict=True)] if sums else found
            advance(len(batch.positions))
        yield sums


def _unit_sums(value: Tensor) -> UnitSums:
    flat = value.double().flatten(2) if value.dim() > 2 else value.double().unsqueeze(2)
    return UnitSums(flat.sum((0, 2)).cpu().numpy(), flat.shape[0] * flat.shape[2])


def _site_values(plan: SweepPlan, batch: ImageBatch, source: ImageSource) -> Iterator[list[Tensor]]:
    return in_halves(lambda images: plan.network.site_values(images.pixels, plan.sites), batch, source)


def batches_by_shard(
    plan: SweepPlan, source: ImageSource, bounds: Sequence[tuple[int, int]], *, thumbnails: bool
) -> Iterator[Iterator[ImageBatch]]:
    """The batches of each shard, from one stream over all of them: shards must be taken to their end, in order."""
    size = plan.batch_size
    spans = [[range(first, min(first + size, stop)) for first in range(start, stop, size)] for start, stop in bounds]
    with closing(source.stream(chain.from_iterable(spans), thumbnails=thumbnails)) as stream:
        for shard in spans:
            yield islice(stream, len(shard))


def donor_values(plan: SweepPlan, source: ImageSource) -> dict[str, np.ndarray]:
    """The sites' values on the donor images, layer → (donor, unit, …)."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for batch in source.stream([donor] for donor in donor_of_image(len(source), plan.request.seed)[0]):
        for values in _site_values(plan, batch, source):
            for layer, value in zip(plan.layers, values, strict=True):
                found[layer.name].append(value.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


class HeldShards:
    """Shards of a sweep without a store, in memory; as `PartialStudy` has them on disk."""

    def __init__(self) -> None:
        self.held: dict[int, Arrays] = {}
        self.replacements: Arrays | None = None

    def finished(self) -> list[int]:
        return sorted(self.held)

    def write(self, index: int, arrays: Arrays) -> None:
        self.held[index] = arrays

    def read(self, index: int) -> Arrays:
        return self.held[index]

    def write_replacements(self, arrays: Arrays) -> None:
        self.replacements = arrays

    def read_replacements(self) -> Arrays | None:
        return self.replacements


Shards = PartialStudy | HeldShards


def compute_shards(plan: SweepPlan, source: ImageSource, shards: Shards, progress: bool) -> None:
    """Compute the shards that are not finished yet.

    Where they are kept on disk, the first Ctrl-C lets the shard end that is being computed.
    """
    done = set(shards.finished())
    left = [index for index in range(len(plan.shard_bounds)) if index not in done]
    if not left:
        return
    with interrupt_after_shard(kept=isinstance(shards, PartialStudy)) as interrupt:
        replacements = unit_replacements(plan, source, shards, interrupt, progress)
        interrupt.heed()
        computation = ShardComputation(plan, source, replacements)
        with (
            images_bar(len(source), finished=plan.images_in(done), description=plan.description, shown=progress) as bar,
            closing(computation.shards([plan.shard_bounds[index] for index in left], bar.update)) as computed,
        ):
            for index, result in zip(left, computed, strict=True):
                shards.write(index, result.to_arrays())
                interrupt.heed()


def unit_replacements(
    plan: SweepPlan, source: ImageSource, shards: Shards, interrupt: InterruptRequest, progress: bool
) -> list[Replacement]:
    """What units are replaced by: as a sweep that was cut off has kept it, or worked out and kept now."""
    if plan.request.ablation == "mean" and shards.read_replacements() is None:
        shards.write_replacements(_means(plan, source, interrupt, progress))
    elif plan.request.ablation == "resample" and shards.read_replacements() is None:
        shards.write_replacements(donor_values(plan, source))
    return plan.replacements(shards.read_replacements(), len(source))


def _means(plan: SweepPlan, source: ImageSource, interrupt: InterruptRequest, progress: bool) -> dict[str, np.ndarray]:
    """Means of all layers' units, from one pass over the images."""
    sums = []
    with (
        images_bar(len(source), description=f"means of {plan.layers_text}", shown=progress) as bar,
        closing(activation_sums(plan, source, plan.shard_bounds, bar.update)) as computed,
    ):
        for part in computed:
            sums.append(part)
            interrupt.heed()
    return plan.means(sums)
