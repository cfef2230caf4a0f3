"""What the explorer shows: one set of traits, from which every view follows."""

from __future__ import annotations

import traitlets as T

__all__ = ["IMAGE_STYLES", "ExplorerState"]

IMAGE_STYLES = ("outline", "heat", "none")


class ExplorerState(T.HasTraits):
    """Traits of an explorer; setting one changes every view that depends on it."""

    study = T.Unicode(help="name of the study")
    layer = T.Unicode(help="layer of the study")
    ablation = T.Unicode(help="kind of ablation")
    unit = T.Int(help="number of the chosen unit")
    category = T.Unicode(help="name of the chosen class, empty for none")
    x = T.Unicode(help="variable on the horizontal axis of the units")
    y = T.Unicode(help="variable on the vertical axis of the units")
    color = T.Unicode(help="variable that colours the units, empty for none")
    line = T.Bool(False, help="whether the fitted line with its band is drawn")
    selection = T.Tuple(help="numbers of the units of the group")
    image_style = T.Enum(IMAGE_STYLES, "outline", help="how the activation map lies over the top images")
    image_strength = T.Float(0.5, min=0.0, max=1.0, help="threshold of the outline, or opacity of the heat")
