"""What one shard of a sweep gives, as a function of the plan, the images and what units are replaced by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from unitlab.compute.engine.ablation import Replacement, donor_of_image
from unitlab.compute.engine.network import Evaluation
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.images.source import ImageBatch, ImageSource
from unitlab.compute.images.thumbnails import padded
from unitlab.compute.sweep.activations import ActivationStatistics
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.progress import InterruptRequest, images_bar, interrupt_after_shard
from unitlab.compute.sweep.study_arrays import RootShards
from unitlab.errors import UnitlabError
from unitlab.store.shards import PartialStudy

log = logging.getLogger("unitlab")

Advance = Callable[[int], object]


class ShardComputation:
    """Computes shards of a plan: the same plan, images and replacements give the same bytes, wherever and in any order."""

    def __init__(self, plan: SweepPlan, source: ImageSource, replacements: list[Replacement]) -> None:
        self.plan, self.source, self.replacements = plan, source, replacements

    def shards(self, bounds: Sequence[tuple[int, int]], advance: Advance) -> Generator[dict[str, np.ndarray], None, None]:
        """Arrays of the images within each pair of bounds, named "variable" or "layer/variable".

        ``advance`` hears how many images are done. The next images are read while a shard is computed or written.
        """
        for batches in _batches_by_shard(self.plan, self.source, bounds, thumbnails=True):
            found, small = ShardParts(self.plan), []
            for batch in batches:
                self.add(batch.pixels, batch.positions, found)
                small += batch.thumbnails
                advance(len(batch.positions))
            arrays, thumbnails = found.arrays(), padded(small)
            yield arrays if thumbnails is None else {**arrays, "thumbnails": thumbnails}

    def add(self, batch: torch.Tensor, positions: np.ndarray, found: ShardParts) -> None:
        """Evaluate a batch and add what it gives to a shard's parts."""
        parts = scored_parts(self.plan, self.source, self.replacements, batch, positions, first_order=self.plan.first_order)
        for part, where, evaluation, scored in parts:
            base = evaluation.baseline
            found.root.add(part, base)
            probabilities = evaluation.logits.softmax(1)
            for number, stats in enumerate(found.statistics):
                first_order = None if evaluation.first_order is None else evaluation.first_order[number]
                value, at = evaluation.site_values[number], torch.as_tensor(where)
                stats.add(value, at, base.labels, probabilities, first_order)
                found.add_directions(number, value, self.replacements[number].of(where, value), at, base.labels, probabilities)
                prediction, margin = scored[number]
                drop = (base.margin - margin).half()
                found.scores[number].append((prediction.cpu().numpy().astype(self.plan.prediction_dtype), drop.cpu().numpy()))


