"""Shards computed one after the other in this process, kept on disk or in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np

from unitlab.compute.image_source import ImageSource
from unitlab.compute.plan import SweepPlan
from unitlab.compute.progress import InterruptRequest, images_bar, interrupt_after_shard
from unitlab.compute.replacements import Replacement, donor_of_image
from unitlab.compute.shards import ShardComputation, activation_sums, donor_values
from unitlab.partial_study import PartialStudy

__all__ = ["HeldShards", "compute_shards", "unit_replacements"]

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
