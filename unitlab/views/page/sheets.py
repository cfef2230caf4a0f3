"""Many pictures in one file: the page cuts them out and lays activation maps over them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from unitlab.views.gallery import map_places

Array = np.ndarray[Any, Any]

ACROSS = 6


def sheet(pictures: Array, most: int | None = None) -> dict[str, Any]:
    """``pictures`` (picture, row, column, rgb or grey) as one JPEG, ``most`` pixels wide each, and how it is laid out."""
    tiles = [Image.fromarray(each[..., 0] if each.shape[2] == 1 else each) for each in pictures]
    width, height = tiles[0].size
    if most is not None and width > most:
        width, height = most, max(1, round(height * most / width))
        tiles = [tile.resize((width, height), Image.Resampling.LANCZOS) for tile in tiles]
    across = min(ACROSS, len(tiles))
    whole = Image.new("RGB", (width * across, height * -(-len(tiles) // ACROSS)), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, ACROSS)
        whole.paste(tile, (column * width, row * height))
    held = io.BytesIO()
    whole.save(held, "JPEG", quality=85)
    return {"sheet": np.frombuffer(held.getvalue(), np.uint8), "laid_out": {"width": width, "height": height, "across": across}}


def maps_over(ds: xr.Dataset, maps: Array) -> dict[str, Any]:
    """Activation maps (picture, row, column), each in 255 steps of its largest value, and where they lie on the pictures of a
    study; what is below zero is zero."""
    known = np.clip(np.nan_to_num(maps.astype(np.float32)), 0, None)
    top = known.max((1, 2), keepdims=True, initial=0)
    steps = (255 * known / np.where(top > 0, top, 1)).round().astype(np.uint8)
    return {"maps": steps, "mapped": list(maps.shape[1:]), "over": map_places(ds)}
