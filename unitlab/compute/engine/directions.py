"""The engines for directions of a layer that are ablated in the place of its units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from unitlab.compute.engine.ablation import BatchBaseline, Pairs
from unitlab.compute.engine.bases import Basis, over_channels
from unitlab.compute.engine.capture import NetworkGraph, Values, module_output
from unitlab.compute.engine.contributions import (
    Contribution,
    ConvolutionContribution,
    LinearContribution,
    RotationContribution,
    contributions_of,
)
from unitlab.compute.engine.hooks import HookEngine
from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.replay import AblatedBatch, Replay
from unitlab.compute.engine.scores import Scores
from unitlab.compute.engine.separable import Suffix
from unitlab.compute.engine.suffix import SuffixEngine

# Operations that treat all channels alike and are linear, so that they may come before or after a rotation of the channels.
COMMUTING_MODULES = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten,
)  # fmt: skip
COMMUTING = {
    module_output, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout, torch.flatten, torch.mean, torch.squeeze,
    "flatten", "mean", "squeeze", "view", "reshape", "contiguous",
}  # fmt: skip


class RotatedSuffixEngine(SuffixEngine):
    """A `SuffixEngine` whose units are the coordinates of the site's channels in a basis.

    Where only linear operations follow the site (pooling by averages on the way), their weights are rotated, and the
    coordinates contribute as units do. Elsewhere a coordinate contributes to the site's own value, and all that follows
    is replayed for every (direction, image) pair: after a projection channels do not stay apart. The site itself then counts
    as mixed, and a node that is not in the network, ``coordinates``, stands before it as the value whose channels are ablated.

    Channels (3, 1) in the basis (1, 1)/√2, (1, −1)/√2 are the coordinates (2.83, 1.41). Weights (2, 3) on them give 9, as the
    rotated weights (3.54, −0.71) on the coordinates do; without the first direction 9 − 3.54 · 2.83 = −1, which is what the
    weights make of (3, 1) − 2.83 · (1, 1)/√2 = (1, −1). A ReLU before them would see (1, −1) and mix.
    """

    def __init__(
        self,
        graph: NetworkGraph,
        site: torch.fx.Node,
        sample: Tensor,
        units: list[int],
        memory: int,
        precision: str,
        basis: Basis,
    ) -> None:
        self.basis, self.matrix = basis, torch.as_tensor(basis.matrix).to(sample)
        super().__init__(graph, site, sample, units, memory, precision)

    @property
    def strategy(self) -> str:
        """What the engine does, for the log."""
        if self.closed_form is not None:
            return "directions, closed form: the logits are linear in the coordinates"
        apart = len(self.exact.contributions)
        replayed = len(self.suffix.mixed) - apart
        return f"directions: {apart} operations by contributions, {replayed} replayed for each (direction, image) pair"

    def _replay_of(self, graph: NetworkGraph, suffix: Suffix) -> Replay:
        owner = suffix.owners[self.site]
        following = [node for node in suffix.nodes if node in {*suffix.separable, *suffix.mixed}]
        # what the site's value is made of can be told by the coordinates of a basis alone
        chain = _commuting(graph, suffix) if self.basis.orthogonal else []
        rotated = replace(
            suffix,
            owners={node: suffix.owners[node] for node in [self.site, *chain]},
            separable=chain,
            mixed=[node for node in following if node not in chain],
        )
        parts = contributions_of(graph, rotated, self.matrix) if self.basis.orthogonal else {}
        if self.basis.orthogonal and all(
            node in parts for node in rotated.mixed if any(used in rotated.owners for used in node.all_input_nodes)
        ):
            return RotatedReplay(graph, rotated, parts, self.site, self.matrix)
        # a node of its own stands for the coordinates, since the site has a value beside them
        entry = torch.fx.Graph().placeholder("coordinates")
        _, _, *positions = suffix.shapes[self.site]
        owner = torch.arange(len(self.matrix)).reshape(1, -1, *[1] * len(positions)).to(owner)
        shapes = {**suffix.shapes, entry: (1, len(self.matrix), *positions)}
        behind = Suffix(entry, suffix.nodes, {entry: owner}, [], [self.site, *following], shapes)
        parts = contributions_of(graph, replace(behind, owners={self.site: owner}), self.matrix)
        parts = {self.site: _unrotation(self.matrix, entry, owner), **parts}
        for part in parts.values():
            part.source = entry
        return RotatedReplay(graph, behind, parts, self.site, self.matrix)

    def evaluate(self, base: BatchBaseline, ablated: Tensor) -> Scores:
        """Scores, (direction, image) each; ``ablated`` as for units, y in x − ((x − y)·v) v."""
        site = base.values[self.site]
        coordinates = over_channels(self.matrix, site)
        values = {**base.values, **self.exact.separable(coordinates, base)}
        if self.basis.codes is None:
            after = over_channels(self.matrix, ablated.to(coordinates))
        else:
            after = coordinates - self.basis.change(site, ablated.to(site).expand_as(site))
        return super().evaluate(replace(base, values=values), after)


def _commuting(graph: NetworkGraph, suffix: Suffix) -> list[torch.fx.Node]:
    """What follows the site by commuting operations alone and still has its positions channel by channel."""
    chain = [suffix.entry]
    for node in suffix.separable:
        module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
        touched = [used for used in node.all_input_nodes if used in suffix.owners or used in suffix.mixed]
        known = isinstance(module, COMMUTING_MODULES) or (module is None and node.target in COMMUTING)
        owner = suffix.owners[node]
        if not known or len(touched) != 1 or touched[0] not in chain or not isinstance(owner, Tensor):
            continue
        full = owner.expand(1, *suffix.shapes[node][1:]).flatten()
        by_channel = torch.arange(suffix.channels).repeat_interleave(full.numel() // suffix.channels)
        if full.shape == by_channel.shape and torch.equal(full, by_channel):
            chain.append(node)
    return chain[1:]


def _unrotation(matrix: Tensor, entry: torch.fx.Node, owner: Tensor) -> Contribution:
    """What coordinates add to the site's value."""
    weight, channels = matrix.t().contiguous(), len(matrix)
    if owner.dim() == 2:
        return LinearContribution(entry, weight, owner, channels)
    if owner.dim() != 4:
        return RotationContribution(entry, weight, owner.flatten(1), channels)
    weight = weight[:, :, None, None]
    return ConvolutionContribution(entry, weight, owner.flatten(1), channels, stride=1, padding=0, dilation=1)


