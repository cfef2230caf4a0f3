"""How many images a sweep takes at a time, and a shard has: told from shapes, never by the clock, and fitting in memory."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from math import prod
from typing import Any

import numpy as np
import torch
import torch.fx
from torch.utils.flop_counter import FlopCounterMode

from unitlab.compute.engine.network import Network
from unitlab.compute.engine.scores import RIVALS
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.images.source import AHEAD_BYTES, ImageSource
from unitlab.compute.images.thumbnails import THUMBNAIL
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.request import SweepRequest
from unitlab.errors import UnitlabError

# A shard takes so long at most: an interruption costs one, and each worker has one at a time.
SECONDS = 30.0
# Operations a second of a machine such as there are, and the time that an image takes whatever is computed of it.
RATES = {"cpu": 100e9, "cuda": 30e12}
SECONDS_OF_IMAGE = 2e-3
# What touches each element of a value once is bound by memory: 8 bytes at 16 GB/s, or at some TB/s on a GPU.
OPERATIONS_OF_ELEMENT = 50
# Of a pair a shard keeps prediction, margin drop, and of the unit's activations mean, maximum and first-order effect; with a
# further score or two. A shard is held while it is computed, as it is written, and while the one before it is.
BYTES_OF_PAIR, COPIES = 20, 3
SHARE_OF_MEMORY = 1 / 16
SHARE_OF_READING = 1 / 8  # of a CPU's: images that wait; a GPU's memory is not the host's, where they do
MOST_BATCH = {"cpu": 128, "cuda": 256}  # at 256 an H100 takes 6 % less for an image of ResNet50 or VGG16 than at 128
MOST_ELEMENTS = 2**31 - 1  # of a value: kernels count them in 32 bits


def images_at_once(network: Network, engines: list[SuffixEngine], budget: int, screen: bool, device: str) -> int:
    """How many images at a time on a "cpu" or "cuda".

    What one evaluation holds of an image is counted in elements, and may fill half of ``budget``; the other half is the
    engines'. In the suffix that is every value, twice, since the gradient of the margin keeps it and has one as large. In the
    prefix, which has no gradient and frees what nobody reads any more, it is about the three widest values: what an
    operation reads and gives, and a branch that waits to be added. A screen has the gradients of several margins where channels
    meet. Without a graph nothing is known of the values, and 64 times the image is taken for them.
    """
    image, element = network.sample.numel(), network.sample.element_size()
    if network.graph is None:
        return max(1, min(32, budget // (64 * image * element)))
    elements = {node: int(np.prod(shape)) for engine in engines for node, shape in engine.suffix.shapes.items()}
    in_suffix = {node for engine in engines for node in engine.suffix.nodes}
    prefix = sorted(
        (elements[node] for node in network.graph.nodes if node in elements and node not in in_suffix), reverse=True
    )
    held = 2 * sum(elements.get(node, 0) for node in in_suffix) + sum(prefix[:3]) + image
    meeting = {node for engine in engines if screen and engine.screenable for node in engine.meeting}
    held += RIVALS * sum(elements.get(node, 0) for node in meeting)
    most = min(MOST_BATCH[device], MOST_ELEMENTS // max(elements.values(), default=1))
    return int(max(1, min(most, budget // 2 // max(1, held * element))))


def bytes_read_ahead(budget: int, device: str) -> int:
    """Of the images that wait for a "cpu" or "cuda"."""
    return min(AHEAD_BYTES, int(budget * SHARE_OF_READING)) if device == "cpu" else AHEAD_BYTES


def bytes_of_image(layers: Sequence[LayerPlan], categories: int) -> int:
    """What a shard keeps of one image, with its thumbnail and its probabilities."""
    return BYTES_OF_PAIR * sum(len(layer.units) for layer in layers) + 4 * categories + 3 * THUMBNAIL**2


def refuse_large_sums(request: SweepRequest, layers: Sequence[LayerPlan], categories: int) -> None:
    """Layer by layer three sums of float64 by unit and class are taken in the end, of all shards and of one more."""
    widest = max(layers, key=lambda layer: len(layer.units))
    sums = 2 * 3 * 8 * categories * len(widest.units)
    if sums > request.budget:
        raise UnitlabError(
            f"the sums over units and classes of {widest.name} take {sums / 1e9:.1f} GB, and memory={request.memory!r} is "
            f"less; give memory='{sums / 1e9 + 0.1:.1f} GB' or more, or fewer units at a time"
        )


def images_of_shard(network: Network, layers: Sequence[LayerPlan], categories: int, device: str, budget: int, most: int) -> int:
    """How many images a shard should have on a "cpu" or "cuda"; it gets as many whole batches as there is room for."""
    seconds = SECONDS_OF_IMAGE + _operations(network, layers) / RATES[device]
    held = int(budget * SHARE_OF_MEMORY) // bytes_of_image(layers, categories)
    return max(1, min(most, int(SECONDS / seconds), held))


def whole_batches(images: int, batch_size: int) -> int:
    """So many images in whole batches, one at least: a batch never spans two shards."""
    return max(batch_size, images // batch_size * batch_size)


def bounds(images: int, shard: int) -> list[tuple[int, int]]:
    """First image of each shard, and the one after its last."""
    return [(start, min(start + shard, images)) for start in range(0, images, shard)]


def _operations(network: Network, layers: Sequence[LayerPlan]) -> float:
    """Of one image, with its gradient and all ablations, as if every unit were live."""
    graph = network.graph
    if graph is None:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.module(network.sample)
        return float(counter.get_total_flops()) * (1 + sum(len(layer.units) for layer in layers))

    def of(nodes: Iterable[torch.fx.Node], shapes: Mapping[torch.fx.Node, Sequence[int]], apart: Container[Any] = ()) -> float:
        """Of nodes; what is told ``apart`` is added to a whole output alone."""
        total = 0.0
        for node in nodes:
            known = None if node in apart else graph.weights(node)
            each = OPERATIONS_OF_ELEMENT + (0 if known is None else 2 * known[0][0].numel())
            total += prod(shapes.get(node, (0,))) * each
        return total

    total = 3 * of(graph.nodes, graph.shapes)
    for layer in layers:
        engine = layer.engine
        if isinstance(engine, SuffixEngine) and engine.closed_form is None:
            total += len(layer.units) * of(engine.suffix.mixed, engine.suffix.shapes, engine.exact.contributions)
    return total


def batches_by_shard(
    source: ImageSource, bounds: Sequence[tuple[int, int]], size: int, **how: Any
) -> Iterator[Iterator[ImageBatch]]:
    """The batches of each shard, from one stream over all of them: shards must be taken to their end, in order."""
    spans = [[range(first, min(first + size, stop)) for first in range(start, stop, size)] for start, stop in bounds]
    with closing(source.stream(chain.from_iterable(spans), **how)) as stream:
        for shard in spans:
            yield islice(stream, len(shard))
