"""What each unit adds to the first operations that mix channels: all units together cost one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from unitlab.compute.engine.capture import NetworkGraph
from unitlab.compute.engine.separable import NO_OWNER, Suffix

# Subtraction leaves fewer digits than float32 has where a contribution is this much larger than what remains.
CANCELLATION = 32.0


@dataclass
class _Positions:
    """Positions (or channels) of a flat axis by unit; ``spans`` has them as a slice where they are consecutive."""

    by_unit: list[Tensor]
    spans: list[Tensor | slice]
    owner: Tensor

    @classmethod
    def of(cls, owner: Tensor, units: int) -> _Positions:
        flat = owner.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat[flat != NO_OWNER], minlength=units)
        order = order[int((flat == NO_OWNER).sum()) :]
        by_unit = list(torch.split(order, counts.tolist()))
        return cls(by_unit, [_span(index) for index in by_unit], flat)

    def of_units(self, units: Sequence[int]) -> Tensor | slice | None:
        """Positions of several units, one unit after the other; None where there are none."""
        if len(units) == 1:
            return self.spans[units[0]] if len(self.by_unit[units[0]]) else None
        found = [self.by_unit[unit] for unit in units if len(self.by_unit[unit])]
        return torch.cat(found) if found else None

    @staticmethod
    def take(tensor: Tensor, index: Tensor | slice) -> Tensor:
        """``tensor`` (row, position, …) at some positions; a view where they are consecutive."""
        return tensor[:, index] if isinstance(index, slice) else tensor.index_select(1, index.to(tensor.device))


def _span(index: Tensor) -> Tensor | slice:
    if len(index) and bool((index.diff() == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


class LinearContribution:
    """A linear layer on separable features (image, position)."""

    def __init__(self, weight: Tensor, owner: Tensor, units: int) -> None:
        self.weight = weight
        self.positions = _Positions.of(owner, units)
        self.norms = torch.stack(
            [
                self.positions.take(weight, span).norm(dim=1).max() if len(index) else weight.new_zeros(())
                for index, span in zip(self.positions.by_unit, self.positions.spans, strict=True)
            ]
        )

    def bind(self, base: Tensor, delta: Tensor) -> None:
        """Take the op's output on the unablated input, ``base``, and the change of its input, ``delta``."""
        self.base, self.delta = base, delta

    def release(self) -> None:
        """Let go of the batch."""
        del self.base, self.delta

    def write_ablated(self, units: Sequence[int], images: Tensor | slice, before: Tensor, out: Tensor) -> None:
        """Write the op's output for the ablation of ``units`` on ``images`` to ``out`` (pair, feature).

        ``before`` (image, feature) is the output without it.
        """
        index = self.positions.of_units(units)
        if index is None:
            out.copy_(before[images])
            return
        change = self.positions.take(self.delta, index)[images]
        torch.addmm(before[images], change, self.positions.take(self.weight, index).t(), alpha=-1, out=out)

    def empty(self, pairs: int) -> Tensor:
        return self.base.new_empty(pairs, self.base.shape[1])


class ConvolutionContribution:
    """A convolution without groups on separable channels (image, channel, row, column)."""

    def __init__(
        self,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        owner: Tensor,
        units: int,
    ) -> None:
        self.weight = weight
        self.geometry = {"kernel_size": tuple(weight.shape[2:]), "dilation": dilation, "padding": padding, "stride": stride}
        self.positions = _Positions.of(owner, units)
        by_channel = weight.permute(1, 2, 3, 0).contiguous()  # whose rows lie together, so that taking a unit's is quick
        self.rows = [
            by_channel[index if isinstance(index, slice) else index.to(weight.device)].flatten(0, 2)
            for index in self.positions.spans
        ]
        self.norms = torch.stack([rows.norm(dim=0).max() if rows.numel() else weight.new_zeros(()) for rows in self.rows])

    def bind(self, base: Tensor, delta: Tensor) -> None:
        self.base, self.delta = base.contiguous(memory_format=torch.channels_last), delta

    def release(self) -> None:
        """Let go of the batch."""
        del self.base, self.delta

    def write_ablated(self, units: Sequence[int], images: Tensor | slice, before: Tensor, out: Tensor) -> None:
        index = self.positions.of_units(units)
        if index is None:
            out.copy_(before[images])
            return
        change = self.positions.take(self.delta, index)[images]
        if len(units) != 1:
            # many columns: the convolution itself needs no patches
            weight = self.positions.take(self.weight, index)
            options = {name: value for name, value in self.geometry.items() if name != "kernel_size"}
            out.copy_(before[images] - F.conv2d(change, weight, None, **options))  # type: ignore[call-overload]
            return
        patches = F.unfold(change, **self.geometry)  # type: ignore[arg-type]
        pairs, features = patches.shape[0], self.base.shape[1]
        flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
        base = before[images].permute(0, 2, 3, 1).reshape(-1, features)
        result = out.permute(0, 2, 3, 1).view(-1, features)
        torch.addmm(base, flat, self.rows[units[0]], alpha=-1, out=result)
        assert out.shape[0] == pairs

    def empty(self, pairs: int) -> Tensor:
        shape = (pairs, *self.base.shape[1:])
        return torch.empty(shape, dtype=self.base.dtype, device=self.base.device, memory_format=torch.channels_last)


