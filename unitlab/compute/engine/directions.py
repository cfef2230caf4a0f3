"""Bases and other directions of a layer that are ablated in the place of its units, and the engines for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.ablation import BatchBaseline, Pairs
from unitlab.compute.engine.capture import NetworkGraph, Values
from unitlab.compute.engine.contributions import (
    Contribution,
    contributions_of,
)
from unitlab.compute.engine.hooks import HookEngine
from unitlab.compute.engine.host_copies import HostCopies, Steps, on_device
from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.replay import AblatedBatch, Replay
from unitlab.compute.engine.scores import Scores
from unitlab.compute.engine.separable import Suffix, commuting
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.errors import UnitlabError, nearest_names

NAMES = ("random", "pca")
# the codes of a batch: from a site's values (image, channel, …) to (image, direction, …)
Codes = Callable[[Tensor], Tensor]
# A basis of hundreds of directions in float32 is orthogonal to about 1e-6.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Basis:
    """``matrix`` (direction, channel), float64, and the name that the ablation goes by.

    Rows are orthonormal; those of ``directions=`` are of length one, each ablated alone, and need not be ``orthogonal``. With
    ``codes`` what an ablation takes away along a row is not the values' own component but what the codes say, and rows are of
    any length. ``note`` says what was done to them.
    """

    name: str
    matrix: np.ndarray
    orthogonal: bool = True
    codes: Codes | None = None
    note: str = ""

    @cached_property
    def fingerprint(self) -> str:
        named = "" if self.codes is None else _name_of(self.codes)
        return hashlib.sha256(np.ascontiguousarray(self.matrix).tobytes() + named.encode()).hexdigest()

    @cached_property
    def _moved(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}

    def _matrix_like(self, value: Tensor) -> Tensor:
        """The matrix where a value is, brought there once."""
        place = (value.device, value.dtype)
        if place not in self._moved:
            self._moved[place] = on_device(self.matrix, value.device).to(value)
        return self._moved[place]

    def __getstate__(self) -> dict[str, Any]:
        return {name: one for name, one in vars(self).items() if name != "_moved"}

    def coordinates(self, value: Tensor) -> Tensor:
        """Coordinates (image, direction, …) of values (image, channel, …)."""
        return over_channels(self._matrix_like(value), value)

    def change(self, value: Tensor, replaced: Tensor, host: HostCopies | None = None) -> Tensor:
        """What ablating each direction takes away along it, (image, direction, …): (x − y)·v, or the code of x.

        Codes that are not finite are refused now, or once ``host`` delivers.
        """
        if self.codes is None:
            return self.coordinates(value - replaced)
        with torch.no_grad():
            found = self.codes(value.float())
        expected = (len(value), len(self.matrix), *value.shape[2:])
        if not isinstance(found, Tensor) or tuple(found.shape) != expected:
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UnitlabError(
                f"subtract gives {given} for the layer's values {tuple(value.shape)}; give a tensor (image, direction, …) "
                f"with a code for each direction and position: {expected}"
            )
        checks = host or HostCopies()
        checks.then(_refuse_not_finite, torch.isfinite(found).all())
        if host is None:
            checks.deliver()
        # replaced by what it is: nothing changes, whatever its code
        return torch.where((replaced == value).all(), torch.zeros_like(found), found).to(value)

    def projected(self, value: Tensor, replaced: Tensor, directions: Iterable[int]) -> Tensor:
        """x − Σ ((x − y)·v) v over some directions v, for the values x and what replaces them, y (image, channel, …)."""
        chosen = on_device(torch.tensor(list(directions), dtype=torch.long), value.device)
        some = self._matrix_like(value)[chosen]
        taken = over_channels(some, value - replaced) if self.codes is None else self.change(value, replaced)[:, chosen]
        return value - over_channels(some.t(), taken)


def _refuse_not_finite(finite: Tensor) -> None:
    if not finite:
        raise UnitlabError("subtract gives codes that are NaN or infinite")


def over_channels(matrix: Tensor, value: Tensor) -> Tensor:
    """``matrix`` (row, channel) times values (image, channel, …), or (image, channel · position) → (image, row, …)."""
    flat = value.reshape(len(value), matrix.shape[1], -1)
    found = matrix @ flat
    return found.reshape(len(value), -1) if value.dim() == 2 else found.reshape(len(value), len(matrix), *value.shape[2:])


def _name_of(codes: Codes) -> str:
    kind = codes if hasattr(codes, "__qualname__") else type(codes)
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


def directions_of(given: Any, channels: int, layer: str, codes: Codes | None) -> Basis:
    """The directions that `unitlab.ablate` was given, (direction, channel), made one long unless there are codes for them.

    Raises
    ------
    UnitlabError
        No such matrix: another shape, values that are not finite, a row of zeros.
    """
    matrix = _matrix(given, "directions")
    if matrix.ndim != 2 or matrix.shape[1] != channels or not len(matrix):
        raise UnitlabError(
            f"directions have the shape {matrix.shape}; layer '{layer}' has {channels} channels, so that they are (direction, "
            f"{channels}): one in each row"
        )
    lengths = np.linalg.norm(matrix, axis=1)
    if not lengths.all():
        raise UnitlabError(f"direction {int(lengths.argmin())} is zero in all channels; leave it out")
    if codes is None:
        matrix = matrix / lengths[:, None]
        note = f"lengths were {lengths.min():.4g} to {lengths.max():.4g} and are one"
        note = "all of length one" if np.allclose(lengths, 1, atol=TOLERANCE) else note
    else:
        note = f"times the codes of {_name_of(codes)}"
    return _named(Basis("", matrix, False, codes, note), "directions")


def basis_of(
    given: Any,
    channels: int,
    seed: int,
    layer: str,
    site_values: Callable[[], Iterable[Tensor]],
    power: float | None = None,
) -> Basis:
    """The basis that `unitlab.ablate` was given; with ``power``, as far on the way to it from the units' own (`powered`).

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
            return _at_power(Basis(f"random-{seed}", random_axes(channels, seed)), power)
        return _at_power(Basis("pca", _principal_axes(channels, site_values())), power)
    matrix = _matrix(given, "basis")
    if matrix.shape != (channels, channels):
        raise UnitlabError(
            f"basis has the shape {matrix.shape}; layer '{layer}' has {channels} channels, so that a basis of it is "
            f"({channels}, {channels}): a direction in each row (`units` picks some of them)"
        )
    worst = float(np.abs(matrix @ matrix.T - np.eye(channels)).max())
    if worst > TOLERANCE:
        raise UnitlabError(
            f"basis is not orthogonal: rows have products up to {worst:.2g} away from those of unit vectors at right angles; "
            "numpy.linalg.qr(matrix.T)[0].T makes them so; or give the rows as directions="
        )
    return _at_power(_named(Basis("", matrix), "basis"), power)


