"""What mixes, evaluated for (set, image) pairs: by contributions where they apply, else the network's own operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor

from unitlab.compute.engine.ablation import BatchBaseline, Pairs, UnitSets
from unitlab.compute.engine.capture import NetworkGraph, Values
from unitlab.compute.engine.contributions import Contributed, Contribution
from unitlab.compute.engine.host_copies import Steps
from unitlab.compute.engine.products import products_of
from unitlab.compute.engine.scores import Scores
from unitlab.compute.engine.separable import Suffix


@dataclass
class AblatedBatch:
    """What one batch is replayed from, and its scores, (set, image) each, that are filled in.

    ``after`` has the separable values with every unit ablated at once: position p is what it becomes when its own unit is.
    ``finite`` (set, image) says whether the logits are; of pairs that are not evaluated they are the baseline's.
    """

    base: BatchBaseline
    after: Values
    contributed: dict[torch.fx.Node, Contributed]
    sets: UnitSets
    scores: Scores
    finite: Tensor

    def fill(self, pairs: Pairs, logits: Tensor) -> None:
        """Scores of some pairs."""
        for name, values in self.base.scores_of(logits, pairs.images).items():
            self.scores[name][pairs.sets, pairs.images] = values
        self.finite[pairs.sets, pairs.images] = torch.isfinite(logits).all(1)


class Replay:
    """The mixed part of a suffix for (set, image) pairs.

    Every pair is a row of a batch, whatever its set: two units on three images are one batch of up to six rows, (0, 0), (0, 1),
    (0, 2), (1, 0) …, without those pairs in which nothing changes. The first operations that mix give a row as the image's
    unablated output minus the unit's contribution; from there on the network's own operations take the rows as if they were
    images. Where such an operation reads something beside, it gets it image by image: of an untouched value (a shortcut around
    the layer) the image's own, of a separable one the unit's positions ablated and the others as they were.
    """

    def __init__(self, graph: NetworkGraph, suffix: Suffix, contributions: dict[torch.fx.Node, Contribution]) -> None:
        self.graph, self.suffix, self.contributions = graph, suffix, contributions
        self.products = products_of(graph, suffix, contributions)
        self.mostly_products = self._mostly_products()
        self.last_use = {used: node for node in suffix.mixed for used in node.all_input_nodes}
        self.recomputed = 0

    def _mostly_products(self) -> bool:
        """Whether more of the replayed convolutions' multiplications are in products, which take maps in channels_last; a
        convolution of groups of channels, whose time is that of reading the maps, would have them changed back."""
        count = {True: 0, False: 0}
        for node in self.suffix.mixed:
            known = self.graph.weights(node)
            if known is None or known[0].dim() != 4 or node in self.contributions:
                continue
            if self.graph.geometry(node) is None:
                return False
            count[node in self.products] += known[0].numel() * math.prod(self.suffix.shapes[node][2:])
        return count[True] > count[False]

    def row_bytes(self, element: int) -> int:
        """Bytes that the replay of one pair holds at most at a time."""
        held: dict[torch.fx.Node, int] = {}
        shapes, most = self.suffix.shapes, math.prod(self.suffix.shapes[self.graph.output])
        for node in self.suffix.mixed:
            for used in node.all_input_nodes:
                if used not in self.graph.constants and used in shapes and node not in self.contributions:
                    held[used] = math.prod(shapes[used])
            held[node] = math.prod(shapes[node]) if node in shapes else 1
            most = max(most, sum(held.values()))
            self.drop_used(node, held)
        return max(1, most) * element * 2

    def drop_used(self, node: torch.fx.Node, *held: dict[torch.fx.Node, Any]) -> None:
        """Let go of the values that ``node`` was the last to use."""
        for used in node.all_input_nodes:
            if self.last_use[used] is node:
                for values in held:
                    values.pop(used, None)

    def separable(self, entry: Tensor, base: BatchBaseline) -> Values:
        """Separable values, from the one that they all come from."""
        values: Values = {self.suffix.entry: entry}
        for node in self.suffix.separable:
            inputs = {used: self._untouched(used, values, base, None) for used in node.all_input_nodes}
            values[node] = self.graph.evaluate(node, inputs)
        return values

    def steps(self, batch: AblatedBatch, pairs: Pairs, at_once: int) -> Steps[None]:
        """Fill in scores of the pairs, ``at_once`` at a time."""
        yield from ()
        for block in pairs.blocks(at_once):
            batch.fill(block, self.logits(batch, block))

    def logits(self, batch: AblatedBatch, pairs: Pairs) -> Tensor:
        """Logits (pair, category)."""
        if not self.suffix.mixed:
            return self.one_ablated(self.graph.output, batch, pairs)
        values: Values = {}
        for node in self.suffix.mixed:
            values[node] = self.value(node, batch, pairs, values)
            self.drop_used(node, values)
        return values[self.graph.output]

    def value(self, node: torch.fx.Node, batch: AblatedBatch, pairs: Pairs, values: Values) -> Any:
        """Value of a mixing operation for each pair, given those of the operations before it."""
        if node not in batch.contributed:
            return self.replayed(node, batch, pairs, values)

        def directly(rows: Tensor) -> Any:
            self.recomputed += len(rows)
            return self.replayed(node, batch, pairs.at(rows), {})

        found = batch.contributed[node].outputs(pairs, directly)
        # torch's convolutions take them as the others are: on a GPU, see `Network.use_contiguous_maps`
        as_others = found.device.type != "cpu" and batch.contributed[node].output.is_contiguous() and not self.mostly_products
        return found.contiguous() if as_others else found

    def replayed(self, node: torch.fx.Node, batch: AblatedBatch, pairs: Pairs, values: Values) -> Any:
        """The op itself on the pairs' own inputs."""
        product = self.products.get(node)
        source = node.all_input_nodes[0]
        if product is not None and source in values and product.takes(values[source]):
            return product(values[source])
        overwriting = self.graph.overwriting.get(node)
        if overwriting is not None and all(used in values for used in node.all_input_nodes):
            return overwriting.twin(*(values[used] for used in node.all_input_nodes))
        return self.graph.evaluate(node, {used: self.input(used, batch, pairs, values) for used in node.all_input_nodes})

    def input(self, node: torch.fx.Node, batch: AblatedBatch, pairs: Pairs, values: Values) -> Any:
        """What a replayed operation reads."""
        if node in self.suffix.owners:
            return self.one_ablated(node, batch, pairs)
        return self._untouched(node, values, batch.base, pairs.images)

    def one_ablated(self, node: torch.fx.Node, batch: AblatedBatch, pairs: Pairs) -> Any:
        """A separable value for each pair: the units of the pair's set ablated, the others as they were."""

        def merged(owner: Tensor, before: Tensor, after: Tensor) -> Tensor:
            own = batch.sets.owned(pairs.sets, owner.to(before.device))
            return torch.where(own, after[pairs.images], before[pairs.images])

        owner, before, after = self.suffix.owners[node], batch.base.values[node], batch.after[node]
        return merged(owner, before, after) if isinstance(owner, Tensor) else type(owner)(map(merged, owner, before, after))

    def _untouched(self, node: torch.fx.Node, values: Values, base: BatchBaseline, images: Tensor | None) -> Any:
        """A value that the ablation leaves alone, or one of ``values``; sizes are worked out for the number of rows."""
        if node in values:
            return values[node]
        if node in self.graph.constants:
            return self.graph.constants[node]
        if node in self.graph.rows:
            known = base.values[node]
            return known if images is None else self.graph.of_images(node, known, images)
        return self.graph.stand_in(node, len(base.labels) if images is None else len(images), base.labels.device)