def scored_parts(
    plan: SweepPlan,
    source: ImageSource,
    replacements: list[Replacement],
    batch: torch.Tensor,
    positions: np.ndarray,
    *,
    first_order: bool,
) -> Iterator[tuple[torch.Tensor, np.ndarray, Evaluation, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Images, positions, evaluation and, for each engine, predictions and margins (set, image).

    The whole batch at once; where a GPU's memory runs out, it is halved and the engines take smaller bites.
    """
    try:
        found = _scored(plan, source, replacements, batch, positions, first_order)
    except torch.OutOfMemoryError as error:
        found, halves = None, _halves(batch, error)
    # out of the except clause, whose error holds on to the memory
    if found is not None:
        yield batch, positions, *found
        return
    for engine in plan.engines:
        if isinstance(engine, SuffixEngine):
            engine.memory //= 2
    begin = 0
    for half in halves:
        some = positions[begin : begin + len(half)]
        yield from scored_parts(plan, source, replacements, half, some, first_order=first_order)
        begin += len(half)


def _scored(
    plan: SweepPlan,
    source: ImageSource,
    replacements: list[Replacement],
    batch: torch.Tensor,
    positions: np.ndarray,
    first_order: bool,
) -> tuple[Evaluation, list[tuple[torch.Tensor, torch.Tensor]]]:
    with failure_names_images(source, positions):
        labels = None if plan.labels == "predicted" else torch.as_tensor(source.labels[positions])
        evaluation = plan.network.evaluate(batch, labels, plan.sites, plan.needed, first_order=first_order)
        scored = []
        with torch.no_grad():
            for engine, value, replaced in zip(plan.engines, evaluation.site_values, replacements, strict=True):
                scored.append(engine.evaluate(evaluation.baseline, replaced.of(positions, value)))
        return evaluation, scored


class ShardParts:
    """What the batches of a shard have given so far."""

    def __init__(self, plan: SweepPlan) -> None:
        self.plan, self.root = plan, RootShards()
        self.statistics = [ActivationStatistics(units, plan.network.categories) for units in plan.units]
        self.rotated = [ActivationStatistics(units, plan.network.categories) for units in plan.units]
        self.scores: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in plan.sites]
        self.removed = [np.zeros(len(units)) for units in plan.units]
        self.energy = [np.zeros(()) for _ in plan.sites]

    def add_directions(
        self,
        number: int,
        value: torch.Tensor,
        replaced: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        probabilities: torch.Tensor,
    ) -> None:
        """Squares of what is removed at one site, and the activations of directions."""
        basis, units = self.plan.bases[number], self.plan.units[number]
        change = value - replaced
        if basis is not None:
            self.rotated[number].add(basis.coordinates(value), positions, labels, probabilities, None)
            change = basis.coordinates(change)
        # map by map in the values' own precision, in float64 over the images
        squares = change.square()
        by_image = squares.flatten(2).sum(2) if squares.dim() > 2 else squares
        square = by_image.sum(0, dtype=torch.float64).cpu().numpy()
        self.energy[number] = self.energy[number] + square.sum()
        self.removed[number] += square[units]

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = self.root.arrays()
        for number, (site, stats, parts) in enumerate(zip(self.plan.sites, self.statistics, self.scores, strict=True)):
            found = stats.arrays()
            if self.plan.bases[number] is not None:
                found.update({f"rotated/{name}": array for name, array in self.rotated[number].arrays().items()})
            found["removed"], found["energy"] = self.removed[number], self.energy[number]
            found["prediction"] = np.concatenate([part[0] for part in parts], 1)
            found["label_margin_drop"] = np.concatenate([part[1] for part in parts], 1)
            arrays.update({f"{site.layer}/{name}": array for name, array in found.items()})
        return arrays


def activation_sums(
    plan: SweepPlan, source: ImageSource, bounds: Sequence[tuple[int, int]], advance: Advance
) -> Generator[dict[str, np.ndarray], None, None]:
    """For each pair of bounds, sums over its images and positions, "layer" (unit), and their number, "layer/count"."""
    for batches in _batches_by_shard(plan, source, bounds, thumbnails=False):
        sums: dict[str, np.ndarray] = {}
        for batch in batches:
            with failure_names_images(source, batch.positions):
                for values in _site_values(plan, batch.pixels):
                    for site, value in zip(plan.sites, values, strict=True):
                        flat = value.double().flatten(2) if value.dim() > 2 else value.double().unsqueeze(2)
                        for name, part in (
                            (site.layer, flat.sum((0, 2)).cpu().numpy()),
                            (f"{site.layer}/count", np.asarray(flat.shape[0] * flat.shape[2])),
                        ):
                            sums[name] = sums[name] + part if name in sums else part
            advance(len(batch.positions))
        yield sums


def _batches_by_shard(
    plan: SweepPlan, source: ImageSource, bounds: Sequence[tuple[int, int]], *, thumbnails: bool
) -> Iterator[Iterator[ImageBatch]]:
    """The batches of each shard, from one stream over all of them: shards must be taken to their end, in order."""
    size = plan.batch_size
    spans = [[range(first, min(first + size, stop)) for first in range(start, stop, size)] for start, stop in bounds]
    with closing(source.stream(chain.from_iterable(spans), thumbnails=thumbnails)) as stream:
        for shard in spans:
            yield islice(stream, len(shard))


def donor_values(plan: SweepPlan, source: ImageSource, donors: np.ndarray) -> dict[str, np.ndarray]:
    """The sites' values on the donor images, "layer" (donor, unit, …)."""
    found: dict[str, list[np.ndarray]] = {site.layer: [] for site in plan.sites}
    for batch in source.stream([donor] for donor in donors):
        with failure_names_images(source, batch.positions):
            for values in _site_values(plan, batch.pixels):
                for site, value in zip(plan.sites, values, strict=True):
                    found[site.layer].append(value.cpu().numpy())
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def _site_values(plan: SweepPlan, batch: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """The sites' values for a batch, in halves where a GPU's memory runs out."""
    try:
        values = plan.network.site_values(batch, plan.sites)
    except torch.OutOfMemoryError as error:
        values, halves = [], _halves(batch, error)
    if values:
        yield values
        return
    for half in halves:
        yield from _site_values(plan, half)


def _halves(batch: torch.Tensor, error: torch.OutOfMemoryError) -> tuple[torch.Tensor, torch.Tensor]:
    """What to go on with after an out-of-memory error."""
    if len(batch) == 1:
        raise UnitlabError("one image does not fit into the device's memory; compute on 'cpu'") from error
    half = len(batch) // 2
    log.warning("out of memory: going on with batches of %d images", half)
    return batch[:half], batch[half:]


@contextmanager
def failure_names_images(source: ImageSource, positions: np.ndarray) -> Iterator[None]:
    """Name the images on which the network fails."""
    try:
        yield
    except (UnitlabError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        ids: list[Any] = [source.ids[i] for i in positions[:3]]
        raise UnitlabError(f"the network failed on images {ids} …: {type(error).__name__}: {error}") from error


log = logging.getLogger("unitlab")


class HeldShards:
    """Shards of a sweep without a store, in memory; as `PartialStudy` has them on disk."""

    def __init__(self) -> None:
        self.held: dict[int, dict[str, np.ndarray]] = {}
        self.replacements: dict[str, np.ndarray] | None = None

    def finished(self) -> list[int]:
        return sorted(self.held)

    def write(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        self.held[index] = arrays

    def read(self, index: int) -> dict[str, np.ndarray]:
        return self.held[index]

    def write_replacements(self, arrays: dict[str, np.ndarray]) -> None:
        self.replacements = arrays

    def read_replacements(self) -> dict[str, np.ndarray] | None:
        return self.replacements


def compute_shards(plan: SweepPlan, source: ImageSource, shards: PartialStudy | HeldShards, progress: bool) -> None:
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
            for index, arrays in zip(left, computed, strict=True):
                shards.write(index, arrays)
                interrupt.heed()


def unit_replacements(
    plan: SweepPlan, source: ImageSource, shards: PartialStudy | HeldShards, interrupt: InterruptRequest, progress: bool
) -> list[Replacement]:
    """What units are replaced by: as a sweep that was cut off has kept it, or worked out and kept now."""
    if plan.ablation == "mean" and shards.read_replacements() is None:
        shards.write_replacements(_means(plan, source, interrupt, progress))
    elif plan.ablation == "resample" and shards.read_replacements() is None:
        shards.write_replacements(donor_values(plan, source, donor_of_image(len(source), plan.seed)[0]))
    return plan.replacements(shards.read_replacements(), len(source))


def _means(plan: SweepPlan, source: ImageSource, interrupt: InterruptRequest, progress: bool) -> dict[str, np.ndarray]:
    """Means of all sites' units, from one pass over the images."""
    sums: list[Mapping[str, Any]] = []
    with (
        images_bar(len(source), description=f"means of {plan.layers_text}", shown=progress) as bar,
        closing(activation_sums(plan, source, plan.shard_bounds, bar.update)) as computed,
    ):
        for part in computed:
            sums.append(part)
            interrupt.heed()
    return plan.means(sums)
