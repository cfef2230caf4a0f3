"""Top images of a unit: shown alone as HTML, which needs no script, and in layouts and a `DynamicMap` as a figure of Bokeh."""

from __future__ import annotations

import html
from typing import Any

import holoviews as hv
import numpy as np
import param
import xarray as xr
from holoviews.core.options import Store
from holoviews.plotting.bokeh import OverlayPlot

from unitlab.analysis.requirements import class_positions, require, unit_position
from unitlab.errors import UnitlabError
from unitlab.named_studies import takes_names
from unitlab.views.gallery import data_address, map_places, own_thresholds, picture_with_map
from unitlab.views.words import shortened

Array = np.ndarray[Any, Any]

GAP, CAPTION = 8, 24  # CSS pixels between pictures, and under each for its caption


def _bare(plot: Any, _element: Any) -> None:
    plot.state.update(outline_line_alpha=0, min_border=0, frame_width=plot.width, frame_height=plot.height)
    plot.state.grid.visible = False


class Gallery(hv.Overlay):
    """Pictures in a grid, with captions."""

    pictures, captions, alternatives = param.List(), param.List(), param.List()
    columns, size = param.Integer(6), param.Integer(96)

    @classmethod
    def of(cls, pictures: list[Array], captions: list[str], alternatives: list[str], columns: int, size: int) -> Gallery:
        """A sheet of the pictures, all of one shape, in their own pixels, and under each its caption; in CSS pixels."""
        height, width = pictures[0].shape[:2] if pictures else (size, size)
        step, down = width * (size + GAP) // size, height + width * CAPTION // size
        across, rows = min(columns, max(len(pictures), 1)), -(-len(pictures) // columns)
        sheet = np.zeros((down * max(rows, 1), step * across, 4), np.uint8)
        texts: list[tuple[float, float, str]] = []
        scale = size / width
        for place, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
            y, x = down * (place // columns), step * (place % columns)
            sheet[y : y + height, x : x + width] = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
            name, _, value = caption.rpartition(" · ")
            under = f"{shortened(name, 2 * size // 11 - len(value) - 3)} · {value}"
            texts.append((scale * x, scale * (len(sheet) - y - height) - 2, under))
        wide, high = round(scale * sheet.shape[1]), round(scale * sheet.shape[0])
        labels = hv.Labels(texts, ["x", "y"], "caption").opts(
            text_align="left", text_baseline="top", text_font_size="11px", text_color="black"
        )
        drawn = hv.RGB(sheet, bounds=(0, 0, wide, high), vdims=[*"RGBA"]) * labels
        given = {"pictures": pictures, "captions": captions, "alternatives": alternatives, "columns": columns, "size": size}
        return cls([*drawn], **given).opts(
            width=wide, height=high, xaxis=None, yaxis=None, toolbar=None, hooks=[_bare]
        )  # fmt: skip

    def html(self) -> str:
        """What a cell shows."""
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


Store.register({Gallery: OverlayPlot}, "bokeh")
Store.set_display_hook("html+js", Gallery, lambda gallery: ({"text/html": gallery.html()}, {}))


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
        A `holoviews.Overlay`, as a cell's result plain HTML; captions give class and spatial max activation.

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
    return Gallery.of(pictures, captions, alternatives, columns, size)