class Running:
    """An operation's output (image, …) under the last set evaluated of a chain, and how large it has been on each image."""

    def __init__(self, base: Tensor) -> None:
        self.start = -1
        self.value, self.largest = torch.empty_like(base), base.new_empty(len(base))

    def enter(self, start: int, base: Tensor) -> None:
        """Go on with the chain that begins with the set ``start``, from the unablated output if it is another one."""
        if start != self.start:
            self.start = start
            self.value.copy_(base)
            self.largest.copy_(base.flatten(1).abs().amax(1))


def contribution(
    graph: NetworkGraph,
    node: torch.fx.Node,
    suffix: Suffix,
    constants: dict[torch.fx.Node, Tensor],
    units: int,
    *,
    rotation: Tensor | None = None,
) -> tuple[LinearContribution | ConvolutionContribution, torch.fx.Node] | None:
    """The contribution of a mixing node and its separable input; None where the op is not a plain linear one.

    With ``rotation`` (direction, unit), the input comes as coordinates, channel by channel.
    """
    if not node.args or not isinstance(node.args[0], torch.fx.Node):
        return None
    source = node.args[0]
    owner = suffix.owners.get(source)
    touched = set(suffix.owners) | set(suffix.mixed)
    if not isinstance(owner, Tensor) or any(used in touched for used in node.all_input_nodes if used is not source):
        return None
    module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
    dims = len(suffix.shapes[source])
    if isinstance(module, nn.Linear) and dims == 2:
        return LinearContribution(_rotated(module.weight, rotation), owner.expand(suffix.shapes[source]), units), source
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or isinstance(module.padding, str) or module.groups != 1:
            return None
        found = _convolution(_rotated(module.weight, rotation), module.stride, module.padding, module.dilation, owner, units)
        return None if found is None else (found, source)
    if node.op != "call_function" or len(node.args) < 2 or node.args[1] not in constants:
        return None
    weight = _rotated(constants[node.args[1]], rotation)  # type: ignore[index]
    if node.target is F.linear and dims == 2:
        return LinearContribution(weight, owner.expand(suffix.shapes[source]), units), source
    if node.target in (F.conv2d, torch.conv2d):
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        options = [given.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
        if given.get("groups", 1) != 1 or any(isinstance(option, str | torch.fx.Node) for option in options):
            return None
        stride, padding, dilation = [(option, option) if isinstance(option, int) else tuple(option) for option in options]  # type: ignore[arg-type]
        found = _convolution(weight, stride, padding, dilation, owner, units)
        return None if found is None else (found, source)
    return None


def _rotated(weight: Tensor, rotation: Tensor | None) -> Tensor:
    """Weights (output, unit, …) or (output, unit · position) as weights of coordinates."""
    weight = weight.detach()
    if rotation is None:
        return weight
    by_unit = weight.reshape(len(weight), rotation.shape[1], -1)
    # in float64, since it is done once
    return (rotation.double() @ by_unit.double()).to(weight).reshape(weight.shape)


def _convolution(
    weight: Tensor, stride: Any, padding: Any, dilation: Any, owner: Tensor, units: int
) -> ConvolutionContribution | None:
    """Contribution of a convolution, or None where a channel's positions have several owners."""
    if owner.dim() != 4:
        return None
    channel = owner.flatten(2).amax(2)
    flat = owner.flatten(2)
    if not ((flat == channel.unsqueeze(2)) | (flat == NO_OWNER)).all():
        return None
    return ConvolutionContribution(weight, stride, padding, dilation, channel, units)
