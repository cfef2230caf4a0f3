"""Colours of every view."""

from __future__ import annotations

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "SERIES"]

# Okabe and Ito's colours, told apart by colour-blind readers; each has a contrast of 3 or more on white and on black
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
# several curves or tables in one figure, in this order
SERIES = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9")
