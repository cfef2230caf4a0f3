"""How likely an ablation changes a prediction, from gradients alone: what tells the pairs that a screened sweep evaluates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.fx
from torch import Tensor

from unitlab.compute.engine.capture import Values

NOT_EVALUATED = -1
# Classes that may win in the place of the predicted one, one gradient each. The lowest-ranked 0.5 % of the flips aside, those
# of vgg_emoji and resnet_emoji (all layers, 128 and 96 images) lie within the first 31 and 23 % of the pairs with one rival,
# 20 and 7 % with three, 18 and 7 % with five; by ‖δ‖·‖gradient‖ / margin alone within 33 and 21 %.
RIVALS = 5


@dataclass
class Rivals:
    """The classes nearest to the predicted one, on one batch, and how fast each comes nearer.

    ``margins`` (rival, image) is the predicted class's logit minus the rival's; ``gradients``, rival by rival, its gradient at
    the values where a layer's channels meet. The first rival of an image is its label or, where that is predicted, the next
    class, so that the label's margin is ``sign`` (image) times the first margin.
    """

    margins: Tensor
    gradients: list[Values]
    sign: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, values: Values, nodes: Sequence[torch.fx.Node]) -> Rivals:
        """Of logits (image, category) that still know how they came about, and of the values of some nodes."""
        detached, rows = logits.detach(), torch.arange(len(logits), device=logits.device)
        predicted = detached.argmax(1)
        others = detached.clone()
        others[rows, predicted] = -torch.inf
        # the label first, where it is not predicted
        wrong = labels != predicted
        others[rows[wrong], labels[wrong]] = torch.inf
        ranked = others.topk(min(RIVALS, logits.shape[1] - 1), dim=1).indices
        margins = logits[rows, predicted].unsqueeze(1) - logits.gather(1, ranked)
        known = [node for node in nodes if values[node].requires_grad]
        inputs = [values[node] for node in known]
        gradients: list[Values] = []
        for margin in margins.t():
            found = torch.autograd.grad(margin.sum(), inputs, retain_graph=True, allow_unused=True)
            gradients.append({node: slope for node, slope in zip(known, found, strict=True) if slope is not None})
        return cls(margins.detach().t(), gradients, torch.where(wrong, -1, 1))

    def scores(self, deltas: Values, by_unit: Callable[[torch.fx.Node, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Scores, and first-order drops of the label's margin, both (image, unit).

        A unit that takes away δ takes about d = Σ δ·gradient from a margin m, and not more than s = ‖δ‖·‖gradient‖ while the
        gradient stays as large. The score is s/(m − d), the largest over the rivals: how much further than first order says
        the ablation must reach, in the unit that it is likely to err by; ∞ where first order alone is enough. Margin 2, d 0.5
        and s 3: 2. Logits for which that is no number are ∞, too.
        """
        squares = {node: by_unit(node, delta.square()) for node, delta in deltas.items()}
        score: Tensor | None = None
        first: Tensor | None = None
        for margin, gradients in zip(self.margins, self.gradients, strict=True):
            drop, reach = (torch.zeros_like(next(iter(squares.values()))) for _ in range(2))
            for node, slope in gradients.items():
                if node in deltas:
                    drop += by_unit(node, deltas[node] * slope)
                    reach += (squares[node] * by_unit(node, slope.square())).sqrt()
            left = margin.unsqueeze(1) - drop
            found = torch.where(left > 0, reach / left, torch.inf).nan_to_num(torch.inf, torch.inf)
            score = found if score is None else torch.maximum(score, found)
            first = drop if first is None else first
        assert score is not None and first is not None
        return score, first * self.sign.unsqueeze(1)
