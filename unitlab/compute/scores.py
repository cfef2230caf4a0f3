"""Top-1 predictions and label margins from logits."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["predictions_and_margins"]


def predictions_and_margins(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 class and label margin (label's logit − largest other logit) of each row of ``logits`` (row, category).

    Ties go to the lower class. The logits are changed on the way and restored.
    """
    rows = torch.arange(len(logits), device=logits.device)
    own = logits[rows, labels]
    logits[rows, labels] = -torch.inf
    other, best = logits.max(1)
    logits[rows, labels] = own
    wins = (own > other) | ((own == other) & (labels < best))
    return torch.where(wins, labels, best), own - other
