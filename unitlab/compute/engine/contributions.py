"""What each unit adds to the first operations that mix channels: all units together cost one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
# On a GPU, pairs that a product may hold beside those asked for, as a share of these: so that a unit that is live on 15 of 16
# images goes together with its neighbours that are live on all. On a CPU, to copy outputs of more than so many numbers costs
# more than a product for each unit: there units go together that have equally many.
# A few pairs here and there, as close calls are, would be a product each: so many bytes more are no matter on a GPU.
WASTE, SMALL, LEAST_WASTE = 0.25, 1024, 64 << 20


class _Positions:
    """Positions (or channels) along an axis by unit.

    For the owners (0, 0, 1, −1, 1) ``by_unit`` has (0, 1) and (2, 4), and nobody has position 3.
    """

    def __init__(self, owner: Tensor, units: int, device: torch.device) -> None:
        flat = owner.reshape(-1)
        counts = torch.bincount(flat[flat != NO_OWNER], minlength=units).tolist()
        owned = torch.argsort(flat, stable=True)[len(flat) - sum(counts) :]
        # (unit, place); −1 where a unit has fewer positions than others
        table = nn.utils.rnn.pad_sequence(list(torch.split(owned, counts)), batch_first=True, padding_value=-1)
        consecutive = table.numel() > 0 and torch.equal(table.flatten(), torch.arange(table.numel()) + table[0, 0])
        self.start = int(table[0, 0]) if consecutive else None
        self.by_unit, self.table = torch.split(owned.to(device), counts), table.to(device)

    def spread(self, value: Tensor, axis: int) -> Tensor:
        """(unit, place, …): a value at each unit's positions along an axis, a view where they are consecutive."""
        value = value.movedim(axis, 0)
        if self.start is not None:
            return value.narrow(0, self.start, self.table.numel()).unflatten(0, self.table.shape)
        held = (self.table >= 0).reshape(*self.table.shape, *[1] * (value.dim() - 1))
        return torch.where(held, value[self.table.clamp(min=0)], 0)


class Contribution:
    """A linear operation whose input, ``source``, is separable, as what each unit adds to its output.

    With weights (2, 3), bias 1 and units at 5 and 4 the output is 23. Of the ablation of the first unit to x̃ nothing must be
    known but δ = 5 − x̃: the output becomes 23 − 2 · δ, 13 for zero; for the second unit 23 − 3 · 4 = 11. Each ablation
    takes the columns of one unit, so all of them together cost one evaluation of the operation, and the bias cancels.

    Many units are one batched product: of each what changes, (image · position, column), times its weights, ``rows`` (unit,
    column, output). Columns are the unit's positions behind a flatten, or the 9 places of a 3 × 3 window. Outputs are worked
    with as (image, position, output).

    Parameters
    ----------
    source
        The input, with channels, coordinates or features along dimension ``axis`` of it and of the output.
    weight
        (output, channel, …).
    owner
        The unit of each channel.
    units
        How many there are.
    geometry
        Stride, padding and dilation of a convolution.
    size
        Rows and columns of the convolution's input.
    """

    def __init__(
        self,
        source: torch.fx.Node,
        weight: Tensor,
        owner: Tensor,
        units: int,
        *,
        axis: int = 1,
        geometry: dict[str, Any] | None = None,
        size: tuple[int, ...] = (),
    ) -> None:
        self.source, self.weight, self.axis, self.geometry = source, weight, axis, geometry
        self.positions = _Positions(owner, units, weight.device)
        self._places: Tensor | None = None
        if geometry is not None:
            # where each window looks in a map that has a zero in front: windows of its places, numbered from 1
            numbers = torch.arange(1.0, size[0] * size[1] + 1, dtype=torch.float64).reshape(1, 1, *size)
            places = F.unfold(numbers, tuple(weight.shape[2:]), **geometry)[0].t().flatten()
            if not torch.equal(places, numbers.flatten()):  # else every place is its own window: 1 × 1 weights
                self._places = places.long().to(weight.device)
            weight = weight.movedim(0, -1).contiguous().movedim(-1, 0)  # a unit's lie together
        self.columns = weight[0, 0].numel()
        self.rows = self.positions.spread(weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2), 1)
        self.rows = self.rows.movedim(2, -1).flatten(1, 2)
        # for each unit, the largest Euclidean norm of its weights towards one output
        self.norms = self.rows.norm(dim=1).amax(1)

    def flat(self, output: Tensor) -> Tensor:
        """(image, …) → (image, position, output)."""
        moved = output.movedim(self.axis, -1)
        return moved.reshape(len(output), -1, moved.shape[-1])

    def shaped(self, flat: Tensor, like: Tensor) -> Tensor:
        """(pair, position, output) → (pair, …), as an output is; maps are then channels_last."""
        shape = like.movedim(self.axis, -1).shape[1:]
        return flat.reshape(len(flat), *shape).movedim(-1, self.axis)

    def spread(self, delta: Tensor) -> Tensor:
        """Change of the input (image, …) → (unit, place, image, position)."""
        spread = self.positions.spread(delta, self.axis)
        spread = spread.flatten(3) if spread.dim() > 3 else spread.unsqueeze(3)
        return spread if self._places is None else F.pad(spread, (1, 0))

    def one_by_one(self, units: slice | Tensor, images: Tensor | None, spread: Tensor, before: Tensor, out: Tensor) -> None:
        """Write outputs where each unit alone is ablated, from those ``before``, to ``out`` (unit · image, position, output).

        ``images`` (unit, image) are those of each unit; None is all of them.
        """
        change, rows = spread[units], self.rows[units]
        by_unit = out.view(len(rows), -1, out.shape[2])
        if images is None:
            by_unit.copy_(before.flatten(0, 1))
        else:
            torch.index_select(before, 0, images.flatten(), out=out)
            change = change[torch.arange(len(change), device=change.device).unsqueeze(1), :, images].transpose(1, 2)
        if self._places is not None:
            change = change.index_select(3, self._places)
        windows = change.unflatten(3, (-1, self.columns)).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
        by_unit.baddbmm_(windows, rows, alpha=-1)

    def together(self, units: Sequence[int], images: Tensor | slice, delta: Tensor, before: Tensor) -> Tensor:
        """Outputs (image, position, output) where all these units are ablated."""
        index = torch.cat([self.positions.by_unit[0][:0], *(self.positions.by_unit[unit] for unit in units)])
        if len(index) == 0:
            return before[images]
        change, weight = delta.index_select(self.axis, index)[images], self.weight.index_select(1, index)
        if self.geometry is not None:
            # many columns: the convolution itself needs no windows
            return before[images] - self.flat(F.conv2d(change, weight, None, **self.geometry))
        return before[images] - self.flat(change) @ weight.t()

    def squares(self, delta: Tensor) -> Tensor:
        """(image, channel): the square of the change that an output sees of each channel, at most."""
        if self.axis == -1:
            return self.flat(delta).square().amax(1)
        return delta.square().flatten(2).sum(2)


