"""Top images of a unit as HTML: thumbnails with the activation map over them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from unitlab.analysis.requirements import class_positions, require, unit_position
from unitlab.errors import UnitlabError
from unitlab.named_studies import takes_names
from unitlab.views.words import shortened

Array = np.ndarray[Any, Any]

OUTLINE = np.array([255, 200, 0], float)
HEAT = np.array([213, 94, 0], float)
STYLES = ("outline", "heat", "none")
OWN_SHARE = 0.1


@dataclass(frozen=True)
class Gallery:
    """Pictures in a grid; shown by Jupyter as HTML."""

    pictures: list[Array]
    captions: list[str]
    alternatives: list[str]
    columns: int = 6
    size: int = 96

    def _repr_html_(self) -> str:
        cells = []
        for pixels, caption, alternative in zip(self.pictures, self.captions, self.alternatives, strict=True):
            text = html.escape(caption)
            cells.append(
                f'<figure style="margin:0;min-width:0"><img alt="{html.escape(alternative, quote=True)}" width="{self.size}" '
                f'height="{self.size}" src="{data_address(pixels)}" style="display:block;width:{self.size}px;height:auto">'
                f'<figcaption title="{html.escape(caption, quote=True)}" style="font:11px sans-serif;width:{self.size}px;'
                f'overflow:hidden;text-overflow:ellipsis;white-space:nowrap">{text}</figcaption></figure>'
            )
        grid = f"display:grid;grid-template-columns:repeat({self.columns},{self.size}px);gap:8px"
        return f'<div class="ul-images" style="{grid}">{"".join(cells)}</div>'

    def svg(self) -> str:
        """The same as an SVG, with the pictures in it."""
        step, sizes = self.size + 8, [self.size * pixels.shape[0] / pixels.shape[1] for pixels in self.pictures]
        row = max(sizes, default=0) + 24
        drawn = []
        for place, (pixels, caption, height) in enumerate(zip(self.pictures, self.captions, sizes, strict=True)):
            x, y = step * (place % self.columns), row * (place // self.columns)
            text = html.escape(shortened(caption, 2 * self.size // 11))
            drawn.append(f'<image x="{x}" y="{y}" width="{self.size}" height="{height}" href="{data_address(pixels)}"/>')
            drawn.append(f'<text x="{x}" y="{y + height + 13}" font-family="sans-serif" font-size="11">{text}</text>')
        width, height = step * min(self.columns, len(self.pictures)), row * -(-len(self.pictures) // self.columns)
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{"".join(drawn)}</svg>'


@takes_names
def top_images(
    ds: xr.Dataset,
    unit: int,
    *,
    count: int = 12,
    style: str = "outline",
    strength: float = 0.5,
    size: int = 96,
    columns: int = 6,
) -> Gallery:
    """The images that activate a unit most, with its map over them.

    Parameters
    ----------
    ds
        A study with thumbnails, or its name or path.
    unit
        Number of the unit.
    count
        How many images, at most those that the study keeps.
    style
        "outline" (below the threshold darkened, an outline around the rest), "heat" (colour as strong as the map), "none".
    strength
        0 to 1: for "outline" half the multiple of the unit's own threshold (`own_thresholds`), which 0.5 is; for "heat" the
        opacity.
    size
        Width of a picture in CSS pixels.
    columns
        Pictures in a row.

    Returns
    -------
    Gallery
        Shown by Jupyter; captions give class and spatial max activation.

    Raises
    ------
    UnitlabError
        The study keeps no thumbnails or has no such unit; a style or strength that does not exist.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> len(plots.images(unitlab.load("vgg_emoji"), 5).pictures)
    12
    """
    require(ds, ["unit", "category", "label", "top_image", "top_activation", "top_map"], "images")
    if "thumbnails" not in ds:
        raise UnitlabError("the study keeps no thumbnails; compute it from images that have them to see its top images")
    place = unit_position(ds, unit)
    names = ds["category"].values[class_positions(ds, ds["label"].values)]
    row = ds.isel(unit=place)
    pictures, captions, alternatives = [], [], []
    top, activation, maps = row["top_image"].values, row["top_activation"].values, row["top_map"].values
    [threshold], _ = own_thresholds(ds, [place])
    for rank in range(min(count, len(top))):
        if top[rank] < 0:
            break
        image = int(top[rank])
        pixels = ds["thumbnails"].isel(image=image).values
        name = str(names[image])
        least = threshold / activation[rank] if activation[rank] > 0 else None
        shown = picture_with_map(pixels, maps[rank], style=style, strength=strength, least=least, places=map_places(ds))
        pictures.append(shown)
        captions.append(f"{name} · {activation[rank]:.3g}")
        alternatives.append(f"top image {rank + 1} of unit {unit}: {name}, activation {activation[rank]:.3g}")
    return Gallery(pictures, captions, alternatives, columns, size)


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
    return np.maximum(found, 0.0), f"Threshold: the activation that the unit exceeds somewhere on {share} of the images."


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
    for cells, size, (first, step) in zip(heat.shape, shape, places or [(0.5 / n, 1 / n) for n in heat.shape], strict=True):
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
