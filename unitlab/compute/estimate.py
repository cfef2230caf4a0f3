"""What a sweep is going to do and to take, from its plan and a short measured sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs.zstd import Zstd
from torch import nn

from unitlab.compute.engine.ablation import donor_of_image
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.images.datasets import images as image_source
from unitlab.compute.images.source import ImageSource
from unitlab.compute.images.thumbnails import padded
from unitlab.compute.sweep.activations import TOP_IMAGES
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.run import is_finished
from unitlab.compute.sweep.shards import ShardComputation, ShardParts, donor_values
from unitlab.store.shards import finished_shards

FEWEST_IMAGES = 4
MEASURED_SECONDS = 8.0
# Bytes of the counts, rates and means by unit and class that a finished study has.
BYTES_BY_CLASS = 3 * 4 + 8 + 3 * 4


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a sweep: where it is, how many units it has and how their ablation is evaluated."""

    layer: str
    site: str
    units: int
    strategy: str


@dataclass(frozen=True)
class SweepEstimate:
    """What a sweep is going to do and to take.

    Attributes
    ----------
    layers
        The layers, in their order.
    images, finished_images
        How many there are, and how many an interrupted sweep has finished.
    sample
        How many images, spread over all, the times were measured on.
    passes
        Time of the sweep / time of one plain evaluation of the same images.
    seconds_per_pass
        Time of one plain evaluation of one image.
    seconds
        Time for the images that are left, reading them included, by this process.
    memory
        Bytes that the sweep keeps within, besides the network's.
    network_bytes
        Bytes of the network's weights.
    disk_while_computing, disk_finished
        Bytes of the shards, and of the study.
    complete
        Whether the store has all this already.
    """

    description: str
    layers: tuple[LayerPlan, ...]
    device: str
    threads: int
    precision: str
    images: int
    finished_images: int
    image_shape: tuple[int, ...]
    categories: int
    batch_size: int
    shards: int
    sample: int
    passes: float
    seconds_per_pass: float
    seconds_per_read: float
    seconds: float
    memory: int
    network_bytes: int
    disk_while_computing: int
    disk_finished: int
    complete: bool

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        width = max(len(layer.layer) for layer in self.layers)
        sites = max(len(layer.site) for layer in self.layers)
        shape = " × ".join(map(str, self.image_shape))
        left = self.images - self.finished_images
        shards = f"{self.shards} shard{'s' if self.shards > 1 else ''}"
        lines = [
            f"{self.description}: {self.images:,} images of {shape}, {self.categories:,} classes",
            *(f"  {x.layer:<{width}}  {x.site:<{sites}}  {x.units:>5} units  {x.strategy}" for x in self.layers),
            f"on {self.device}{threads}, {self.precision}; batches of {self.batch_size} images, {shards}",
            f"passes   {self.passes:.2f} (sweep / plain evaluation, {1000 * self.seconds_per_pass:.2g} ms an image; "
            f"measured on {self.sample} images)",
            f"reading  {1000 * self.seconds_per_read:.2g} ms an image",
            f"time     about {_duration(self.seconds)} for {left:,} images here"
            + (f"; {self.finished_images:,} are computed already" if self.finished_images else ""),
            f"memory   {_bytes(self.memory)} at most, besides the network ({_bytes(self.network_bytes)} of weights)",
            f"disk     {_bytes(self.disk_while_computing)} while computing, about {_bytes(self.disk_finished)} for the study",
        ]
        if self.complete:
            lines.append("The store has all this already: nothing is left to compute.")
        return "\n".join(lines)


def estimate(
    model: nn.Module,
    images: Any,
    layer: str | Sequence[str],
    *,
    units: Sequence[int] | None = None,
    ablation: str = "zero",
    basis: str | np.ndarray | torch.Tensor | None = None,
    labels: str = "given",
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    batch_size: int | None = None,
    memory: str | int = "2 GB",
    seed: int = 0,
) -> SweepEstimate:
    """What `unitlab.ablate`, called alike, is going to do and to take; nothing is written.

    Parameters
    ----------
    model, images, layer, units, ablation, basis, labels, store, device, precision, batch_size, memory, seed
        As for `unitlab.ablate`.

    Returns
    -------
    SweepEstimate
        ``passes``, ``seconds``, ``disk_finished`` …; printed, it is a report of a few lines.

    Raises
    ------
    UnitlabError
        What `unitlab.ablate` refuses.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.compute.networks import bundled_network
    >>> unitlab.estimate(bundled_network("vgg_fashion"), "fashion_mnist", "conv3_2").layers[0].units
    64
    """
    source = images if isinstance(images, ImageSource) else image_source(images)
    with exact_float32():
        plan = plan_sweep(
            model, source, layer, device=device, units=units, ablation=ablation, basis=basis, labels=labels,
            precision=precision, batch_size=batch_size, memory=memory, seed=seed,
        )  # fmt: skip
        complete = store is not None and Path(store).exists() and is_finished(Path(store), plan)
        done = finished_shards(store, plan.fingerprint) if store is not None and not complete else []
        measured = _Measured(plan, source)
    left = 0 if complete else len(source) - plan.images_in(done)
    tensors = [*plan.network.module.parameters(), *plan.network.module.buffers()]
    return SweepEstimate(
        description=plan.description,
        layers=tuple(
            LayerPlan(site.layer, site.text, len(numbers), engine.strategy)
            for site, numbers, engine in zip(plan.sites, plan.units, plan.engines, strict=True)
        ),
        device=str(plan.network.device), threads=torch.get_num_threads(), precision=precision,
        images=len(source), finished_images=len(source) - left, image_shape=tuple(plan.network.sample.shape[1:]),
        categories=len(plan.categories), batch_size=plan.batch_size, shards=len(plan.shard_bounds),
        sample=measured.images, passes=measured.sweep / measured.plain, seconds_per_pass=measured.plain,
        seconds_per_read=measured.read, seconds=left * (measured.sweep + measured.read),
        memory=plan.memory, network_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        disk_while_computing=len(source) * measured.shard_bytes_per_image + len(plan.shard_bounds) * measured.shard_bytes,
        disk_finished=measured.study_bytes, complete=complete,
    )  # fmt: skip