class RotatedReplay(Replay):
    """A `Replay` whose separable values are coordinates: an operation on them is evaluated on what they are coordinates of."""

    def __init__(
        self,
        graph: NetworkGraph,
        suffix: Suffix,
        contributions: dict[torch.fx.Node, Contribution],
        site: torch.fx.Node,
        matrix: Tensor,
    ) -> None:
        super().__init__(graph, suffix, contributions)
        self.site, self.matrix = site, matrix

    def replayed(self, node: torch.fx.Node, batch: AblatedBatch, pairs: Pairs, values: Values) -> Any:
        """The op itself on the pairs' own inputs."""
        part = self.contributions.get(node)
        if part is None:
            return super().replayed(node, batch, pairs, values)
        coordinates = self.one_ablated(part.source, batch, pairs)
        if part.source is self.site or part.source in self.graph.nodes:
            value = over_channels(self.matrix.t(), coordinates)
        else:
            # of coordinates beside the site's value: what is left of it, which directions alone do not tell
            before = batch.base.values[part.source][pairs.images]
            value = batch.base.values[self.site][pairs.images] + over_channels(self.matrix.t(), coordinates - before)
        if node is self.site:
            return value
        first, *others = node.all_input_nodes
        return self.graph.evaluate(node, {**{used: self.input(used, batch, pairs, values) for used in others}, first: value})


class RotatedHookEngine(HookEngine):
    """A `HookEngine` whose units are directions."""

    strategy = "directions, forward hooks: one evaluation for each direction, of all but the modules before the layer"

    def __init__(self, model: nn.Module, site: Site, units: list[int], basis: Basis) -> None:
        super().__init__(model, site, units)
        self.basis = basis

    def replaced(self, value: Tensor, units: list[int], ablated: Tensor) -> Tensor:
        return self.basis.projected(value, ablated.expand_as(value), units)
