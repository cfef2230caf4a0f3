"""Transforms of images: what they are called, and which are refused."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from unitlab.errors import UnitlabError

# torchvision's transforms that draw something and do not say so in the first word of their name
DRAWING = {
    "AugMix", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianBlur", "GaussianNoise", "MixUp",
    "RandAugment", "ScaleJitter", "TrivialAugmentWide",
}  # fmt: skip


def refuse_random(transform: Any) -> None:
    """Refuse augmentation, also inside a composed transform: the same image must give the same tensor."""
    if transform is None:
        return
    kind = type(transform).__name__
    if kind.startswith("Random") or kind in DRAWING:
        raise UnitlabError(
            f"the transform holds {kind}, which changes from call to call; give the transform used for evaluation"
        )
    inner = getattr(transform, "transforms", None)
    if isinstance(transform, nn.Sequential):
        inner = list(transform)
    for part in inner if isinstance(inner, list | tuple) else ():
        refuse_random(part)


def transform_text(transform: Any) -> str:
    """A text that is the same from process to process: without the addresses of functions."""
    return "none" if transform is None else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform))
