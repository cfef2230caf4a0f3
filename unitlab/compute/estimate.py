"""What a sweep is going to do and to take, from its plan and a short measured sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs.zstd import Zstd
from torch import nn

from unitlab.compute.engine.ablation import Replacement
from unitlab.compute.engine.scores import Outcome
from unitlab.compute.engine.torch_state import choose_device, exact_float32
from unitlab.compute.engine.user_network.outputs import Output
from unitlab.compute.images.datasets import images as image_source
from unitlab.compute.images.decoded import DecodedImages
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sampled_units import sampled_units, seconds_of
from unitlab.compute.sweep.activations import BY_IMAGE, TOP, TOP_IMAGES, eight_bits
from unitlab.compute.sweep.baseline import Baseline, measured_baseline
from unitlab.compute.sweep.fingerprints import as_in_store, request_in_store
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.memory import resolved_memory
from unitlab.compute.sweep.passes import Counts, calibrated_rules, counts_of, pilot_positions, replacements_of
from unitlab.compute.sweep.plan import SweepPlan, UnitSums, plan_sweep
from unitlab.compute.sweep.replacements import donor_values
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.screening import Rule
from unitlab.compute.sweep.shards import SCORES, ShardComputation, ShardResult, ShardSums
from unitlab.compute.sweep.study_arrays import undefined_attributes
from unitlab.compute.sweep.units_left import plans_left
from unitlab.files import bytes_text
from unitlab.progress import stages
from unitlab.store.shards import finished_shards, unfinished_fingerprint

FEWEST_IMAGES = 4
FEWEST_OF_BASELINE, MOST_OF_BASELINE = 16, 64  # images; as many as take no longer than what is timed
MEASURED_SECONDS = 3.0  # of all evaluations that are timed, so that an estimate takes less than ten seconds
PLAIN_SIZES = (8, 32)  # batches of plain evaluations beside that of the sweep: the fastest is a pass
# Bytes of the counts, rates and means by unit and class that a finished study has.
BYTES_BY_CLASS = 3 * 4 + 8 + 3 * 4


@dataclass(frozen=True)
class LayerEstimate:
    """One layer of a sweep: where it is, how many units are ablated and how that is evaluated, which dimension of the layer's
    value they are, and which attributes none of them is going to have."""

    layer: str
    site: str
    units: int
    strategy: str
    unit_dim: int
    unit_layout: str
    undefined: str


@dataclass(frozen=True)
class SweepEstimate:
    """What a sweep is going to do and to take.

    Attributes
    ----------
    request
        What is asked for, with its defaults.
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
        Time for the images that are left, by this process, reading them included (on a GPU, where that goes on meanwhile: if it
        takes longer); of a screened sweep with its pilot, and as if the first attempt were enough.
    memory
        Bytes that the sweep keeps within, besides the network's.
    network_bytes
        Bytes of the network's weights.
    disk_while_computing, disk_finished
        Bytes of the shards, and of the study.
    complete
        Whether the store has all this already.
    baseline
        Accuracy on up to 64 images spread over all classes, with chance and what is recorded; None for
        ``labels="predicted"``.
    guessed
        What is guessed of a screened sweep of so many units that they cannot be tried on a few images, and from what.
    """

    description: str
    request: SweepRequest
    layers: tuple[LayerEstimate, ...]
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
    baseline: Baseline | None
    guessed: str = ""

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
            *(f"units    {x.layer}: {x.unit_layout}" for x in self.layers),
            *(f"  undefined for {x.layer}: {x.undefined}" for x in self.layers if x.undefined),
            f"asked    {self.request}",
            f"on {self.device}{threads}, {self.precision}; batches of {self.batch_size} images, {shards}",
            f"passes   {self.passes:.2f} (sweep / plain evaluation, {1000 * self.seconds_per_pass:.2g} ms an image; "
            f"measured on {self.sample} images)",
            f"reading  {1000 * self.seconds_per_read:.2g} ms an image",
            f"time     about {_duration(self.seconds)} for {left:,} images here"
            + (f"; {self.finished_images:,} are computed already" if self.finished_images else ""),
            f"memory   {bytes_text(self.memory)} at most, besides the network ({bytes_text(self.network_bytes)} of weights)",
            f"disk     {bytes_text(self.disk_while_computing)} while computing, about {bytes_text(self.disk_finished)} for the "
            "study",
        ]
        if self.baseline is not None:
            lines.insert(1, f"baseline {self.baseline}")
            lines += [self.baseline.warning] if self.baseline.warning else []
        lines += [self.guessed] if self.guessed else []
        if self.complete:
            lines.append("The store has all this already: nothing is left to compute.")
        return "\n".join(lines)


def estimate(  # noqa: PLR0913  the public call
    model: nn.Module,
    images: Any,
    layer: str | Sequence[str],
    *,
    units: Sequence[int] | None = None,
    unit_dim: int | Mapping[str, int] | None = None,
    ablation: str = "zero",
    basis: str | np.ndarray | torch.Tensor | None = None,
    power: float | None = None,
    directions: np.ndarray | torch.Tensor | None = None,
    subtract: Callable[[torch.Tensor], torch.Tensor] | None = None,
    labels: str = "given",
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    batch_size: int | None = None,
    memory: str | int | None = None,
    seed: int = 0,
    output: Output = None,
    screen: float | None = None,
    top_k: int | None = None,
    outcome: Outcome | tuple[str, Outcome] | None = None,
    progress: bool = True,
) -> SweepEstimate:
    """What `unitlab.ablate`, called alike, is going to do and to take; nothing is written.

    Parameters
    ----------
    model, images, layer, units, unit_dim, ablation, basis, power, directions, subtract, labels, store, device, precision
        As for `unitlab.ablate`.
    batch_size, memory, seed, output, top_k, outcome, screen
        As for `unitlab.ablate`.

    progress
        Show a bar where it takes more than two seconds.

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
    request = SweepRequest(
        layer, units=units, ablation=ablation, basis=basis, power=power, directions=directions, subtract=subtract,
        labels=labels, precision=precision, batch_size=batch_size, memory=memory, seed=seed, output=output, unit_dim=unit_dim,
        screen=screen,
        top_k=top_k, outcome=outcome,
    )  # fmt: skip
    return estimate_of(model, images, request, store=store, device=device, progress=progress)


