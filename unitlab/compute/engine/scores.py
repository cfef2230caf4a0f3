"""What is kept of logits: prediction and margin and, where they are asked for, a top-k hit and an outcome of the user's own;
and how likely an ablation changes a prediction, from gradients alone."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor

from unitlab.compute.engine.torch_state import out_of_memory
from unitlab.compute.engine.user_network.outputs import code_hash
from unitlab.errors import UnitlabError, what_it_says

# by name, (row) or (set, image) each: "prediction", "margin", and maybe "among_top" and "outcome"
Scores = dict[str, Tensor]
Outcome = Callable[..., Tensor]

# What is called alone must not differ from what is called in a batch by more than float32 explains.
ROUNDING = 1e-4


NOT_EVALUATED = -1
# Classes that may win in the place of the predicted one, one gradient each. The lowest-ranked 0.5 % of the flips aside, those
# of vgg_emoji and resnet_emoji (all layers, 128 and 96 images) lie within the first 31 and 23 % of the pairs with one rival,
# 20 and 7 % with three, 18 and 7 % with five; by ‖δ‖·‖gradient‖ / margin alone within 33 and 21 %.
RIVALS = 5


@dataclass(frozen=True)
class Scoring:
    """What to keep of logits.

    Attributes
    ----------
    top_k
        Whether the label is among the k largest logits is kept; 0: it is not.
    outcome
        A function of logits (row, category), labels (row) and, if it takes a third, positions of the images (row), which gives
        a number a row.
    name
        What the outcome is called, for messages.
    """

    top_k: int = 0
    outcome: Outcome | None = None
    name: str = ""

    @property
    def text(self) -> str:
        """The outcome's name and a hash of what can be known of it: code, and numbers, texts and arrays that it refers to."""
        code = getattr(self.outcome, "__code__", None)
        if self.outcome is None or code is None:
            return self.name
        digest = hashlib.sha256(code_hash(code).encode())
        known = inspect.getclosurevars(self.outcome)
        for name, value in sorted({**known.globals, **known.nonlocals}.items()):
            if isinstance(value, Tensor | np.ndarray):
                value = hashlib.sha256(np.ascontiguousarray(torch.as_tensor(value).cpu().numpy()).tobytes()).hexdigest()
            if isinstance(value, str | int | float | tuple):
                digest.update(f"{name}={value!r}".encode())
        return f"{self.name} {digest.hexdigest()[:12]}"

    def of(self, logits: Tensor, labels: Tensor, images: Tensor, dtype: torch.dtype) -> Scores:
        """Scores of each row of ``logits`` (row, category); outcomes see them in ``dtype``, the network's."""
        scores = self.without_outcome(logits, labels)
        if self.outcome is not None:
            scores["outcome"] = self._outcomes(logits.to(dtype, copy=True), labels, images).to(logits.dtype)
        return scores

    def without_outcome(self, logits: Tensor, labels: Tensor, ahead: Tensor | int = 0) -> Scores:
        """Scores of each row but its outcome; ``ahead`` says how many classes that have no column are ahead of the label."""
        prediction, margin = predictions_and_margins(logits, labels)
        scores = {"prediction": prediction, "margin": margin}
        if self.top_k:
            scores["among_top"] = ahead_of_label(logits, labels).sum(1) + ahead < self.top_k
        return scores

    def gap(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(row): how far logits are from another first class, or from another answer to whether the label is among k."""
        gap = logits.amax(1) - nth_largest(logits, 2)
        if self.top_k:
            own = logits.gather(1, labels.unsqueeze(1))
            others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
            gap = torch.minimum(gap, (nth_largest(others, self.top_k) - own[:, 0]).abs())
        return gap

    def _outcomes(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        assert self.outcome is not None
        rows = len(logits)
        try:
            given = (logits, labels, images)[: 3 if takes_images(self.outcome) else 2]
            found = self.outcome(*given)
        except Exception as error:
            if isinstance(error, UnitlabError) or out_of_memory(error):
                raise
            raise UnitlabError(
                f"outcome={self.name} fails on {rows} rows of {logits.shape[1]} logits ({what_it_says(error)}); {TAKES}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (rows,) or found.is_complex():
            what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UnitlabError(f"outcome={self.name} gives {what} for {rows} rows of logits; {TAKES}")
        return found.detach().to(logits.device)

    def check(self, logits: Tensor, labels: Tensor, images: Tensor) -> None:
        """Try the outcome on the logits of a few images.

        Raises
        ------
        UnitlabError
            It fails, gives something else than a finite number a row, or one that depends on the other rows.
        """
        if self.outcome is None:
            return
        together = self._outcomes(logits.clone(), labels, images).double()
        alone = [self._outcomes(logits[i : i + 1].clone(), labels[i : i + 1], images[i : i + 1]) for i in range(len(logits))]
        if not torch.isfinite(together).all():
            raise UnitlabError(f"outcome={self.name} gives {together.tolist()} for {len(logits)} images; {TAKES}")
        apart = (together - torch.cat(alone).double()).abs()
        if not bool((apart <= ROUNDING * together.abs().amax()).all()):
            raise UnitlabError(
                f"outcome={self.name} gives a row of logits another number beside other rows than alone; rows are pairs of a "
                f"unit and an image, as many at a time as is quickest. {TAKES}"
            )


TAKES = (
    "it takes torch tensors, logits (row, category) and labels (row), and if it has a third parameter the images' positions "
    "(row), and gives a finite number for each row, from that row alone, (row); torch.vmap(f) makes such a function of one "
    "that takes a single image's logits and label"
)


def takes_images(outcome: Outcome) -> bool:
    """Whether a function wants the images' positions, too."""
    try:
        parameters = inspect.signature(outcome).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in positional and one.default is one.empty for one in parameters) >= 3


