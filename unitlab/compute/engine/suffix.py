"""The suffix of a network evaluated under the ablation of every set of units, sharing whatever the ablations share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor

from unitlab.compute.engine.ablation import Baseline, Pairs, UnitSets, predictions_and_margins, refuse_not_finite
from unitlab.compute.engine.bfloat16 import BFloat16Replay
from unitlab.compute.engine.capture import NetworkGraph, Values
from unitlab.compute.engine.closed_form import closed_form_of
from unitlab.compute.engine.contributions import (
    CANCELLATION,
    ConvolutionContribution,
    LinearContribution,
    Running,
    contribution,
)
from unitlab.compute.engine.dense_products import dense_products_of
from unitlab.compute.engine.separable import NO_OWNER, Suffix, divide

# A working set of this size stays near the cache of a CPU core while its matrix products are still large.
CPU_WORKING_SET = 32 << 20
LEAST_ROWS = 8
SAMPLED_PAIRS = 64
# A prediction whose top-two margin is under this many times the bfloat16 error is computed again in float32.
CLOSE_CALL = 4.0
# Along a chain of sets rounding adds up, so that a value is computed anew once it is this much smaller than it was.
SHRUNK = 4.0


class SuffixEngine:
    """Predictions and margins of a batch of images under the ablation of each unit, or each set of units, of one site.

    Parameters
    ----------
    graph
        The captured network.
    site
        Node whose value, (image, unit, …), is ablated.
    sample
        One image, for shapes.
    units
        Units to ablate.
    memory
        Bytes that one evaluation may use.
    precision
        "float32", or "bfloat16": products of the replay in bfloat16, close calls in float32 again.
    """

    def __init__(
        self,
        graph: NetworkGraph,
        site: torch.fx.Node,
        sample: Tensor,
        units: list[int],
        memory: int,
        precision: str = "float32",
    ) -> None:
        self.graph, self.site, self.memory = graph, site, memory
        # the value whose channels are ablated one by one
        self.entry = site
        self.suffix: Suffix = divide(graph, site, sample)
        self.channels = self.suffix.shapes[site][1]
        self.device = sample.device
        self.sets = UnitSets([[unit] for unit in units], self.channels, self.device)
        self.constants = _constants(graph)
        self.mixed = set(self.suffix.mixed)
        self.contributions: dict[torch.fx.Node, LinearContribution | ConvolutionContribution] = {}
        self.contributed_from: dict[torch.fx.Node, torch.fx.Node] = {}
        self._find_contributions()
        self.closed_form = closed_form_of(graph, self.suffix, self.contributions)
        self.dense_products = dense_products_of(graph, self.suffix, self.contributions)
        self.meeting = self._where_channels_meet()
        self.fast = BFloat16Replay(self) if precision == "bfloat16" and self.closed_form is None and self.mixed else None
        self.needed = self._needed()
        self.row_bytes = self._row_bytes(sample.element_size())
        self.recomputed = 0
        self.close_calls = 0

    def silence_together(self, sets: Sequence[Sequence[int]]) -> None:
        """From now on ablate each of these sets of units as a whole, in this order; in float32 alone."""
        assert self.fast is None
        self.sets = UnitSets(sets, self.channels, self.device)

    @property
    def strategy(self) -> str:
        """What the engine does, for the log."""
        if not self.mixed:
            return "the layer's channels reach the logits apart: each ablation replaces one logit's share"
        if self.closed_form is not None:
            return "closed form: the logits are linear in what the units leave"
        apart, replayed = len(self.contributions), len(self.mixed) - len(self.contributions)
        return f"{apart} operations by contributions, {replayed} replayed for each live (unit, image) pair"

    # -- preparation ------------------------------------------------------------------------------------------------
    def _find_contributions(self) -> None:
        """The mixing operations that the units reach one by one and that are linear."""
        for node in self.suffix.mixed:
            found = contribution(self.graph, node, self.suffix, self.constants, self.channels)
            if found is not None:
                self.contributions[node], self.contributed_from[node] = found

    def _where_channels_meet(self) -> list[torch.fx.Node]:
        """Separable values whose change decides whether a pair is live."""
        if not self.mixed:
            return [self.graph.output]
        used = {value for node in self.mixed for value in node.all_input_nodes if value in self.suffix.owners}
        used |= set(self.contributed_from.values())
        return [node for node in [self.entry, *self.suffix.separable] if node in used]

    def _needed(self) -> set[torch.fx.Node]:
        """Nodes whose unablated value an evaluation reads."""
        wanted = {self.site, *self.meeting, *self.contributions}
        touched = set(self.suffix.owners) | self.mixed
        for node in [*self.suffix.separable, *self.suffix.mixed]:
            if node is self.site:
                continue
            wanted.update(used for used in node.all_input_nodes if used not in touched and used not in self.constants)
        return wanted if self.fast is None else wanted | self.fast.needed

    def _row_bytes(self, element: int) -> int:
        """Bytes that the replay of one pair holds at most at a time."""
        last = {used: node for node in self.suffix.mixed for used in node.all_input_nodes}
        held: dict[torch.fx.Node, int] = {}
        most = 0
        for node in self.suffix.mixed:
            for used in node.all_input_nodes:
                if used not in self.constants and used in self.suffix.shapes and node not in self.contributions:
                    held[used] = _elements(self.suffix.shapes[used])
            held[node] = _elements(self.suffix.shapes.get(node, (0,)))
            most = max(most, sum(held.values()))
            for used in [used for used in held if last.get(used) is node]:
                del held[used]
        return max(1, most, _elements(self.suffix.shapes[self.graph.output])) * element * 2

    def rows_at_once(self) -> int:
        """How many (unit, image) pairs are replayed together."""
        working_set = CPU_WORKING_SET if self.device.type == "cpu" else self.memory // 4
        return max(LEAST_ROWS, min(self.memory // 4, working_set) // self.row_bytes)

    # -- one batch --------------------------------------------------------------------------------------------------
    def evaluate(self, base: Baseline, ablated: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and label margins, both (set, image), of one batch.

        ``ablated`` is what the site's value, (image, unit, …), becomes where a unit is ablated.
        """
        values = self._separable_after(base, ablated)
        deltas = {node: base.values[node] - values[node] for node in self.meeting}
        live = self.sets.added_any(self._live(deltas))
        prediction = base.prediction.expand(len(self.sets), -1).clone()
        margin = base.margin.expand(len(self.sets), -1).clone()
        if self.closed_form is not None:
            node = next(iter(self.contributed_from.values()))
            self.closed_form.evaluate(base.values[node], deltas[node], self.sets, live, base.labels, prediction, margin)
            return self._inherited(live, prediction, margin)
        for node, part in self.contributions.items():
            part.bind(base.values[node], deltas[self.contributed_from[node]])
        self.running = {node: Running(part.base) for node, part in self.contributions.items() if self.sets.chained}
        set_rows, image_rows = live.nonzero(as_tuple=True)
        suspicious = self._suspicious(deltas)
        everything = Pairs(set_rows, image_rows)
        noise = None if self.fast is None else self._noise(everything, base, values, suspicious)
        close = [] if noise is None else [torch.empty(0, dtype=torch.long, device=live.device)]
        for rows in _blocks(torch.arange(len(set_rows), device=live.device), self.rows_at_once()):
            pairs = everything.at(rows)
            if self.fast is None or noise is None:
                logits = self._finite(self._logits(pairs, base, values, suspicious), pairs)
            else:
                logits = self.fast.logits(pairs, base, values, suspicious)
                top = logits.topk(2, dim=1).values
                safe = (top[:, 0] - top[:, 1] >= CLOSE_CALL * noise) & torch.isfinite(logits).all(1)
                close.append(rows[~safe])
            prediction[pairs.sets, pairs.images], margin[pairs.sets, pairs.images] = predictions_and_margins(
                logits, base.labels[pairs.images]
            )
        # together, since a product of few rows costs as much as reading the weights
        for rows in _blocks(torch.cat(close), self.rows_at_once()) if close else ():
            pairs = everything.at(rows)
            logits = self._finite(self._logits(pairs, base, values, suspicious), pairs)
            prediction[pairs.sets, pairs.images], margin[pairs.sets, pairs.images] = predictions_and_margins(
                logits, base.labels[pairs.images]
            )
            self.close_calls += len(rows)
        self.running = {}
        for part in self.contributions.values():
            part.release()
        return self._inherited(live, prediction, margin)

    def _inherited(self, live: Tensor, prediction: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
        """Where a set adds nothing that is live, what holds for the set that it follows."""
        for number, follows in enumerate(self.sets.follows):
            if follows:
                prediction[number] = torch.where(live[number], prediction[number], prediction[number - 1])
                margin[number] = torch.where(live[number], margin[number], margin[number - 1])
        return prediction, margin

    def _finite(self, logits: Tensor, pairs: Pairs) -> Tensor:
        bad = ~torch.isfinite(logits).all(1)
        if bad.any():
            refuse_not_finite(self.sets.sets[int(pairs.sets[int(bad.nonzero()[0])])])
        return logits

    def _noise(self, pairs: Pairs, base: Baseline, after: Values, suspicious: dict[torch.fx.Node, Tensor]) -> float | None:
        """Largest error of a logit that a sample of the pairs, evaluated in float32 too, shows."""
        assert self.fast is not None
        if len(pairs.sets) == 0:
            return None
        spread = torch.linspace(0, len(pairs.sets) - 1, min(SAMPLED_PAIRS, len(pairs.sets)), dtype=torch.float64)
        some = pairs.at(spread.long().unique().to(self.device))
        exact = self._logits(some, base, after, suspicious)
        return float((self.fast.logits(some, base, after, suspicious) - exact).abs().max())

    def _separable_after(self, base: Baseline, ablated: Tensor) -> Values:
        """Separable values with every unit ablated at once: position p is what it becomes when its own unit is."""
        values: Values = {self.entry: ablated.expand_as(base.values[self.entry])}
        images = len(base.labels)
        for node in self.suffix.separable:
            inputs = {used: self._input(used, values, base, None, images) for used in node.all_input_nodes}
            values[node] = self.graph.evaluate(node, inputs)
        return values

    def _live(self, deltas: dict[torch.fx.Node, Tensor]) -> Tensor:
        """(image, unit): whether the ablation changes anything that the mixing operations see."""
        images = next(iter(deltas.values())).shape[0]
        live = torch.zeros(images, self.channels + 1, dtype=torch.bool, device=self.device)
        for node, delta in deltas.items():
            changed, owner = (delta != 0), self.suffix.owners[node].to(self.device)
            if owner.dim() > 2 and owner.shape[2:].numel() == 1:
                changed, owner = changed.flatten(2).any(2), owner.flatten(1)
            else:
                changed, owner = changed.flatten(1), owner.expand(1, *delta.shape[1:]).flatten(1)
            owner = torch.where(owner == NO_OWNER, self.channels, owner).expand(images, -1)
            count = torch.zeros(live.shape, dtype=torch.int32, device=self.device)
            live |= count.scatter_add_(1, owner, changed.to(torch.int32)) > 0
        return live[:, : self.channels]

    def _suspicious(self, deltas: dict[torch.fx.Node, Tensor]) -> dict[torch.fx.Node, Tensor]:
        """(image, set): whether subtraction might cancel; a bound that costs next to nothing."""
        found = {}
        for node, part in self.contributions.items():
            delta = deltas[self.contributed_from[node]]
            square = delta.flatten(2).square().sum(2) if isinstance(part, ConvolutionContribution) else delta.square()
            owner = part.positions.owner.to(self.device)
            owner = torch.where(owner == NO_OWNER, self.channels, owner).expand(len(delta), -1)
            total = torch.zeros(len(delta), self.channels + 1, dtype=delta.dtype, device=self.device)
            total.scatter_add_(1, owner, square)
            bound = self.sets.totals(total[:, : self.channels].sqrt() * part.norms.to(self.device))
            found[node] = bound > 0.9 * part.base.flatten(1).abs().amax(1, keepdim=True)
        return found

    def _logits(self, pairs: Pairs, base: Baseline, after: Values, suspicious: dict[torch.fx.Node, Tensor]) -> Tensor:
        """Logits of (set, image) pairs by replaying what mixes."""
        values: Values = {}
        last = {used: node for node in self.suffix.mixed for used in node.all_input_nodes}
        for node in self.suffix.mixed:
            part = self.contributions.get(node)
            if part is not None:
                values[node] = self._contributed(node, part, pairs, base, after, suspicious[node])
            else:
                values[node] = self._replayed(node, pairs, base, after, values)
            for used in node.all_input_nodes:
                if last[used] is node:
                    values.pop(used, None)
        if not self.mixed:
            return self._one_ablated(self.graph.output, pairs, base.values, after)
        return values[self.graph.output]

    def _contributed(
        self,
        node: torch.fx.Node,
        part: LinearContribution | ConvolutionContribution,
        pairs: Pairs,
        base: Baseline,
        after: Values,
        suspicious: Tensor,
    ) -> Tensor:
        """The op's output for each pair: unablated output minus what the set contributes."""
        if self.sets.chained:
            return self._contributed_in_chains(node, part, pairs, base, after)
        out = part.empty(len(pairs.sets))
        for number, images, rows in pairs.by_set(len(base.labels)):
            part.write_ablated(self.sets.added[number], images, part.base, out[rows])
        doubtful = suspicious[pairs.images, pairs.sets].nonzero().flatten()
        if len(doubtful):
            kept = out[doubtful].flatten(1)
            change = (part.base[pairs.images[doubtful]].flatten(1) - kept).abs().amax(1)
            doubtful = doubtful[change > CANCELLATION * kept.abs().amax(1)]
        if len(doubtful):
            self.recomputed += len(doubtful)
            out[doubtful] = self._replayed(node, pairs.at(doubtful), base, after, {})
        return out

    def _contributed_in_chains(
        self,
        node: torch.fx.Node,
        part: LinearContribution | ConvolutionContribution,
        pairs: Pairs,
        base: Baseline,
        after: Values,
    ) -> Tensor:
        """The same, each set from the one that it follows: pairs must come in order."""
        out, running = part.empty(len(pairs.sets)), self.running[node]
        for number, images, rows in pairs.by_set(len(base.labels)):
            running.enter(self.sets.start_of[number], part.base)
            part.write_ablated(self.sets.added[number], images, running.value, out[rows])
            size = out[rows].flatten(1).abs().amax(1)
            largest = torch.maximum(running.largest[images], size)
            shrunk = (largest > SHRUNK * size).nonzero().flatten()
            if len(shrunk):
                self.recomputed += len(shrunk)
                shrunk_rows = shrunk + rows.start
                direct = self._replayed(node, pairs.at(shrunk_rows), base, after, {})
                out[shrunk_rows] = direct
                largest[shrunk] = direct.flatten(1).abs().amax(1)
            running.value[images], running.largest[images] = out[rows], largest
        return out

    def _replayed(self, node: torch.fx.Node, pairs: Pairs, base: Baseline, after: Values, values: Values) -> Any:
        """The op itself on the pairs' own inputs."""
        product = self.dense_products.get(node)
        if product is not None and node.args[0] in values:
            return product(values[node.all_input_nodes[0]])
        overwriting = self.graph.overwriting.get(node)
        if overwriting is not None and all(used in values for used in node.all_input_nodes):
            return overwriting.twin(*(values[used] for used in node.all_input_nodes))
        inputs = {}
        for used in node.all_input_nodes:
            if used in self.suffix.owners:
                inputs[used] = self._one_ablated(used, pairs, base.values, after)
            else:
                inputs[used] = self._input(used, values, base, pairs.images, len(pairs.images))
        return self.graph.evaluate(node, inputs)

    def _one_ablated(self, node: torch.fx.Node, pairs: Pairs, before: Values, after: Values) -> Any:
        """A separable value for each pair: the units of the pair's set ablated, the others as they were."""
        owner = self.suffix.owners[node]
        if not isinstance(owner, Tensor):
            return type(owner)(self._merged(o, b, a, pairs) for o, b, a in zip(owner, before[node], after[node], strict=True))
        return self._merged(owner, before[node], after[node], pairs)

    def _merged(self, owner: Tensor, before: Tensor, after: Tensor, pairs: Pairs) -> Tensor:
        own = self.sets.owned(pairs.sets, owner.to(before.device))
        return torch.where(own, after[pairs.images], before[pairs.images])

    def _input(self, node: torch.fx.Node, values: Values, base: Baseline, images: Tensor | None, count: int) -> Any:
        """A value that the ablation leaves alone, for ``count`` rows; sizes are worked out for that many rows."""
        if node in values:
            return values[node]
        if node in self.constants:
            return self.constants[node]
        if node in self.suffix.shapes:
            known = base.values[node]
            by_image = images is not None and known.dim() > 0 and known.shape[0] == len(base.labels)
            return known[images] if by_image else known
        inputs = {used: self._input_shape(used, values, base, count) for used in node.all_input_nodes}
        return self.graph.evaluate(node, inputs)

    def _input_shape(self, node: torch.fx.Node, values: Values, base: Baseline, count: int) -> Any:
        """Stand-in of the right shape for an operation that asks for sizes only."""
        if node in self.suffix.shapes:
            return torch.empty(1, device=self.device).expand(count, *self.suffix.shapes[node][1:])
        return self._input(node, values, base, None, count)


def _blocks(rows: Tensor, size: int) -> Iterator[Tensor]:
    yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count


def _constants(graph: NetworkGraph) -> dict[torch.fx.Node, Any]:
    """Values that do not depend on the images."""
    dependent = {graph.input}
    constants: dict[torch.fx.Node, Any] = {}
    for node in graph.nodes:
        if any(used in dependent for used in node.all_input_nodes):
            dependent.add(node)
        else:
            constants[node] = graph.evaluate(node, constants)
    return constants
