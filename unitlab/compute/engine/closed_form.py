"""Ablated logits in closed form, where a linear layer is all that follows the units."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.ablation import BatchBaseline, UnitSets
from unitlab.compute.engine.capture import NetworkGraph, module_output
from unitlab.compute.engine.contributions import Contribution
from unitlab.compute.engine.host_copies import Steps, on_host
from unitlab.compute.engine.scores import Scores, ahead_of_label
from unitlab.compute.engine.separable import Suffix

# Elements of float64 that one block of (image, candidate, unit) may hold: 32 MB. EfficientNet-Lite0 takes the same time, within
# a tenth, with 0.5 and with 256 MB; what is bounded is memory, for networks in which every class is a candidate.
BLOCK = 1 << 22


class ClosedForm:
    """Logits under ablation of u: z − W[:, u]·δ_u, in float64, for the classes that can still win or come second.

    No class's logit moves by more than D = max_u ‖W_u‖∞·|δ_u| on an image, so a class whose logit is more than 2·D below
    the second largest can be neither first nor second under any ablation. With logits (9, 8, 1) and two units that add
    (3, 1, 0) and (0, 2, 1), D is 3: the third class is below 8 − 6 and never looked at, the others become (6, 7) and (9, 6).
    The label's class is always looked at, since the margin needs it.
    """

    def __init__(self, part: Contribution, bias: Tensor | None) -> None:
        self.source = part.source
        self.weight = part.weight.detach().double()
        self.bias = None if bias is None else bias.detach().double()
        self.positions = part.positions.by_unit
        self._units: tuple[int, ...] = ()
        self.single = all(len(index) <= 1 for index in self.positions)

    def steps(
        self, base: BatchBaseline, features: Tensor, delta: Tensor, sets: UnitSets, live: Tensor, scores: Scores
    ) -> Steps[None]:
        """Fill the live entries of the scores, (set, image) each; the others are kept.

        The unablated logits come from the same arithmetic, so that what does not change keeps its prediction and a
        change of the margin carries no rounding of another path: where float32 took the second of two classes that differ by
        its rounding, float64 alone would take the first under every ablation, as if each unit had changed it.
        """
        logits = nn.functional.linear(features.double(), self.weight, self.bias)
        before = base.scores_of(logits)
        if self.single and sets.single and base.scoring.outcome is None:
            after = yield from self._single(base, logits, delta.double(), [one[0] for one in sets.sets])
        else:
            after = self._several(base, logits, delta.double(), sets)
        for name, kept in scores.items():
            if kept.is_floating_point():
                found = (kept.double() + (after[name] - before[name])).to(kept.dtype)
            else:
                found = torch.where(after[name] == before[name], kept, after[name])
            scores[name] = torch.where(live, found, kept)

    def _single(self, base: BatchBaseline, logits: Tensor, delta: Tensor, units: list[int]) -> Steps[Scores]:
        """One position a unit: only candidate classes are scored."""
        positions, weight, most = self._of_units(tuple(units))
        labels = base.labels
        change = delta[:, positions]  # image, unit
        reach = (change.abs() * most).amax(1, keepdim=True)
        second = logits.topk(2, dim=1).values[:, 1:]
        candidates = (logits + 2 * reach * (1 + 1e-9) >= second).scatter(1, labels.unsqueeze(1), True)
        ahead = ahead_of_label(logits, labels)
        if base.scoring.top_k:
            candidates |= self._near_label(logits, labels, 2 * reach * (1 + 1e-9), base.scoring.top_k)
        counts, order = torch.sort(candidates.sum(1))
        (here,) = yield from on_host([counts])
        known = here.tolist()
        # images with about as many candidates go together, since a block is as wide as its widest: images with 2 and with 900
        # would score 900 each. The + 4 keeps the small counts together (2 to 13 in EfficientNet-Lite0: two blocks)
        found = {name: values.new_empty(len(units), len(labels)) for name, values in base.scores.items()}
        found["margin"] = found["margin"].double()
        start = 0
        while start < len(order):
            end, fewest = start + 1, known[start]
            while end < len(order):
                wider = known[end]
                if (end + 1 - start) * wider * len(units) > BLOCK or wider > 2 * fewest + 4:
                    break
                end += 1
            images = order[start:end]
            width = max(2, known[end - 1])
            allowed = torch.where(candidates[images], logits[images], -torch.inf)
            # kept in the order of the classes, so that ties go to the lower one
            classes = allowed.topk(min(width, logits.shape[1]), dim=1).indices.sort(1).values
            z = logits[images].gather(1, classes)
            scores = z.unsqueeze(1) - change[images].unsqueeze(2) * weight[classes].transpose(1, 2)
            place = (classes == labels[images].unsqueeze(1)).to(torch.int8).argmax(1)
            # classes without a column stay ahead of the label, or behind it, or do not matter
            elsewhere = ahead[images].sum(1) - ahead[images].gather(1, classes).sum(1)
            rows = (scores.reshape(-1, scores.shape[2]), *(one.repeat_interleave(len(units)) for one in (place, elsewhere)))
            scored = base.scoring.without_outcome(*rows)
            best = scored["prediction"].unsqueeze(1)
            scored["prediction"] = classes.repeat_interleave(len(units), 0).gather(1, best).squeeze(1)
            for name, values in scored.items():
                found[name][:, images] = values.reshape(len(images), -1).t()
            start = end
        return found

    @staticmethod
    def _near_label(logits: Tensor, labels: Tensor, reach: Tensor, k: int) -> Tensor:
        """(image, category): the classes on which it hangs whether the label is among the first ``k``.

        Two logits move towards each other by ``reach`` (image, 1) at most. Where k classes are further ahead of the label than
        that, or fewer than k are ahead or near, no ablation changes the answer, and no class is looked at.
        """
        away = logits - logits.gather(1, labels.unsqueeze(1))
        near, sure = away.abs() <= reach, (away > reach).sum(1, keepdim=True)
        hangs = (sure < k) & (sure + near.sum(1, keepdim=True) - 1 >= k)  # the label is near itself
        return near & hangs

    def _of_units(self, units: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (unit), weights (category, unit) and their largest size (unit); worked out once."""
        if self._units != units:
            positions = torch.stack([self.positions[u][0] if len(self.positions[u]) else _none(self.weight) for u in units])
            weight = self.weight[:, positions.clamp(min=0)] * (positions >= 0)
            self._units, self._prepared = units, (positions.clamp(min=0), weight, weight.abs().amax(0))
        return self._prepared

    def _several(self, base: BatchBaseline, logits: Tensor, delta: Tensor, sets: UnitSets) -> Scores:
        """Several positions a set, or an outcome: every class is scored, one set at a time, from the set that it follows."""
        found: list[Scores] = []
        scores = logits
        for added, follows in zip(sets.added, sets.follows, strict=True):
            before = scores if follows else logits
            index = torch.cat([self.positions[unit] for unit in added]) if added else self.positions[0][:0]
            scores = torch.addmm(before, delta[:, index], self.weight[:, index].t(), alpha=-1)
            found.append(base.scores_of(scores))
        return {name: torch.stack([one[name] for one in found]) for name in base.scores}


def _none(like: Tensor) -> Tensor:
    return torch.tensor(-1, device=like.device)


def closed_form_of(
    graph: NetworkGraph, suffix: Suffix, contributions: Mapping[torch.fx.Node, Contribution]
) -> ClosedForm | None:
    """Closed form, where one linear layer is all that mixes."""
    first = suffix.mixed[0] if suffix.mixed else None
    part = None if first is None else contributions.get(first)
    if first is None or part is None or part.axis == 1:
        return None
    same = (nn.Identity, nn.Dropout)
    for node in suffix.mixed[1:]:
        module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
        if node.target is not module_output and not isinstance(module, same):
            return None
    known = graph.weights(first)
    return None if known is None or len(suffix.shapes[part.source]) != 2 else ClosedForm(part, known[1])
