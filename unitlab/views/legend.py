"""Entries of a legend that no point of the figure gives: Bokeh takes the look of the first point for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import holoviews as hv


def legend_entry(dims: Sequence[hv.Dimension], label: str, **style: Any) -> hv.Points:
    """A point that is nowhere, with its label and look, for points that differ in colour or filling among each other."""
    return hv.Points([(math.nan, math.nan)], [*dims], label=label).opts(size=8, line_width=1.5, **style)
