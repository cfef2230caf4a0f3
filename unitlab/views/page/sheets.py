"""Many pictures in one file: the page cuts them out and lays activation maps over them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

ACROSS = 6


def sheet(pictures: Array, most: int | None = None, quality: int = 85) -> tuple[bytes, dict[str, int]]:
    """``pictures`` (picture, row, column, rgb or grey) as one JPEG, ``most`` pixels wide each, and how it is laid out."""
    tiles = [_small(each, most) for each in pictures]
    height, width = tiles[0].shape[:2]
    across = min(ACROSS, len(tiles))
    whole = np.full((height * -(-len(tiles) // ACROSS), width * across, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, ACROSS)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    held = io.BytesIO()
    Image.fromarray(whole).save(held, "JPEG", quality=quality)
    return held.getvalue(), {"width": width, "height": height, "across": across}


def _small(pixels: Array, most: int | None) -> Array:
    if most is None or pixels.shape[1] <= most:
        return pixels
    size = (most, max(1, round(pixels.shape[0] * most / pixels.shape[1])))
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(size[1], size[0], -1)


def map_bytes(maps: Array) -> bytes:
    """Activation maps (picture, row, column), each in 255 steps of its largest value; what is below zero is zero."""
    known = np.clip(np.nan_to_num(maps.astype(np.float32)), 0, None)
    top = known.max((1, 2), keepdims=True, initial=0)
    return (255 * known / np.where(top > 0, top, 1)).round().astype(np.uint8).tobytes()
