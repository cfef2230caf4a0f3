"""Bases whose directions are ablated in the place of units, and the engines for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from unitlab.compute.engine.ablation import BatchBaseline, Pairs
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
from unitlab.errors import UnitlabError, nearest_names

NAMES = ("random", "pca")
# A basis of hundreds of directions in float32 is orthogonal to about 1e-6.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Basis:
    """``matrix`` (direction, channel), float64, with orthonormal rows, and the name that the ablation goes by."""

    name: str
    matrix: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.matrix).tobytes()).hexdigest()

    def coordinates(self, value: Tensor) -> Tensor:
        """Coordinates (image, direction, …) of values (image, channel, …)."""
        return over_channels(torch.as_tensor(self.matrix).to(value), value)

    def projected(self, value: Tensor, replaced: Tensor, directions: Iterable[int]) -> Tensor:
        """x − Σ ((x − y)·v) v over some directions v, for the values x and what replaces them, y (image, channel, …)."""
        some = torch.as_tensor(self.matrix[list(directions)]).to(value)
        return value - over_channels(some.t(), over_channels(some, value - replaced))


def over_channels(matrix: Tensor, value: Tensor) -> Tensor:
    """``matrix`` (row, channel) times values (image, channel, …), or (image, channel · position) → (image, row, …)."""
    flat = value.reshape(len(value), matrix.shape[1], -1)
    found = matrix @ flat
    return found.reshape(len(value), -1) if value.dim() == 2 else found.reshape(len(value), len(matrix), *value.shape[2:])


def basis_of(given: Any, channels: int, seed: int, layer: str, site_values: Callable[[], Iterable[Tensor]]) -> Basis:
    """The basis that `unitlab.ablate` was given.

    Parameters
    ----------
    given
        "random" (uniform over the orthogonal matrices), "pca" (principal axes of the activations over all images and
        positions, by descending variance), or an orthogonal matrix (direction, channel).
    channels
        Of the layer.
    seed
        Of the random basis.
    site_values
        Gives the layer's values (image, channel, …) batch by batch; asked for "pca" alone.

    Raises
    ------
    UnitlabError
        An unknown name, a matrix of another shape, not finite, or not orthogonal.
    """
    if isinstance(given, str):
        if given not in NAMES:
            raise UnitlabError(f"basis={given!r} is not known. {nearest_names(given, NAMES)} Or give a matrix")
        if given == "random":
            return Basis(f"random-{seed}", _random(channels, seed))
        return Basis("pca", _principal_axes(channels, site_values()))
    try:
        matrix = np.array(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise UnitlabError(
            f"basis is a {type(given).__name__}; give 'random', 'pca' or a matrix (direction, channel)"
        ) from error
    if matrix.shape != (channels, channels):
        raise UnitlabError(
            f"basis has the shape {matrix.shape}; layer '{layer}' has {channels} channels, so that a basis of it is "
            f"({channels}, {channels}): a direction in each row (`units` picks some of them)"
        )
    if not np.isfinite(matrix).all():
        raise UnitlabError("basis holds NaN or infinite values")
    worst = float(np.abs(matrix @ matrix.T - np.eye(channels)).max())
    if worst > TOLERANCE:
        raise UnitlabError(
            f"basis is not orthogonal: rows have products up to {worst:.2g} away from those of unit vectors at right angles; "
            "numpy.linalg.qr(matrix.T)[0].T makes them so"
        )
    basis = Basis("", matrix)
    return Basis(f"basis-{basis.fingerprint[:8]}", matrix)


def _random(channels: int, seed: int) -> np.ndarray:
    """Rows of an orthogonal matrix from the uniform distribution (Stewart 1980)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((channels, channels)))
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray((q * signs).T)


def _principal_axes(channels: int, batches: Iterable[Tensor]) -> np.ndarray:
    """Eigenvectors of the covariance over images and positions, the largest entry of each positive."""
    total, product, count = np.zeros(channels), np.zeros((channels, channels)), 0
    for value in batches:
        flat = value.double().flatten(2) if value.dim() > 2 else value.double().unsqueeze(2)
        rows = flat.transpose(0, 1).reshape(channels, -1)
        total += rows.sum(1).cpu().numpy()
        product += (rows @ rows.t()).cpu().numpy()
        count += rows.shape[1]
    covariance = product / count - np.outer(total / count, total / count)
    axes = np.linalg.eigh(covariance)[1][:, ::-1].T
    largest = axes[np.arange(channels), np.abs(axes).argmax(1)]
    return np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0)[:, None])


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
        self.matrix = torch.as_tensor(basis.matrix).to(sample)
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
        chain = _commuting(graph, suffix)
        rotated = replace(
            suffix,
            owners={node: suffix.owners[node] for node in [self.site, *chain]},
            separable=chain,
            mixed=[node for node in following if node not in chain],
        )
        parts = contributions_of(graph, rotated, self.matrix)
        if all(node in parts for node in rotated.mixed if any(used in rotated.owners for used in node.all_input_nodes)):
            return RotatedReplay(graph, rotated, parts, self.site, self.matrix)
        # a node of its own stands for the coordinates, since the site has a value beside them
        entry = torch.fx.Graph().placeholder("coordinates")
        shapes = {**suffix.shapes, entry: suffix.shapes[self.site]}
        behind = Suffix(entry, suffix.nodes, {entry: owner}, [], [self.site, *following], shapes)
        parts = contributions_of(graph, replace(behind, owners={self.site: owner}), self.matrix)
        parts = {self.site: _unrotation(self.matrix, entry, owner), **parts}
        for part in parts.values():
            part.source = entry
        return RotatedReplay(graph, behind, parts, self.site, self.matrix)

    def evaluate(self, base: BatchBaseline, ablated: Tensor) -> Scores:
        """Scores, (direction, image) each; ``ablated`` as for units, y in x − ((x − y)·v) v."""
        coordinates = over_channels(self.matrix, base.values[self.site])
        values = {**base.values, **self.exact.separable(coordinates, base)}
        return super().evaluate(replace(base, values=values), over_channels(self.matrix, ablated.to(coordinates)))


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
        value = over_channels(self.matrix.t(), self.one_ablated(part.source, batch, pairs))
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
