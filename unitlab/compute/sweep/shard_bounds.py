"""How many images a shard has: what takes tens of seconds, told from shapes and never by the clock, and fits in memory."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
import torch.fx
from torch.utils.flop_counter import FlopCounterMode

from unitlab.compute.engine.network import Network
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.images.thumbnails import THUMBNAIL
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.request import SweepRequest
from unitlab.errors import UnitlabError

# An interruption costs a shard at most, and each worker has one at a time.
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
