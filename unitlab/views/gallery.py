"""Thumbnails with the activation map over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from unitlab.errors import UnitlabError

Array = np.ndarray[Any, Any]

OUTLINE = np.array([255, 200, 0], float)
HEAT = np.array([213, 94, 0], float)
STYLES = ("outline", "heat", "none")
OWN_SHARE = 0.1


def own_thresholds(ds: xr.Dataset, places: Sequence[int]) -> tuple[Array, str]:
    """Of the units at these positions, each one's own threshold of its maps, and a sentence that says what it is.

    The activation that the unit exceeds somewhere on 10 % of the images, a quantile of its spatial maxima. Network Dissection
    (Bau et al. 2017) takes the value that 0.5 % of all positions exceed, which no study keeps; in bundled ones that value is
    exceeded on 7 to 18 % of the images. Without maxima of all images: the least of the top ones that are kept.
    """
    n, share = ds.sizes["image"], f"{OWN_SHARE:.0%}".replace("%", " %")
    if "activation_max" in ds:
        found = np.quantile(ds["activation_max"][list(places)].values.astype(np.float32), 1 - OWN_SHARE, axis=1)
    else:
        kept = np.nan_to_num(ds["top_activation"].values[list(places)].astype(np.float32))
        found, share = kept[:, -1], f"{min(kept.shape[1], n)} of {n:,}"
    return np.maximum(found, 0.0), f"Threshold: what the unit exceeds somewhere on {share} of the images."


def map_places(ds: xr.Dataset) -> list[list[float]] | None:
    """Where the cells of the layer's maps lie on an image, as shares of it: for rows and for columns the centre of the first
    cell's receptive field and the step to the next one; None where the study does not say, and they are laid evenly.
    """
    known = ds.attrs.get("map_places")
    return None if known is None else np.reshape(known, (2, 2)).astype(float).tolist()


def picture_with_map(
    pixels: Array,
    activation: Array,
    *,
    style: str = "outline",
    strength: float = 0.5,
    least: float | None = None,
    places: list[list[float]] | None = None,
) -> Array:
    """Pixels (row, column, rgb or grey) with an activation map of any size over them, 8-bit RGB, at least 64 pixels wide.

    ``least`` is the unit's own threshold as a share of the map's largest value (without it ``strength`` is that share itself),
    ``places`` what `map_places` gives.
    """
    if style not in STYLES:
        raise UnitlabError(f"style is {style!r}; expected one of {', '.join(map(repr, STYLES))}")
    if not 0 <= strength <= 1:
        raise UnitlabError(f"strength is {strength!r}; expected a number from 0 to 1")
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    factor = max(1, -(-64 // rgb.shape[1]))
    rgb = np.repeat(np.repeat(rgb, factor, 0), factor, 1).astype(float)
    heat = np.nan_to_num(activation.astype(np.float32))
    top = float(heat.max(initial=0))
    if style == "none" or top <= 0:
        return rgb.astype(np.uint8)
    share = _spread(np.clip(heat / top, 0, 1), rgb.shape[:2], places)
    if style == "heat":
        weight = (strength * share)[..., None]
        return (rgb * (1 - weight) + HEAT * weight).astype(np.uint8)
    seen = share >= max(strength if least is None else 2 * strength * least, 1e-6)
    out = np.where(seen[..., None], rgb, 0.32 * rgb)
    inner = seen.copy()
    inner[1:] &= seen[:-1]
    inner[:-1] &= seen[1:]
    inner[:, 1:] &= seen[:, :-1]
    inner[:, :-1] &= seen[:, 1:]
    out[seen & ~inner] = OUTLINE
    return out.astype(np.uint8)


def _spread(heat: Array, shape: tuple[int, ...], places: list[list[float]] | None) -> Array:
    """A map over a picture of this shape, between the centres of its cells, and beyond the last one as on it."""
    lines = []
    for cells, size, (first, step) in zip(heat.shape, shape, places or [[0.5 / n, 1 / n] for n in heat.shape], strict=True):
        at = np.clip(((np.arange(size) + 0.5) / size - first) / step, 0, cells - 1)
        weights = np.zeros((size, cells))
        below = at.astype(int)
        np.add.at(weights, (np.arange(size), below), 1 - (at - below))
        np.add.at(weights, (np.arange(size), np.minimum(below + 1, cells - 1)), at - below)
        lines.append(weights)
    return lines[0] @ heat @ lines[1].T


def data_address(pixels: Array) -> str:
    """A JPEG as a data URI."""
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()
