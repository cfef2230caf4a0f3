"""The eleven basic colour terms of English, told apart in CIELAB."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

Array = np.ndarray[Any, Any]

# sRGB; white comes last, and is the ground of bundled images
COLOURS = {
    "black": (20, 20, 20), "grey": (140, 140, 140), "red": (210, 35, 45), "green": (60, 160, 70), "yellow": (253, 210, 60),
    "blue": (45, 110, 200), "brown": (120, 75, 45), "orange": (245, 135, 35), "pink": (245, 150, 180),
    "purple": (130, 70, 160), "white": (255, 255, 255),
}  # fmt: skip


def nearest_colours(pixels: Array) -> Array:
    """Places among `COLOURS` of the terms nearest to 8-bit sRGB pixels (…, 3) by distance in CIELAB, (…,).

    Two terms meet where their colours are equally far, and no pixel is without one. Channels are told apart in 32 levels.
    """
    return np.asarray(_nearest()[(pixels >> 3).astype(np.int32) @ np.array([1024, 32, 1], np.int32)])


@lru_cache(maxsize=1)
def _nearest() -> Array:
    level = np.arange(4, 256, 8, dtype=np.uint8)
    every = np.stack(np.meshgrid(level, level, level, indexing="ij"), -1).reshape(-1, 3)
    lab, focal = _cielab(every), _cielab(np.array(list(COLOURS.values()), np.uint8))
    return np.asarray(((lab[:, None] - focal) ** 2).sum(-1).argmin(1))


def _cielab(colours: Array) -> Array:
    """L* in 0 … 100, a* and b* of sRGB colours (colour, 3)."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    found = ImageCms.applyTransform(Image.fromarray(colours[None]), transform)
    assert found is not None
    values = np.frombuffer(found.tobytes(), np.uint8).reshape(-1, 3)
    return np.stack([values[:, 0] * (100 / 255), *(values[:, 1:].view(np.int8).astype(float).T)], -1)