def nth_largest(logits: Tensor, n: int) -> Tensor:
    """(row) of logits (row, category); where n is small, to look n times is quicker than to sort, on a GPU by far."""
    if n > 2 and logits.device.type == "cpu":
        return logits.topk(n, dim=1).values[:, -1]
    left = logits.clone()
    for _ in range(n - 1):
        left.scatter_(1, left.argmax(1, keepdim=True), -torch.inf)
    return left.amax(1)


def ahead_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """(row, category): whether a class has a larger logit than the label; of equal ones the lower class is ahead."""
    own = logits.gather(1, labels.unsqueeze(1))
    lower = torch.arange(logits.shape[1], device=logits.device) < labels.unsqueeze(1)
    return (logits > own) | ((logits == own) & lower)


def predictions_and_margins(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 class and label margin (label's logit − largest other logit) of each row of ``logits`` (row, category).

    Ties go to the lower class. The logits are changed on the way and restored.
    """
    # scatter_, since CUDA has the host wait where a number is written by indices
    place = labels.unsqueeze(1)
    whole = logits.gather(1, place)
    other, best = logits.scatter_(1, place, -torch.inf).max(1)
    logits.scatter_(1, place, whole)
    own = whole.squeeze(1)
    wins = (own > other) | ((own == other) & (labels < best))
    return torch.where(wins, labels, best), own - other


@dataclass
class Rivals:
    """The classes nearest to the predicted one, on one batch, and how fast each comes nearer.

    ``margins`` (rival, image) is the predicted class's logit minus the rival's; ``gradients``, rival by rival, its gradient at
    the values where a layer's channels meet. The first rival of an image is its label or, where that is predicted, the next
    class, so that the label's margin is ``sign`` (image) times the first margin.
    """

    margins: Tensor
    gradients: list[dict[torch.fx.Node, Any]]
    sign: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, values: dict[torch.fx.Node, Any], nodes: Sequence[torch.fx.Node]) -> Rivals:
        """Of logits (image, category) that still know how they came about, and of the values of some nodes."""
        detached, rows = logits.detach(), torch.arange(len(logits), device=logits.device)
        predicted = detached.argmax(1)
        # the label first, where it is not predicted
        wrong = labels != predicted
        others = detached.scatter(1, labels.unsqueeze(1), torch.inf).scatter(1, predicted.unsqueeze(1), -torch.inf)
        ranked = others.topk(min(RIVALS, logits.shape[1] - 1), dim=1).indices
        margins = logits[rows, predicted].unsqueeze(1) - logits.gather(1, ranked)
        known = [node for node in nodes if values[node].requires_grad]
        inputs = [values[node] for node in known]
        gradients: list[dict[torch.fx.Node, Any]] = []
        for rival in range(margins.shape[1]):
            found = torch.autograd.grad(margins[:, rival].sum(), inputs, retain_graph=True, allow_unused=True)
            gradients.append({node: slope for node, slope in zip(known, found, strict=True) if slope is not None})
        return cls(margins.detach().t(), gradients, torch.where(wrong, -1, 1))

    def scores(
        self, deltas: dict[torch.fx.Node, Any], by_unit: Callable[[torch.fx.Node, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
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
