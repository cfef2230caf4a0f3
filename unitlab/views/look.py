"""How every view looks: its colours, and what the figures of HoloViews have in common."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's colours, told apart by colour-blind readers; each has a contrast of 3 or more on white and on black
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
# several curves or tables in one figure, in this order
SERIES = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9")


def plain(plot: Any, _element: Any) -> None:
    """Hook of HoloViews: upright labels, ticks where a number stands, nothing else around the axes."""
    figure = plot.state
    figure.toolbar.logo = None
    figure.outline_line_alpha = 0
    for axis in figure.axis:
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_alpha = 0
        axis.major_tick_in = 0
    for bar in figure.right:
        bar.update(**({"title_standoff": 10} if hasattr(bar, "title_standoff") else {}))
        bar.update(**{name: "normal" for name in ("title_text_font_style", "axis_label_text_font_style") if hasattr(bar, name)})


# a wheel over a figure scrolls the page until the reader picks the zoom
FIGURE: dict[str, Any] = {"hooks": [plain], "active_tools": ["pan"]}
LEGEND_ABOVE: dict[str, Any] = {
    "legend_position": "top",
    "legend_opts": {"ncols": 4, "border_line_alpha": 0, "padding": 0, "margin": 4, "spacing": 8, "location": "left"},
}