class _Measured:
    """Times of one image, in seconds, and bytes, from a sample spread over all images."""

    def __init__(self, plan: SweepPlan, source: ImageSource) -> None:
        self.plan, self.source = plan, source
        few = self._positions(FEWEST_IMAGES)
        batch, self.read = self._read(few)
        replacements = plan.replacements(self._replacement_values(batch), len(source))
        self.computation = ShardComputation(plan, source, replacements)
        self._sweep(batch, few)  # the first evaluation allocates and packs
        once = _seconds(plan, lambda: self._sweep(batch, few))
        count = int(min(plan.batch_size, len(source), max(FEWEST_IMAGES, MEASURED_SECONDS * len(few) / once)))
        positions = self._positions(count)
        batch, self.read = self._read(positions)
        self.images = len(positions)
        several = range(1 + int(once * count / len(few) < MEASURED_SECONDS / 4) * 2)
        parts: list[ShardParts] = []
        taken = [_seconds(plan, lambda: parts.append(self._sweep(batch, positions))) for _ in several]
        # once more than the sweep, since the first evaluation of a size allocates and packs
        plain = [_seconds(plan, partial(self._plain, batch, size)) for size in (8, 32, count) for _ in (0, *several)]
        self.sweep, self.plain = min(taken) / count, min(plain) / count
        if plan.ablation == "mean":
            self.sweep += _seconds(plan, lambda: plan.network.site_values(batch, plan.sites)) / count + self.read
        self._measure_bytes(parts[0].arrays())

    def _positions(self, count: int) -> np.ndarray:
        return np.unique(np.linspace(0, len(self.source) - 1, min(count, len(self.source))).round().astype(int))

    def _read(self, positions: np.ndarray) -> tuple[torch.Tensor, float]:
        """Images, and the time to read one by as many threads as a sweep has for it."""
        begin = time.perf_counter()
        read = [next(self.source.stream([[position]], thumbnails=True)) for position in positions]
        seconds = (time.perf_counter() - begin) / len(positions) / min(self.source.read_together, torch.get_num_threads())
        thumbnails = padded([batch.thumbnails[0] for batch in read])
        self.thumbnail_bytes = 0 if thumbnails is None else thumbnails[0].nbytes
        return torch.cat([batch.pixels for batch in read]), seconds

    def _replacement_values(self, batch: torch.Tensor) -> dict[str, np.ndarray] | None:
        """What costs as much as the real one: the sample's means, the donors' values."""
        if self.plan.ablation == "resample":
            return donor_values(self.plan, self.source, donor_of_image(len(self.source), self.plan.seed)[0])
        if self.plan.ablation != "mean":
            return None
        values = self.plan.network.site_values(batch, self.plan.sites)
        means = [value.double().mean((0, *range(2, value.dim()))).cpu().numpy() for value in values]
        return {site.layer: mean for site, mean in zip(self.plan.sites, means, strict=True)}

    def _sweep(self, batch: torch.Tensor, positions: np.ndarray) -> ShardParts:
        parts = ShardParts(self.plan)
        self.computation.add(batch, positions, parts)
        return parts

    def _plain(self, batch: torch.Tensor, size: int) -> None:
        with torch.no_grad():
            for start in range(0, len(batch), size):
                self.plan.network.module(self.plan.network.ready(batch[start : start + size]))

    def _measure_bytes(self, arrays: dict[str, np.ndarray]) -> None:
        plan, images = self.plan, len(self.source)
        by_image = {
            name: array for name, array in arrays.items()
            if name.rpartition("/")[2] in ("prediction", "label_margin_drop", "activation_mean", "activation_max")
            or ("/" not in name and name != "content")
        }  # fmt: skip
        self.shard_bytes_per_image = sum(array.nbytes for array in by_image.values()) // self.images
        few = min(self.images, TOP_IMAGES)
        fixed = {name: array.nbytes for name, array in arrays.items() if name not in by_image}
        self.shard_bytes = sum(TOP_IMAGES * size // few if "/top_" in name else size for name, size in fixed.items())
        packed = sum(len(Zstd(5).encode(np.ascontiguousarray(array))) for array in by_image.values())
        top = sum(TOP_IMAGES * size // few for name, size in fixed.items() if "/top_" in name)
        by_class = BYTES_BY_CLASS * len(plan.categories) * sum(map(len, plan.units))
        self.shard_bytes_per_image += self.thumbnail_bytes
        self.study_bytes = packed * images // self.images + top + by_class + images * self.thumbnail_bytes


def _seconds(plan: SweepPlan, action: Callable[[], object]) -> float:
    if plan.network.device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    action()
    if plan.network.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _bytes(count: int) -> str:
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} bytes"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