def estimate_of(
    model: nn.Module,
    images: Any,
    request: SweepRequest,
    *,
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    attrs: dict[str, Any] | None = None,
    progress: bool = True,
) -> SweepEstimate:
    """`estimate`, of a request."""
    source = as_in_store(images if isinstance(images, ImageSource) else image_source(images), store)
    source.refuse_damaged()
    request = resolved_memory(request_in_store(request, store), store, device)
    with exact_float32(), stages("estimate", 3, progress) as begin:
        begin("network")
        plan = plan_sweep(model, source, request, choose_device(device, request.precision))
        parts = [plan] if store is None else plans_left(plan, model, source, store)
        # what is stored already is left out; where nothing is left, or layers lack different units, all that is asked is told
        plan, complete = parts[0] if len(parts) == 1 else plan, not parts
        plan = plan if store is None else plan.as_begun(unfinished_fingerprint(store))
        done = finished_shards(store, plan.fingerprint) if store is not None and not complete else []
        begin("times of a few images")
        measured = _Measured(plan, source)
        begin("accuracy of a few images")
        few = int(np.clip(MEASURED_SECONDS / measured.plain, FEWEST_OF_BASELINE, MOST_OF_BASELINE))
        baseline = measured_baseline(plan, source, attrs, few)
    left = 0 if complete else len(source) - plan.images_in(done)
    tensors = [*plan.network.module.parameters(), *plan.network.module.buffers()]
    return SweepEstimate(
        description=plan.description, request=request,
        layers=tuple(
            LayerEstimate(
                layer.name, layer.site.text, len(layer.units), measured.strategy(layer), layer.site.unit_dim, layer.layout.text,
                undefined_attributes(plan, layer),
            )
            for layer in plan.layers
        ),
        device=str(plan.network.device), threads=torch.get_num_threads(), precision=request.precision,
        images=len(source), finished_images=len(source) - left, image_shape=tuple(plan.network.sample.shape[1:]),
        categories=len(plan.categories), batch_size=plan.batch_size, shards=len(plan.shard_bounds),
        sample=measured.images, passes=measured.sweep / measured.plain, seconds_per_pass=measured.plain,
        seconds_per_read=measured.read,
        seconds=left * measured.beside(measured.sweep) + (0 if done or complete else measured.pilot),
        memory=request.budget, network_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        disk_while_computing=measured.shard_bytes, disk_finished=measured.study_bytes,
        complete=complete, baseline=baseline, guessed="" if measured.guess is None else str(measured.guess),
    )  # fmt: skip


