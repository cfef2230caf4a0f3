"""What each unit adds to the first operations that mix channels: all units together cost one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from unitlab.compute.engine.ablation import EVERY, Pairs, UnitSets
from unitlab.compute.engine.capture import NetworkGraph
from unitlab.compute.engine.host_copies import on_device
from unitlab.compute.engine.separable import NO_OWNER, Suffix, one_owner

# Where a contribution is this much larger than what remains of the output, subtraction has eaten the digits, and the pair is
# evaluated directly. One unit 30, 100, 1,000 and 100,000 times as large as the others (the tests' DominantUnit), subtracted all
# the same: margins err by 7e-6, 2e-5, 1e-4 and 2e-2 of the logits' range, hooks in float32 by 4e-7, and the tests' oracle
# excuses 1e-4. At 64 up to 1e-5 would pass; 2 would change no pair of the bundled networks, which have none that large.
CANCELLATION = 32.0
# A change more than 32 times what remains is more than 32/33 of the unablated output: 0.9 leaves room for rounding.
SUSPICIOUS = 0.9
# Along a chain rounding adds up, as of the largest value met, so an output is evaluated anew once it is this much smaller.
# 512 units taken away one by one, all weights of one sign: margins err by 2e-6 of the range with 1 % evaluated anew; at 2 by
# 1e-6 with 1.6 %, at 16 by 1e-5 with 0.5 %, without any by 2e-4.
SHRUNK, LOST = 4.0, 1000.0
CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass
class _Positions:
    """Positions (or channels) of a flat axis by unit; ``spans`` has them as a slice where they are consecutive.

    For the owners (0, 0, 1, −1, 1) these are (0, 1) and (2, 4), the first as a slice, and nobody has position 3. ``columns``
    has those of all units, one unit after the other, as a slice where all have equally many, else (unit, position), filled up
    with one position more than there are.
    """

    by_unit: list[Tensor]
    spans: list[Tensor | slice]
    columns: Tensor | slice

    @classmethod
    def of(cls, owner: Tensor, units: int, device: torch.device) -> _Positions:
        flat = owner.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat[flat != NO_OWNER], minlength=units)
        order = order[int((flat == NO_OWNER).sum()) :]
        by_unit = list(torch.split(order, counts.tolist()))
        columns = _span(order)
        if not isinstance(columns, slice) or len({len(index) for index in by_unit}) > 1:
            columns = torch.nn.utils.rnn.pad_sequence(by_unit, batch_first=True, padding_value=len(flat)).to(device)
        return cls([index.to(device) for index in by_unit], [_span(index, device) for index in by_unit], columns)

    def of_units(self, units: Sequence[int]) -> Tensor | slice | None:
        """Positions of several units, one unit after the other; None where there are none."""
        if len(units) == 1:
            return self.spans[units[0]] if len(self.by_unit[units[0]]) else None
        found = [self.by_unit[unit] for unit in units if len(self.by_unit[unit])]
        return torch.cat(found) if found else None

    def sums(self, values: Tensor) -> Tensor:
        """(image, position) → (image, unit); in a fixed order, on a GPU as well, which adding by owner would not be."""
        if isinstance(self.columns, slice):
            return self.take(values, self.columns).unflatten(1, (len(self.by_unit), -1)).sum(2)
        return F.pad(values, (0, 1)).index_select(1, self.columns.flatten()).unflatten(1, self.columns.shape).sum(2)

    @staticmethod
    def take(tensor: Tensor, index: Tensor | slice, axis: int = 1) -> Tensor:
        """``tensor`` at some positions along an axis; a view where they are consecutive."""
        if isinstance(index, slice):
            return tensor.narrow(axis, index.start, index.stop - index.start)
        return tensor.index_select(axis, index)


def _span(index: Tensor, device: torch.device | None = None) -> Tensor | slice:
    if len(index) and bool((index.diff() == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index.to(device)


class Contribution:
    """A linear operation whose input, ``source``, is separable, as what each unit adds to its output.

    With weights (2, 3), bias 1 and units at 5 and 4 the output is 23. Of the ablation of the first unit to x̃ nothing must be
    known but δ = 5 − x̃: the output becomes 23 − 2 · δ, 13 for zero; for the second unit 23 − 3 · 4 = 11. Each ablation
    takes the columns of one unit, so all of them together cost one evaluation of the operation, and the bias cancels.
    ``norms`` has, for each unit, the largest Euclidean norm of its weights towards one output; ``axis`` is the input's
    dimension that has the units' positions.
    """

    norms: Tensor
    axis = 1

    def __init__(self, source: torch.fx.Node, weight: Tensor, owner: Tensor, units: int) -> None:
        self.source, self.weight = source, weight
        self.positions = _Positions.of(owner, units, weight.device)

    def write_ablated(self, units: Sequence[int], images: Tensor | slice, delta: Tensor, before: Tensor, out: Tensor) -> None:
        """Write the op's output for the ablation of ``units`` on ``images`` to ``out`` (pair, …).

        ``before`` (image, …) is the output without it, ``delta`` (image, …) the change of the input where all are ablated.
        """
        index = self.positions.of_units(units)
        if index is None:
            out.copy_(before[images])
        else:
            self._subtract(units, index, self.positions.take(delta, index, self.axis)[images], before[images], out)

    def _subtract(self, units: Sequence[int], index: Tensor | slice, change: Tensor, before: Tensor, out: Tensor) -> None:
        raise NotImplementedError

    def squares(self, delta: Tensor) -> Tensor:
        """(image, position): the square of the change that an output sees at each position along the axis, at most."""
        return delta.square().flatten(2).sum(2) if delta.dim() > 2 else delta.square()

    def layout(self, base: Tensor) -> torch.memory_format:
        """How an output (image, …) lies in memory."""
        return torch.channels_last if base.dim() == 4 else torch.contiguous_format


class LinearContribution(Contribution):
    """A linear layer on separable features (image, …, position): behind a flatten, a unit has several positions.

    For tokens (image, token, position) every token is a row of its own.
    """

    axis = -1

    def __init__(self, source: torch.fx.Node, weight: Tensor, owner: Tensor, units: int) -> None:
        super().__init__(source, weight, owner, units)
        self.norms = torch.stack(
            [
                self.positions.take(weight, span).norm(dim=1).max() if len(index) else weight.new_zeros(())
                for index, span in zip(self.positions.by_unit, self.positions.spans, strict=True)
            ]
        )

    def _subtract(self, units: Sequence[int], index: Tensor | slice, change: Tensor, before: Tensor, out: Tensor) -> None:
        weight = self.positions.take(self.weight, index).t()
        rows = out.view(-1, out.shape[-1])
        torch.addmm(before.flatten(0, -2), change.flatten(0, -2), weight, alpha=-1, out=rows)

    def squares(self, delta: Tensor) -> Tensor:
        return delta.square().flatten(1, -2).amax(1) if delta.dim() > 2 else delta.square()

    def layout(self, base: Tensor) -> torch.memory_format:
        return torch.contiguous_format


class RotationContribution(Contribution):
    """A product with the channels at each position, of coordinates (image, direction, position …)."""

    def __init__(self, source: torch.fx.Node, weight: Tensor, owner: Tensor, units: int) -> None:
        super().__init__(source, weight, owner, units)
        self.norms = weight.abs().amax(0)

    def _subtract(self, units: Sequence[int], index: Tensor | slice, change: Tensor, before: Tensor, out: Tensor) -> None:
        out.copy_(before - (self.positions.take(self.weight, index) @ change.flatten(2)).view_as(before))


class ConvolutionContribution(Contribution):
    """A convolution without groups on separable channels (image, channel, row, column).

    One unit's share is a product of its patches (9 columns for 3 × 3 weights) with its own weights: torch's convolution of a
    single channel takes five to seven times as long.
    """

    def __init__(
        self, source: torch.fx.Node, weight: Tensor, owner: Tensor, units: int, *, stride: Any, padding: Any, dilation: Any
    ) -> None:
        super().__init__(source, weight, owner, units)
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        by_channel = weight.permute(1, 2, 3, 0).contiguous()  # whose rows lie together, so that taking a unit's is quick
        self.rows = [by_channel[index].flatten(0, 2) for index in self.positions.spans]
        self.norms = torch.stack([rows.norm(dim=0).max() if rows.numel() else weight.new_zeros(()) for rows in self.rows])

    def _subtract(self, units: Sequence[int], index: Tensor | slice, change: Tensor, before: Tensor, out: Tensor) -> None:
        if len(units) != 1:
            # many columns: the convolution itself needs no patches
            out.copy_(before - F.conv2d(change, self.positions.take(self.weight, index), None, **self.geometry))
            return
        patches = F.unfold(change, tuple(self.weight.shape[2:]), **self.geometry)
        flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
        features = out.shape[1]
        base, result = before.permute(0, 2, 3, 1).reshape(-1, features), out.permute(0, 2, 3, 1).view(-1, features)
        torch.addmm(base, flat, self.rows[units[0]], alpha=-1, out=result)


class Contributed:
    """A contributed operation on one batch: its output under each set is the unablated one minus what the set contributes.

    ``base`` is the output of the unablated batch and ``delta`` the change of the input where every unit is ablated.
    Where the weights are (2, 3) and the units 5e7 and 4, 100000013 − 2 · 5e7 is 16 in float32 and not 13: what remains is
    compared with what was taken away, and such pairs are evaluated directly. To compare costs a pass over the outputs, so
    that it is left out where a bound says that nothing can cancel.
    """

    def __init__(self, part: Contribution, base: Tensor, delta: Tensor, sets: UnitSets) -> None:
        self.part, self.delta, self.sets = part, delta, sets
        self.layout = part.layout(base)
        self.base = base.contiguous(memory_format=self.layout)
        # (set, image), on the host: pairs to compare, and pairs that are evaluated without subtraction; on the device: those of
        # which the comparison has found that they should be
        self.suspected = self.direct = torch.zeros(len(sets), len(base), dtype=torch.bool)
        self.cancelled = torch.zeros(len(sets), len(base), dtype=torch.bool, device=base.device)
        self.compared = False

    @staticmethod
    def of(part: Contribution, base: Tensor, delta: Tensor, sets: UnitSets) -> Contributed:
        """The way in which these sets are worked out."""
        return (ContributedInChains if sets.chained else Contributed)(part, base, delta, sets)

    def outputs(self, pairs: Pairs, directly: Callable[[Tensor], Tensor]) -> Tensor:
        """Outputs (pair, …); ``directly`` gives those of some rows without subtraction."""
        out = self._empty(pairs)
        for number, images, rows in pairs.by_set(len(self.base)):
            self.part.write_ablated(self.sets.added[number], images, self.delta, self.base, out[rows])
        sets, images_here = pairs.host
        direct = self.direct[sets, images_here]
        suspected = (self.suspected[sets, images_here] & ~direct).nonzero().flatten()
        if len(suspected):
            where = on_device(suspected, out.device)
            kept = out[where].flatten(1)
            change = (self.base[pairs.images[where]].flatten(1) - kept).abs().amax(1)
            self.cancelled[pairs.sets[where], pairs.images[where]] = change > CANCELLATION * kept.abs().amax(1)
            self.compared = True
        rows_anew = direct.nonzero().flatten()
        if len(rows_anew):
            out[on_device(rows_anew, out.device)] = directly(rows_anew)
        return out

    def suspect(self, suspicious: Tensor) -> None:
        """What to do about the `suspicious` pairs, as the host has them: compare them."""
        self.suspected = suspicious

    def _empty(self, pairs: Pairs) -> Tensor:
        shape = (len(pairs.sets), *self.base.shape[1:])
        return torch.empty(shape, dtype=self.base.dtype, device=self.base.device, memory_format=self.layout)

    def suspicious(self) -> Tensor:
        """(set, image): whether subtraction might cancel.

        No output moves by more than ‖δ_u‖ · max ‖W_u‖ (Cauchy and Schwarz; a convolution's patch is part of the map), and a set
        moves it by no more than the sum over its units.
        """
        total = self.part.positions.sums(self.part.squares(self.delta))
        bound = self.sets.totals(total.sqrt() * self.part.norms.to(total.device))
        return (bound > SUSPICIOUS * self.base.flatten(1).abs().amax(1, keepdim=True)).t()


class ContributedInChains(Contributed):
    """The same where sets follow one another: each output from that of the set before. Pairs must come in order.

    For the sets (a), (a, b) the second output is the first minus what b contributes, so that a curve of all prefixes of an
    order costs what its units cost one at a time.
    """

    def __init__(self, part: Contribution, base: Tensor, delta: Tensor, sets: UnitSets) -> None:
        super().__init__(part, base, delta, sets)
        self.start = -1
        self.value = torch.empty_like(self.base)  # the output (image, …) under the last set evaluated of a chain

    def outputs(self, pairs: Pairs, directly: Callable[[Tensor], Tensor]) -> Tensor:
        """Outputs (pair, …); ``directly`` gives those of some rows without subtraction."""
        out = self._empty(pairs)
        for number, images, rows in pairs.by_set(len(self.base)):
            self._begin(number)
            self.part.write_ablated(self.sets.added[number], images, self.delta, self.value, out[rows])
            shrunk = self.direct[number, pairs.host[1, rows]].nonzero().flatten() + rows.start
            if len(shrunk):
                out[on_device(shrunk, out.device)] = directly(shrunk)
            self.value[images] = out[rows]
        return out

    def _begin(self, number: int) -> None:
        if self.start != self.sets.start_of[number]:
            self.start = self.sets.start_of[number]
            self.value.copy_(self.base)

    def suspicious(self) -> Tensor:
        """(set, image): whether what is left is so small beside what the chain began with, or was worked out anew, that it must
        be worked out anew; from outputs that never are, so that all sets are known before the host must know one of them."""
        before = self.base.flatten(1).abs().amax(1)
        found, out = [], torch.empty_like(self.base)
        for number, units in enumerate(self.sets.added):
            if self.start != self.sets.start_of[number]:
                largest = most = before
            self._begin(number)
            self.part.write_ablated(units, EVERY, self.delta, self.value, out)
            self.value, out = out, self.value
            size = self.value.flatten(1).abs().amax(1)
            most, largest = torch.maximum(most, size), torch.maximum(largest, size)
            # so small, the rounding of this chain could hide that one evaluated anew goes on shrinking
            found.append((largest > SHRUNK * size) | (most > LOST * size))
            largest = torch.where(found[-1], size, largest)
        self.start = -1
        return torch.stack(found)

    def suspect(self, suspicious: Tensor) -> None:
        """What to do about the `suspicious` pairs, as the host has them: work them out anew."""
        self.direct = suspicious


def contributions_of(graph: NetworkGraph, suffix: Suffix, rotation: Tensor | None = None) -> dict[torch.fx.Node, Contribution]:
    """The mixing operations that the units reach one by one and that are linear.

    With ``rotation`` (direction, unit), their inputs come as coordinates, channel by channel.
    """
    found = {node: _contribution(graph, node, suffix, rotation) for node in suffix.mixed}
    return {node: part for node, part in found.items() if part is not None}


def _contribution(graph: NetworkGraph, node: torch.fx.Node, suffix: Suffix, rotation: Tensor | None) -> Contribution | None:
    """The contribution of a mixing node; None where the op is not a plain linear one."""
    source = node.args[0] if node.args else None
    if not isinstance(source, torch.fx.Node):
        return None
    owner = suffix.owners.get(source)
    touched = set(suffix.owners) | set(suffix.mixed)
    if not isinstance(owner, Tensor) or any(used in touched for used in node.all_input_nodes if used is not source):
        return None
    module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
    given: dict[str, Any]
    if isinstance(module, nn.Linear | nn.Conv2d):
        weight, given = module.weight, vars(module)
    elif node.op == "call_function" and len(node.args) > 1 and node.args[1] in graph.constants:
        weight = graph.constants[node.args[1]]  # type: ignore[index]
        given = {**dict(zip(CONVOLUTION_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    else:
        return None
    shape = suffix.shapes[source]
    if isinstance(module, nn.Linear) or node.target is F.linear:
        # for each of the features, which are last; tokens stay apart
        features = owner.expand(shape) if len(shape) == 2 else one_owner(owner.expand(1, *shape[1:]).movedim(-1, 1))
        if features is None or weight.dim() != 2:
            return None
        return LinearContribution(source, _rotated(weight, rotation), features, suffix.channels)
    if isinstance(module, nn.Conv2d) or node.target in (F.conv2d, torch.conv2d):
        channel = one_owner(owner) if owner.dim() == 4 else None
        options = {name: given.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))}
        plain = given.get("groups", 1) == 1 and given.get("padding_mode", "zeros") == "zeros"
        if channel is None or not plain or any(isinstance(option, str | torch.fx.Node) for option in options.values()):
            return None
        return ConvolutionContribution(source, _rotated(weight, rotation), channel, suffix.channels, **options)
    return None


def _rotated(weight: Tensor, rotation: Tensor | None) -> Tensor:
    """Weights (output, unit, …) or (output, unit · position) as weights of coordinates."""
    weight = weight.detach()
    if rotation is None:
        return weight
    by_unit = weight.reshape(len(weight), rotation.shape[1], -1)
    # in float64, since it is done once
    return (rotation.double() @ by_unit.double()).to(weight).reshape(len(weight), -1, *weight.shape[2:])