def _matrix(given: Any, keyword: str) -> np.ndarray:
    try:
        matrix = np.array(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        named = "'random', 'pca' or " if keyword == "basis" else ""
        raise UnitlabError(f"{keyword} is a {type(given).__name__}; give {named}a matrix (direction, channel)") from error
    if not np.isfinite(matrix).all():
        raise UnitlabError(f"{keyword} holds NaN or infinite values")
    return matrix


def _named(basis: Basis, kind: str) -> Basis:
    return replace(basis, name=f"{kind}-{basis.fingerprint[:8]}")


def _at_power(basis: Basis, power: float | None) -> Basis:
    return basis if power is None else Basis(f"{basis.name}-power-{power:g}", powered(basis.matrix, power))


def powered(matrix: np.ndarray, power: float) -> np.ndarray:
    """R^α of an orthogonal matrix R: its planes turned by α of their angles; α = 0 is the identity, α = 1 is R.

    Where R mirrors, its last row is turned round first: it is then a rotation, and its directions are the same axes. From the
    real Schur form, as Bau et al. (2017) turn a representation gradually. A turn by 30° in the plane of two channels,
    ((0.87, −0.5), (0.5, 0.87)), becomes one by 15° for α = ½.
    """
    matrix = matrix.copy()
    if np.linalg.slogdet(matrix)[0] < 0:
        matrix[-1] *= -1
    form, axes = scipy.linalg.schur(matrix, output="real")
    angles, planes, halves = [], [], []
    place = 0
    while place < len(form):
        if place + 1 < len(form) and abs(form[place + 1, place]) > TOLERANCE:
            angles.append(np.arctan2(form[place + 1, place], form[place, place]))
            planes.append((place, place + 1))
            place += 2
            continue
        if form[place, place] < 0:
            halves.append(place)  # half a turn: of a rotation there is an even number of them
        place += 1
    planes += zip(halves[::2], halves[1::2], strict=True)
    angles += [np.pi] * (len(halves) // 2)
    turned = np.eye(len(form))
    for (one, other), angle in zip(planes, np.multiply(angles, power), strict=True):
        turned[[one, other], [one, other]] = np.cos(angle)
        turned[other, one], turned[one, other] = np.sin(angle), -np.sin(angle)
    return np.ascontiguousarray(axes @ turned @ axes.T)


def random_axes(channels: int, seed: int) -> np.ndarray:
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
        chain = commuting(graph, suffix) if self.basis.orthogonal else []
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

    def steps(self, base: BatchBaseline, ablated: Tensor) -> Steps[Scores]:
        """Scores, (direction, image) each; ``ablated`` as for units, y in x − ((x − y)·v) v."""
        site = base.values[self.site]
        coordinates = over_channels(self.matrix, site)
        values = {**base.values, **self.exact.separable(coordinates, base)}
        if self.basis.codes is None:
            after = over_channels(self.matrix, ablated.to(coordinates))
        else:
            after = coordinates - self.basis.change(site, ablated.to(site).expand_as(site), base.host)
        return super().steps(replace(base, values=values), after)


def _unrotation(matrix: Tensor, entry: torch.fx.Node, owner: Tensor) -> Contribution:
    """What coordinates add to the site's value."""
    axis = -1 if owner.dim() == 2 else 1
    return Contribution(entry, matrix.t().contiguous(), owner.flatten(1), len(matrix), axis=axis)


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
