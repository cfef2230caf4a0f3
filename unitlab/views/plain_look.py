"""The look that the plots share with the explorer's figures."""

from __future__ import annotations

from typing import Any

__all__ = ["plain"]


def plain(plot: Any, _element: Any) -> None:
    """Hook of HoloViews: upright labels, ticks where a number stands, nothing else around the axes."""
    figure = plot.state
    figure.toolbar.logo = None
    figure.outline_line_alpha = 0
    for axis in figure.axis:
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_alpha = 0
        axis.major_tick_in = 0
