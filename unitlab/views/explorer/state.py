"""What the explorer shows: one set of traits, from which every view follows."""

from __future__ import annotations

from typing import Any

import traitlets as T

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


class GroupHistory:
    """The groups ``before`` the present one, whatever changed it: a lasso, a click, Python."""

    def __init__(self, state: ExplorerState) -> None:
        self.state = state
        self.before: list[tuple[int, ...]] = []
        self._undoing = False
        state.observe(self._remember, "selection")

    def _remember(self, change: Any) -> None:
        if not self._undoing:
            self.before.append(tuple(change.old))

    def undo(self) -> None:
        """Go back to the group before, if there is one."""
        if self.before:
            self._undoing = True
            try:
                self.state.selection = self.before.pop()
            finally:
                self._undoing = False

    def forget(self) -> None:
        """Begin anew: the units of another layer are others."""
        self.before.clear()
