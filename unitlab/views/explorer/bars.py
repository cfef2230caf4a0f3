"""Bars as HTML: counts of images, and drops with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unitlab.views.explorer.messages import as_text
from unitlab.views.words import isolated, shortened

LINE = 56  # letters that a line of names has room for


def count_bars(rows: Sequence[tuple[Sequence[str], int]], describe: str) -> str:
    """A table of names, or of names and where they go, each line above a bar as long as its count."""
    most = max((count for _, count in rows), default=1)

    def line(names: Sequence[str]) -> str:
        # so that a long one leaves room for the other
        room = LINE // len(names)
        return " → ".join(f"<bdi>{as_text(shortened(name, room))}</bdi>" for name in names)

    body = "".join(
        f'<tr><th scope="row" title="{as_text(" → ".join(map(isolated, names)))}"><span>{line(names)}</span>'
        f'<svg aria-hidden="true"><rect class="ul-bar-lost ul-sure" height="6" width="{100 * count / most:.1f}%"/></svg></th>'
        f"<td>{count:,}</td></tr>"
        for names, count in rows
    )
    return f'<table class="ul-bars ul-count-bars" aria-label="{as_text(describe)}"><tbody>{body}</tbody></table>'


def drop_bar(drop: float, low: float, high: float, ends: tuple[float, float], text: str, *, sure: bool) -> str:
    """One drop in points as a bar with its interval, on an axis from ``ends[0]`` to ``ends[1]``, and text behind it."""
    least, most = ends
    span = (most - least) or 1.0

    def share(value: float) -> str:
        return f"{100 * (np.clip(value, least, most) - least) / span:.2f}%"

    kind = "ul-bar-lost" if drop >= 0 else "ul-bar-won"
    bar = (
        f'<rect class="{kind}{" ul-sure" if sure else ""}" x="{share(min(drop, 0.0))}" y="4" height="14" '
        f'width="{100 * abs(drop) / span:.2f}%"/>'
    )
    limits = (
        f'<line class="ul-limits" x1="{share(low)}" x2="{share(high)}" y1="11" y2="11"/>'
        if np.isfinite(low) and np.isfinite(high)
        else ""
    )
    zero = f'<line class="ul-zero" x1="{share(0.0)}" x2="{share(0.0)}" y1="0" y2="22"/>'
    return (
        f'<table class="ul-bars"><tbody><tr><td><svg aria-hidden="true">{zero}{bar}{limits}</svg></td>'
        f"<td>{as_text(text)}</td></tr></tbody></table>"
    )
