"""The suffix of a network evaluated under the ablation of every set of units, sharing whatever the ablations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor

from unitlab.compute.engine.ablation import BatchBaseline, Pairs, UnitSets, refuse_not_finite
from unitlab.compute.engine.capture import NetworkGraph, Values
from unitlab.compute.engine.closed_form import closed_form_of
from unitlab.compute.engine.contributions import Contributed, contributions_of
from unitlab.compute.engine.host_copies import Steps, finished, on_host
from unitlab.compute.engine.reduced_precision import ReducedReplay
from unitlab.compute.engine.replay import AblatedBatch, Replay
from unitlab.compute.engine.scores import NOT_EVALUATED, Rivals, Scores
from unitlab.compute.engine.separable import NO_OWNER, Suffix, divide

# Stays near the cache of a core while matrix products are still large: AlexNet conv5, alexnet_fashion conv3, vgg_emoji conv3_2
# and ResNet18 layer3 take the same time, within a tenth, from 16 to 64 MB, up to 2.8 times as long at 1 MB, 1.2 at 512 MB.
CPU_WORKING_SET = 32 << 20
# A product reads all its weights however few rows it has: AlexNet takes almost five times as long row by row.
LEAST_ROWS = 8


class SuffixEngine:
    """Predictions and margins of a batch of images under the ablation of each unit, or each set of units, of one site.

    1. `divide` finds where the channels stay apart (ReLU, pooling) and where they mix (the next convolution or linear layer).
    2. What is separable is evaluated once more with all units ablated at once: since units do not meet, position p is then what
       it becomes when its own unit is ablated. Units (5, 4) at zero, then x + 1: (6, 5) before, (1, 1) after, δ = (5, 4).
    3. A pair whose δ is zero, as behind a ReLU that is silent on the image, is dead: it keeps the baseline's prediction.
    4. The first mixing operations give each live pair by subtraction (`Contribution`); what follows is replayed for all live
       pairs together (`Replay`), or is no more than a linear layer (`ClosedForm`).

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
        "float32", or "bfloat16" or "tf32": products of the replay in that, close calls in float32 again.
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
        self.site, self.memory, self.device = site, memory, sample.device
        self.exact = self._replay_of(graph, divide(graph, site, sample))
        self.suffix = self.exact.suffix
        self.sets = UnitSets([[unit] for unit in units], self.suffix.channels, self.device)
        self.closed_form = closed_form_of(graph, self.suffix, self.exact.contributions)
        reduced = precision != "float32" and self.closed_form is None and self.suffix.mixed
        self.replay = ReducedReplay(self.exact, precision) if reduced else self.exact
        self.meeting = self._where_channels_meet()
        self.needed = self._needed()
        if self.device.type != "cpu":
            self.suffix.owners = {node: _moved(owner, self.device) for node, owner in self.suffix.owners.items()}
        self.row_bytes = self.exact.row_bytes(sample.element_size())

    def silence_together(self, sets: Sequence[Sequence[int]]) -> None:
        """From now on ablate each of these sets of units as a whole, in this order; in float32 alone."""
        assert self.replay is self.exact
        self.sets = UnitSets(sets, self.suffix.channels, self.device)

    @property
    def strategy(self) -> str:
        """What the engine does, for the log."""
        if not self.suffix.mixed:
            return "the layer's channels reach the logits apart: each ablation replaces one logit's share"
        if self.closed_form is not None:
            return "closed form: the logits are linear in what the units leave"
        apart = len(self.exact.contributions)
        replayed = len(self.suffix.mixed) - apart
        return f"{apart} operations by contributions, {replayed} replayed for each live (unit, image) pair"

    @property
    def has_reduced_convolutions(self) -> bool:
        """Whether products of maps are in reduced precision, for which GPUs have kernels for channels_last alone."""
        if not isinstance(self.replay, ReducedReplay):
            return False
        return any(len(self.suffix.shapes[node]) == 4 for node in self.replay.products)

    @property
    def recomputed(self) -> int:
        """How many outputs were evaluated directly, since subtraction would have cancelled."""
        return self.exact.recomputed

    # -- preparation ------------------------------------------------------------------------------------------------
    def _replay_of(self, graph: NetworkGraph, suffix: Suffix) -> Replay:
        return Replay(graph, suffix, contributions_of(graph, suffix))

    def _where_channels_meet(self) -> list[torch.fx.Node]:
        """Separable values whose change decides whether a pair is live."""
        if not self.suffix.mixed:
            return [self.exact.graph.output]
        used = {value for node in self.suffix.mixed for value in node.all_input_nodes}
        used |= {part.source for part in self.exact.contributions.values()}
        return [node for node in [self.suffix.entry, *self.suffix.separable] if node in used]

    def _needed(self) -> set[torch.fx.Node]:
        """Nodes whose unablated value an evaluation reads."""
        suffix, constants = self.suffix, self.exact.graph.constants
        wanted = {self.site, *self.exact.contributions, *self.meeting} - ({suffix.entry} - {self.site})
        touched = {*suffix.owners, *suffix.mixed}
        for node in [*suffix.separable, *suffix.mixed]:
            if node is not self.site:
                wanted.update(used for used in node.all_input_nodes if used not in touched and used not in constants)
        return wanted | self.replay.needed if isinstance(self.replay, ReducedReplay) else wanted

    def rows_at_once(self) -> int:
        """How many (unit, image) pairs are replayed together."""
        working_set = CPU_WORKING_SET if self.device.type == "cpu" else self.memory // 4
        return max(LEAST_ROWS, min(self.memory // 4, working_set) // self.row_bytes)

    # -- one batch --------------------------------------------------------------------------------------------------
    def evaluate(self, base: BatchBaseline, ablated: Tensor) -> Scores:
        """Scores of one batch, (set, image) each.

        ``ablated`` is what the site's value, (image, unit, …), becomes where a unit is ablated.
        """
        return finished(self.steps(base, ablated))

    def steps(self, base: BatchBaseline, ablated: Tensor) -> Steps[Scores]:
        """The same in steps, without gradients."""
        after, deltas = self._changed(base, ablated)
        return (yield from self._evaluated(base, after, deltas, self.sets.added_any(self._live(deltas))))

    @property
    def screenable(self) -> bool:
        """Whether pairs can be told apart by what they may change, and are worth it: a closed form evaluates all at once."""
        return self.closed_form is None and bool(self.suffix.mixed)

    def screened(
        self, base: BatchBaseline, ablated: Tensor, rivals: Rivals, choose: Callable[[Tensor, Tensor], Tensor]
    ) -> Steps[Scores]:
        """The same for those pairs that ``choose`` takes by whether they are live and by their scores, both (set, image).

        The others have the prediction `NOT_EVALUATED`, and of the margin a first-order estimate.
        """
        after, deltas = self._changed(base, ablated)
        live = self.sets.added_any(self._live(deltas))
        score, drop = (self.sets.totals(found).t() for found in rivals.scores(deltas, self._by_unit))
        left = live & ~choose(live, score)
        scores = yield from self._evaluated(base, after, deltas, live & ~left)
        scores["prediction"].masked_fill_(left, NOT_EVALUATED)
        return {**scores, "margin": torch.where(left, base.scores["margin"] - drop, scores["margin"])}

    def _changed(self, base: BatchBaseline, ablated: Tensor) -> tuple[Values, Values]:
        """The separable values with all units ablated at once, and what that takes away where the channels meet."""
        after = self.exact.separable(ablated.expand_as(base.values[self.suffix.entry]), base)
        return after, {node: base.values[node] - after[node] for node in self.meeting}

    def _evaluated(self, base: BatchBaseline, after: Values, deltas: Values, live: Tensor) -> Steps[Scores]:
        """Scores, those of the baseline where a pair is not ``live``."""
        scores = {name: values.expand(len(self.sets), -1).clone() for name, values in base.scores.items()}
        if self.closed_form is not None:
            source = self.closed_form.source
            yield from self.closed_form.steps(base, base.values[source], deltas[source], self.sets, live, scores)
        else:
            contributed = {
                node: Contributed.of(part, base.values[node], deltas[part.source], self.sets)
                for node, part in self.exact.contributions.items()
            }
            batch = AblatedBatch(base, after, contributed, self.sets, scores, torch.ones_like(live))
            live_here, *doubts = yield from on_host([live, *(part.suspicious() for part in contributed.values())])
            for part, doubt in zip(contributed.values(), doubts, strict=True):
                part.suspect(doubt)
            yield from self.replay.steps(batch, Pairs.of(live_here, self.device), self.rows_at_once())
            cancelled = [part for part in contributed.values() if part.compared]
            if cancelled:
                # they are few, and known after all others, so that a GPU is waited for once
                known = yield from on_host([part.cancelled for part in cancelled])
                for part, where in zip(cancelled, known, strict=True):
                    part.direct = where
                again = torch.stack([part.direct for part in cancelled]).any(0)
                yield from self.exact.steps(batch, Pairs.of(again, self.device), self.rows_at_once())
            base.host.then(partial(refuse_not_finite, self.sets.sets), batch.finite)
        # where a set adds nothing that is live, what holds for the set that it follows
        for number, follows in enumerate(self.sets.follows):
            for values in scores.values() if follows else ():
                values[number] = torch.where(live[number], values[number], values[number - 1])
        return scores

    def _live(self, deltas: dict[torch.fx.Node, Tensor]) -> Tensor:
        """(image, unit): whether the ablation changes anything that the mixing operations see.

        Changes are counted, since to scatter booleans keeps any one of a unit's positions, not their "or". The last column is
        for positions that no unit owns.
        """
        images, units = len(next(iter(deltas.values()))), self.suffix.channels
        live = torch.zeros(images, units + 1, dtype=torch.bool, device=self.device)
        for node, delta in deltas.items():
            changed, owner = (delta != 0), self.suffix.owners[node].to(self.device)
            # maps that belong to one unit whole are looked through first: half the time of scattering 14 × 14 positions each
            if owner.dim() > 2 and owner.shape[2:].numel() == 1:
                changed, owner = changed.flatten(2).any(2), owner.flatten(1)
            else:
                changed, owner = changed.flatten(1), owner.expand(1, *delta.shape[1:]).flatten(1)
            owner = torch.where(owner == NO_OWNER, units, owner).expand(images, -1)
            count = torch.zeros(live.shape, dtype=torch.int32, device=self.device)
            live |= count.scatter_add_(1, owner, changed.to(torch.int32)) > 0
        return live[:, :units]

    def _by_unit(self, node: torch.fx.Node, value: Tensor) -> Tensor:
        """(image, unit): sums of a value over the positions that each unit owns."""
        owner, units = self.suffix.owners[node].to(self.device), self.suffix.channels
        if owner.dim() > 2 and owner.shape[2:].numel() == 1:
            value, owner = value.flatten(2).sum(2), owner.flatten(1)
        else:
            value, owner = value.flatten(1), owner.expand(1, *value.shape[1:]).flatten(1)
        owner = torch.where(owner == NO_OWNER, units, owner).expand(len(value), -1)
        return value.new_zeros(len(value), units + 1).scatter_add_(1, owner, value)[:, :units]


def _moved(owner: Any, device: torch.device) -> Any:
    """Owners on a device, of a tensor or of several."""
    return owner.to(device) if isinstance(owner, Tensor) else type(owner)(_moved(one, device) for one in owner)
