"""What stands for an explorer where nothing runs: a picture of its figures, its sentence and images, as plain HTML."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unitlab.analysis import ALPHA
from unitlab.errors import UnitlabError
from unitlab.views.explorer.answers import answered, finding
from unitlab.views.explorer.measured_study import OF_THE_CLASS, MeasuredStudy
from unitlab.views.findings import decimal
from unitlab.views.look import BLUE, GREEN, GREY, ORANGE
from unitlab.views.words import quantity, shortened

WIDTH, HEIGHT = 1800, 660  # pixels, two to a CSS pixel
MOST, WIDEST = 13, 96  # bars; pixels of a top image
INK, GRID = "#222222", "#cccccc"


def snapshot(study: MeasuredStudy, explorer: Any) -> str:
    """HTML that needs neither style nor script, under 150 KB; the page hides it where the explorer lives."""
    words = f"{len(study.units)} units of {study.layer}; accuracy drop by class of unit {explorer.unit}"
    figures = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, held = ImageDraw.Draw(figures), io.BytesIO()
    draw.font = ImageFont.load_default(24)
    _units(draw, study, explorer)
    _classes(draw, study, study.position(explorer.unit))
    try:
        top = answered(study, {"kind": "top", "unit": explorer.unit, "most": WIDEST})
    except (UnitlabError, OSError):
        top = {}
    names = ", ".join(study.names[tile["k"]] for tile in top.get("tiles", ()))
    figures.quantize(64, Image.Quantize.FASTOCTREE).save(held, "PNG")
    parts = [
        f"<p>{escape(str(finding(study, explorer.unit)))}</p>",
        _picture(words, f' width="{WIDTH // 2}"', "png", held.getvalue()),
        _picture(f"its top images: {names}", "", "jpeg", top["sheet"].tobytes()) if "sheet" in top else "",
        f"<p>A picture of <code>{escape(explorer.code())}</code>: run it to explore.</p>",
    ]
    return f'<div class="ul-snapshot">{"".join(parts)}</div>'


def _picture(words: str, size: str, kind: str, content: bytes) -> str:
    packed = base64.b64encode(content).decode()
    return f'<p><img alt="{escape(words)}"{size} src="data:image/{kind};base64,{packed}"></p>'


def _text(draw: ImageDraw.ImageDraw, x: float, y: float, words: str, anchor: str = "lm") -> None:
    # Pillow's own font has Latin letters alone
    draw.text((x, y), words.replace("−", "-").encode("latin-1", "replace").decode("latin-1"), INK, anchor=anchor)


def _units(draw: ImageDraw.ImageDraw, study: MeasuredStudy, explorer: Any) -> None:
    left, right, top, bottom = 92, 920, 52, HEIGHT - 80
    label = f"accuracy drop of {explorer.category} (points)" if explorer.y == OF_THE_CLASS else quantity(explorer.y).title
    _text(draw, 8, 24, shortened(label, 56))
    _text(draw, right, HEIGHT - 20, shortened(quantity(explorer.x).title, 56), "rm")
    try:
        x, y = (study.values(name, explorer.category) for name in (explorer.x, explorer.y))
    except UnitlabError:
        return  # it is being computed
    both = np.isfinite(x) & np.isfinite(y)
    if not both.any():
        return
    least = np.array([x[both].min(), y[both].min()])
    span = np.array([np.ptp(x[both]), np.ptp(y[both])])
    room = 0.05 * np.where(span > 0, span, 1)
    least, span = least - room, span + 2 * room
    for share in (0.1, 0.5, 0.9):
        across, up = left + share * (right - left), bottom - share * (bottom - top)
        draw.line([across, top, across, bottom], GRID, 2)
        draw.line([left, up, right, up], GRID, 2)
        of_x, of_y = least + share * span
        _text(draw, across, bottom + 20, f"{of_x:.3g}", "mm")
        _text(draw, left - 8, up, f"{of_y:.3g}", "rm")
    px = left + (x - least[0]) / span[0] * (right - left)
    py = bottom - (y - least[1]) / span[1] * (bottom - top)
    sure = study.values("p_specific") <= ALPHA if study.complete else np.zeros(len(x), bool)
    for at in np.flatnonzero(both):
        draw.ellipse([px[at] - 8, py[at] - 8, px[at] + 8, py[at] + 8], BLUE if sure[at] else None, BLUE, 3)
    here = study.position(explorer.unit)
    if both[here]:
        draw.ellipse([px[here] - 16, py[here] - 16, px[here] + 16, py[here] + 16], None, INK, 3)


def _classes(draw: ImageDraw.ImageDraw, study: MeasuredStudy, place: int) -> None:
    drop, low, high, q = (values[place] for values in study.drops.values())
    some = np.flatnonzero(np.isfinite(drop))
    order = some[np.argsort(-drop[some], kind="stable")]
    order = order if len(order) <= MOST else np.concatenate([order[:10], order[-3:]])
    ends = np.concatenate([drop[order], np.nan_to_num(low[order]), np.nan_to_num(high[order]), [0.0]])
    left, width, span = 1300, 380, float(np.ptp(ends)) or 1.0
    zero, to, from_low, to_high = (left + (values - ends.min()) / span * width for values in (0.0, drop, low, high))
    _text(draw, 1000, 24, "accuracy drop by class, points; filled: q <= 0.05")
    for row, k in enumerate(order):
        y, color = 64 + 44 * row, ORANGE if drop[k] > 0 else GREEN if drop[k] < 0 else GREY
        _text(draw, left - 16, y + 14, shortened(study.names[k], 22), "rm")
        draw.rectangle([min(zero, to[k]), y, max(zero, to[k]), y + 28], color if q[k] <= ALPHA else None, color, 2)
        if np.isfinite(low[k]):
            draw.line([from_low[k], y + 14, to_high[k], y + 14], INK, 3)
        _text(draw, WIDTH - 12, y + 14, decimal(drop[k]), "rm")
    draw.line([zero, 52, zero, 64 + 44 * len(order)], GREY, 2)