class Contributed:
    """A contributed operation on one batch: its output under each set is the unablated one minus what the set contributes.

    ``base`` is the output of the unablated batch and ``delta`` the change of the input where every unit is ablated.
    Where the weights are (2, 3) and the units 5e7 and 4, 100000013 − 2 · 5e7 is 16 in float32 and not 13: what remains is
    compared with what was taken away, and such pairs are evaluated directly. To compare costs a pass over the outputs, so
    that it is left out where a bound says that nothing can cancel.
    """

    def __init__(self, part: Contribution, base: Tensor, delta: Tensor, sets: UnitSets) -> None:
        self.part, self.output, self.delta, self.sets = part, base, delta, sets
        self.base, self.spread = part.flat(base).contiguous(), part.spread(delta)
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
        """Outputs (pair, …), of maps in channels_last; ``directly`` gives those of some rows without subtraction."""
        return self.part.shaped(self._outputs(pairs, lambda rows: self.part.flat(directly(rows))), self.output)

    def _outputs(self, pairs: Pairs, directly: Callable[[Tensor], Tensor]) -> Tensor:
        out = self.base.new_empty(len(pairs.sets), *self.base.shape[1:])
        if self.sets.units is not None:
            self._one_by_one(pairs, self.sets.units, out)
        else:
            for number, images, rows in pairs.by_set(len(self.base)):
                self._ablated(number, images, self.base, out[rows])
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

    def _one_by_one(self, pairs: Pairs, units: Tensor, out: Tensor) -> None:
        """Outputs of sets of one unit each, as many sets at a time as have about as many images."""
        first, row = int(pairs.host[0, 0]), 0
        counts = torch.bincount(pairs.host[0] - first)
        waste = WASTE * len(pairs.sets) if out.device.type != "cpu" or out[0].numel() <= SMALL else 0
        waste = max(waste, LEAST_WASTE // out[0].nbytes) if out.device.type != "cpu" else waste
        for some in _alike(counts.tolist(), waste):
            here, start, end = counts[some], first + some.start, first + some.stop
            most = int(here.max())
            if most == 0:  # sets without a pair, between others
                continue
            numbers = [self.sets.sets[number][0] for number in range(start, end)]
            consecutive = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            which = slice(numbers[0], numbers[0] + len(numbers)) if consecutive else units[start:end]
            rows = slice(row, row := row + int(here.sum()))
            images, wanted = pairs.images[rows], out[rows]
            if len(here) * most == len(wanted):
                some_images = None if most == len(self.base) else images.view(-1, most)
                self.part.one_by_one(which, some_images, self.spread, self.base, wanted)
            else:
                # where the pairs are among as many images of each unit
                held = (torch.arange(most) < here.unsqueeze(1)).flatten()
                where = on_device(held.nonzero().flatten(), out.device)
                padded = images.new_zeros(len(held)).index_copy_(0, where, images).view(-1, most)
                found = out.new_empty(len(held), *out.shape[1:])
                self.part.one_by_one(which, padded, self.spread, self.base, found)
                torch.index_select(found, 0, where, out=wanted)

    def _ablated(self, number: int, images: Tensor | slice, before: Tensor, out: Tensor) -> None:
        """Write outputs (image, position, output) of some images under one set."""
        added = self.sets.added[number]
        if len(added) == 1:
            some = None if isinstance(images, slice) else images.unsqueeze(0)
            self.part.one_by_one(slice(added[0], added[0] + 1), some, self.spread, before, out)
        else:
            out.copy_(self.part.together(added, images, self.delta, before))

    def suspicious(self) -> Tensor:
        """(set, image): whether subtraction might cancel.

        No output moves by more than ‖δ_u‖ · max ‖W_u‖ (Cauchy and Schwarz; a convolution's patch is part of the map), and a set
        moves it by no more than the sum over its units.
        """
        total = self.part.positions.spread(self.part.squares(self.delta), 1).sum(1).t()
        bound = self.sets.totals(total.sqrt() * self.part.norms)
        return (bound > SUSPICIOUS * self.base.flatten(1).abs().amax(1, keepdim=True)).t()


def _alike(counts: list[int], waste: float) -> Iterator[slice]:
    """Runs of neighbours that, each with the largest count among them, have no more than ``waste`` beside what they count."""
    start = most = total = 0
    for place, count in enumerate(counts):
        most, total = max(most, count), total + count
        if (place + 1 - start) * most - total > waste:
            yield slice(start, place)
            start, most, total = place, count, count
    yield slice(start, len(counts))


class ContributedInChains(Contributed):
    """The same where sets follow one another: each output from that of the set before. Pairs must come in order.

    For the sets (a), (a, b) the second output is the first minus what b contributes, so that a curve of all prefixes of an
    order costs what its units cost one at a time.
    """

    def __init__(self, part: Contribution, base: Tensor, delta: Tensor, sets: UnitSets) -> None:
        super().__init__(part, base, delta, sets)
        self.start = -1
        self.value = torch.empty_like(self.base)  # the output under the last set evaluated of a chain

    def _outputs(self, pairs: Pairs, directly: Callable[[Tensor], Tensor]) -> Tensor:
        out = self.base.new_empty(len(pairs.sets), *self.base.shape[1:])
        for number, images, rows in pairs.by_set(len(self.base)):
            self._begin(number)
            self._ablated(number, images, self.value, out[rows])
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
        for number in range(len(self.sets)):
            if self.start != self.sets.start_of[number]:
                largest = most = before
            self._begin(number)
            self._ablated(number, EVERY, self.value, out)
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
    known = graph.weights(node)
    if known is None:
        return None
    weight = known[0]
    shape = suffix.shapes[source]
    if isinstance(module, nn.Linear) or node.target is F.linear:
        # for each of the features, which are last; tokens stay apart
        features = owner.expand(shape) if len(shape) == 2 else one_owner(owner.expand(1, *shape[1:]).movedim(-1, 1))
        if features is None or weight.dim() != 2:
            return None
        return Contribution(source, _rotated(weight, rotation), features, suffix.channels, axis=-1)
    geometry = graph.geometry(node)
    channel = one_owner(owner) if geometry is not None and owner.dim() == 4 else None
    if channel is None:
        return None
    return Contribution(source, _rotated(weight, rotation), channel, suffix.channels, geometry=geometry, size=shape[2:])


def _rotated(weight: Tensor, rotation: Tensor | None) -> Tensor:
    """Weights (output, unit, …) or (output, unit · position) as weights of coordinates."""
    weight = weight.detach()
    if rotation is None:
        return weight
    by_unit = weight.reshape(len(weight), rotation.shape[1], -1)
    # in float64, since it is done once
    return (rotation.double() @ by_unit.double()).to(weight).reshape(len(weight), -1, *weight.shape[2:])
