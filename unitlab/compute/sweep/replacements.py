"""What the units of a sweep are replaced by: their means over all images, or their values on donor images."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import reduce
from operator import add

import numpy as np

from unitlab.compute.engine.ablation import Replacement, donor_of_image
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.memory import in_halves
from unitlab.compute.sweep.plan import SweepPlan, UnitSums
from unitlab.compute.sweep.progress import InterruptRequest, images_bar
from unitlab.compute.sweep.shard_bounds import batches_by_shard
from unitlab.compute.sweep.shards import Advance
from unitlab.store.shards import Shards


def activation_sums(
    plan: SweepPlan, source: ImageSource, bounds: Sequence[tuple[int, int]], advance: Advance
) -> Generator[list[UnitSums], None, None]:
    """For each pair of bounds, sums over its images and positions, layer by layer."""

    def of_images(images: ImageBatch) -> list[UnitSums]:
        return [UnitSums.of(value) for value in plan.network.site_values(images.pixels, plan.sites)]

    for batches in batches_by_shard(source, bounds, plan.batch_size, **plan.reading):
        sums: list[list[UnitSums]] = []
        for batch in batches:
            sums += in_halves(of_images, batch, source)
            advance(len(batch.positions))
        yield [reduce(add, of_layer) for of_layer in zip(*sums, strict=True)]


def donor_values(plan: SweepPlan, source: ImageSource) -> dict[str, np.ndarray]:
    """The sites' values on the donor images, layer → (donor, unit, …)."""

    def of_images(images: ImageBatch) -> list[np.ndarray]:
        return [value.cpu().numpy() for value in plan.network.site_values(images.pixels, plan.sites)]

    donors = donor_of_image(len(source), plan.request.seed)[0]
    batches = source.stream(([donor] for donor in donors), ahead=plan.bytes_ahead)
    found = [next(in_halves(of_images, batch, source)) for batch in batches]
    return {layer.name: np.concatenate(values) for layer, values in zip(plan.layers, zip(*found, strict=True), strict=True)}


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
