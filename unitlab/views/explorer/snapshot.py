"""What stands for an explorer where nothing runs: a picture of its figures, its sentence and images, as plain HTML."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unitlab.errors import UnitlabError
from unitlab.views.explorer.answers import answered
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.findings import decimal
from unitlab.views.look import BLUE, GREEN, GREY, ORANGE
from unitlab.views.words import quantity, shortened

Array = np.ndarray[Any, Any]

SCALE, WIDTH, HEIGHT, MOST = 2, 900, 330, 13  # pixels of a CSS pixel; CSS pixels; bars
INK = "#222222"


def snapshot(study: MeasuredStudy, explorer: Any) -> str:
    """HTML that needs neither style nor script, under 150 KB; the page hides it where the explorer lives."""
    meta, _ = answered(study, {"kind": "unit", "unit": explorer.unit})
    finding = "".join(meta["finding"])
    words = f"{len(study.units)} units of {study.layer}; accuracy drop by class of unit {explorer.unit}"
    parts = [
        f"<p>{escape(finding)}</p>",
        f'<p><img alt="{escape(words)}" width="{WIDTH}" src="data:image/png;base64,{_figures(study, explorer)}"></p>',
        _images(study, explorer),
        f"<p>A picture of <code>{escape(explorer.code())}</code>: run it to explore.</p>",
    ]
    return f'<div class="ul-snapshot">{"".join(parts)}</div>'


def _images(study: MeasuredStudy, explorer: Any) -> str:
    """The unit's top images in one sheet."""
    try:
        meta, buffers = answered(study, {"kind": "top", "unit": explorer.unit, "of": "all", "category": ""})
    except (UnitlabError, OSError):
        return ""
    if "laid_out" not in meta:
        return ""
    [sheet] = [buffer for (name, _), buffer in zip(meta["arrays"], buffers, strict=True) if name == "sheet"]
    held = io.BytesIO()
    picture = Image.open(io.BytesIO(sheet))
    picture.thumbnail((600, 240))
    picture.save(held, "JPEG", quality=80)
    names = ", ".join(study.names[tile["k"]] for tile in meta["tiles"])
    packed = base64.b64encode(held.getvalue()).decode()
    return f'<p><img alt="its top images: {escape(names)}" src="data:image/jpeg;base64,{packed}"></p>'


def _figures(study: MeasuredStudy, explorer: Any) -> str:
    """Units and classes side by side, as a PNG."""
    sheet = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    ink = _Ink(ImageDraw.Draw(sheet))
    _units(ink, study, explorer)
    _classes(ink, study, explorer)
    held = io.BytesIO()
    sheet.quantize(64, Image.Quantize.FASTOCTREE).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


class _Ink:
    """Drawing in CSS pixels."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw, self.font = draw, ImageFont.load_default(12 * SCALE)

    def line(self, *places: float, color: str = "#cccccc", width: float = 1) -> None:
        self.draw.line([SCALE * place for place in places], color, round(width * SCALE))

    def text(self, x: float, y: float, words: str, anchor: str = "lm") -> None:
        # Pillow's own font has Latin letters alone
        plain = words.replace("−", "-").encode("latin-1", "replace").decode("latin-1")
        self.draw.text((SCALE * x, SCALE * y), plain, INK, self.font, anchor)

    def dot(self, x: float, y: float, radius: float, color: str, fill: str | None) -> None:
        box = [SCALE * (x - radius), SCALE * (y - radius), SCALE * (x + radius), SCALE * (y + radius)]
        self.draw.ellipse(box, fill, color, round(1.5 * SCALE))

    def bar(self, x: float, y: float, end: float, height: float, color: str, fill: str | None) -> None:
        box = [SCALE * min(x, end), SCALE * y, SCALE * max(x, end), SCALE * (y + height)]
        self.draw.rectangle(box, fill, color, SCALE)


def _units(ink: _Ink, study: MeasuredStudy, explorer: Any) -> None:
    def values(name: str) -> Array:
        if name == "accuracy_drop":
            return study.drops[name][:, study.category_position(explorer.category)]
        return study.values(name) if name in study.variables else np.full(len(study.units), np.nan)

    x, y = values(explorer.x), values(explorer.y)
    both = np.isfinite(x) & np.isfinite(y)
    left, right, top, bottom = 46.0, 460.0, 26.0, HEIGHT - 40.0
    label = f"accuracy drop of {explorer.category} (points)" if explorer.y == "accuracy_drop" else quantity(explorer.y).title
    ink.text(4, 12, shortened(label, 56))
    ink.text(right, HEIGHT - 10, shortened(quantity(explorer.x).title, 56), "rm")
    if not both.any():
        return
    ends = [(float(some[both].min()), float(some[both].max())) for some in (x, np.append(y, 0.0)[: len(y)])]
    (x0, x1), (y0, y1) = ((low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)) for low, high in ends)
    px = left + (x - x0) / (x1 - x0) * (right - left)
    py = bottom - (y - y0) / (y1 - y0) * (bottom - top)
    for share in (0.1, 0.5, 0.9):
        across, up = left + share * (right - left), bottom - share * (bottom - top)
        ink.line(across, top, across, bottom)
        ink.line(left, up, right, up)
        ink.text(across, bottom + 10, f"{x0 + share * (x1 - x0):.3g}", "mm")
        ink.text(left - 4, up, f"{y0 + share * (y1 - y0):.3g}", "rm")
    for place in np.flatnonzero(both):
        ink.dot(px[place], py[place], 4, BLUE, BLUE if study.p_specific[place] <= 0.05 else None)
    here = study.position(explorer.unit)
    if both[here]:
        ink.dot(px[here], py[here], 8, INK, None)


def _classes(ink: _Ink, study: MeasuredStudy, explorer: Any) -> None:
    place = study.position(explorer.unit)
    drop, low, high = (study.drops[name][place] for name in ("accuracy_drop", "drop_low", "drop_high"))
    some = np.flatnonzero(np.isfinite(drop))
    order = some[np.argsort(-drop[some], kind="stable")]
    order = order if len(order) <= MOST else np.concatenate([order[:10], order[-3:]])
    left, right = 650.0, 840.0
    ends = np.concatenate([drop[order], np.nan_to_num(low[order]), np.nan_to_num(high[order]), [0.0]])
    least, span = float(ends.min()), float(np.ptp(ends)) or 1.0

    def at(value: float) -> float:
        return left + (value - least) / span * (right - left)

    ink.text(500, 12, "accuracy drop by class, points; filled: q <= 0.05")
    for row, k in enumerate(order):
        y = 32 + 22.0 * row
        color = ORANGE if drop[k] > 0 else GREEN if drop[k] < 0 else GREY
        ink.text(left - 8, y + 7, shortened(study.names[k], 22), "rm")
        ink.bar(at(0.0), y, at(drop[k]), 14, color, color if study.q[place, k] <= 0.05 else None)
        if np.isfinite(low[k]):
            ink.line(at(low[k]), y + 7, at(high[k]), y + 7, color=INK, width=1.3)
        ink.text(WIDTH - 6, y + 7, decimal(drop[k]), "rm")
    ink.line(at(0.0), 26, at(0.0), 32 + 22.0 * len(order), color=GREY)