class _Measured:
    """Times of one image, in seconds, and bytes, from a sample spread over all images."""

    def __init__(self, plan: SweepPlan, source: ImageSource) -> None:
        self.plan, self.source = plan, source
        few = self._read(FEWEST_IMAGES)
        replacements = plan.replacements(self._replacement_values(few.pixels), len(source))
        self.computation = ShardComputation(plan, source, replacements)
        self.pilot, self.rules, self.counts = 0.0, dict[str, Rule](), Counts()
        self.guess = sampled_units(plan, source, replacements, few)
        if self.guess is not None:
            self.images, self.sweep = len(few.positions), self.guess.sweep
            self.pilot = self.guess.pilot * len(pilot_positions(len(source)))
            sizes = {min(size, self.images) for size in (1, *PLAIN_SIZES)}
            taken = [seconds_of(plan, partial(self._plain, few.pixels, size)) for size in sizes for _ in range(2)]
            self.plain = min(taken) / self.images
            self._measure_bytes(self.guess.result)
            return
        self._sweep(few)  # the first evaluation allocates and packs
        once = seconds_of(plan, lambda: self._sweep(few)) / len(few.positions)
        alone = seconds_of(plan, lambda: self._plain(few.pixels, len(few.pixels))) / len(few.positions)
        # a sweep, and a plain evaluation of each size twice
        expected = once + 2 * (len(PLAIN_SIZES) + 1) * alone
        count = int(min(plan.batch_size, len(source), max(FEWEST_IMAGES, MEASURED_SECONDS / expected)))
        batch = self._read(count)
        self.images = len(batch.positions)
        if plan.screened:
            self._screen(batch.positions, replacements)
            self._sweep(few)
        several = range(1 + int(expected * count < MEASURED_SECONDS / 4) * 2)
        found: list[ShardResult] = []
        taken = [seconds_of(plan, lambda: found.append(self._sweep(batch))) for _ in several]
        # once more than the sweep, since the first evaluation of a size allocates and packs
        sizes = {min(size, count) for size in (*PLAIN_SIZES, count)}
        plain = [seconds_of(plan, partial(self._plain, batch.pixels, size)) for size in sizes for _ in (0, *several)]
        self.sweep, self.plain = min(taken) / count, min(plain) / count
        if plan.request.ablation == "mean":
            means = seconds_of(plan, lambda: plan.network.site_values(batch.pixels, plan.sites)) / count
            self.sweep += self.beside(means)
        self._measure_bytes(found[0])

    def _screen(self, positions: np.ndarray, replacements: list[Replacement]) -> None:
        """From now on pairs are left out, by the rules that these images give; ``pilot``: seconds of the real one."""
        plan, images, share = self.plan, len(self.source), self.plan.request.screen
        assert share is not None
        part = plan.of_layers(layer.name for layer in plan.screened)
        own = replacements_of(plan, part, replacements)
        begin = time.perf_counter()
        self.counts = counts_of(part, self.source, own, positions, lambda _: None)
        self.pilot = (time.perf_counter() - begin) / len(positions) * len(pilot_positions(images))
        self.rules = calibrated_rules(self.counts, share, images / len(positions))
        self.computation = ShardComputation(plan, self.source, replacements, rules=self.rules)

    def beside(self, computing: float) -> float:
        """Time of an image that takes so long to compute: on a CPU reading comes on top, a GPU computes meanwhile."""
        return computing + self.read if self.plan.network.device.type == "cpu" else max(computing, self.read)

    def strategy(self, layer: LayerPlan) -> str:
        """What the engine does, and what a screen leaves of the pairs."""
        rule, text = self.rules.get(layer.name), layer.engine.strategy
        if self.guess is not None and layer.name in self.guess.shares:
            return f"{text}; screened: guessed {self.guess.shares[layer.name]:.0%} of the pairs"
        if rule is None or rule.exact:
            return text if rule is None else f"{text}; screened: every pair, as far as {self.images} images show"
        return f"{text}; screened: about {rule.evaluated(self.counts[layer.name]):.0%} of the pairs"

    def _read(self, count: int) -> ImageBatch:
        """So many images; ``read`` is then the time that one takes as many threads as a sweep has for it."""
        positions = np.unique(np.linspace(0, len(self.source) - 1, min(count, len(self.source))).round().astype(int))
        begin = time.perf_counter()
        pinned = self.plan.network.device.type == "cuda"  # as a sweep has them
        read = [next(self.source.stream([[position]], thumbnails=True, pinned=pinned)) for position in positions]
        together = self.source.read_together if pinned else min(self.source.read_together, torch.get_num_threads())
        self.read = (time.perf_counter() - begin) / len(positions) / together
        thumbnails, hashes = [batch.thumbnails[0] for batch in read], np.concatenate([batch.hashes for batch in read])
        decoded = isinstance(read[0].pixels, DecodedImages)
        pixels = self.source.at(positions) if decoded else torch.cat([batch.pixels for batch in read])
        return ImageBatch(pixels, positions, thumbnails, hashes)

    def _replacement_values(self, batch: torch.Tensor) -> dict[str, np.ndarray] | None:
        """What costs as much as the real one: the sample's means, the donors' values."""
        if self.plan.request.ablation == "resample":
            return donor_values(self.plan, self.source)
        if self.plan.request.ablation != "mean":
            return None
        values = self.plan.network.site_values(batch, self.plan.sites)
        return self.plan.means([[UnitSums.of(value) for value in values]])

    def _sweep(self, batch: ImageBatch) -> ShardResult:
        sums = ShardSums(self.plan)
        self.computation.add(batch, sums)
        sums.end()
        return sums.result()

    def _plain(self, batch: torch.Tensor, size: int) -> None:
        with torch.no_grad():
            for start in range(0, len(batch), size):
                self.plan.network.module(self.plan.network.ready(batch[start : start + size]))

    def _measure_bytes(self, result: ShardResult) -> None:
        plan, images, facts = self.plan, len(self.source), result.images
        layers = result.layers.values()
        statistics = [found for shard in layers for found in (shard.units, shard.directions) if found]
        by_image = [facts.label, facts.baseline_prediction, facts.baseline_margin]
        by_image += [shard.ablation[name] for shard in layers for name in SCORES if name in shard.ablation]
        in_study = [*by_image, *(eight_bits(found[name]) for found in statistics for name in BY_IMAGE)]
        in_shard = [*by_image, facts.probability]
        in_shard += [found[name] for found in statistics for name in (*BY_IMAGE, "first_order") if name in found]
        thumbnails = 0 if facts.thumbnails is None else facts.thumbnails.nbytes
        measured = sum(array.nbytes for array in in_shard)
        # a small sample has fewer top images than a shard
        top = sum(found[name].nbytes for found in statistics for name in TOP) * TOP_IMAGES / min(self.images, TOP_IMAGES)
        everything = sum(array.nbytes for array in result.to_arrays().values())
        packed = sum(len(Zstd(5).encode(np.ascontiguousarray(array))) for array in in_study)
        by_class = BYTES_BY_CLASS * len(plan.categories) * sum(len(layer.units) for layer in plan.layers)
        shards = len(plan.shard_bounds)
        of_shard = everything - measured - thumbnails - sum(found[name].nbytes for found in statistics for name in TOP)
        of_images = images * (thumbnails // self.images)
        # k shards have about 1 + ½ + … + 1/k times the top images of one
        in_shards = shards * of_shard + top * (1 + log(shards))
        self.shard_bytes = int(images * measured / self.images + of_images + in_shards)
        self.study_bytes = int(packed * images / self.images + top + by_class + of_images)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
