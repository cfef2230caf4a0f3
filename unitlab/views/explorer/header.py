"""Row 0: which study, layer and ablation are open, the unit, and the search for a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np

from unitlab.views.explorer.messages import as_text, guarded
from unitlab.views.explorer.styled import styled

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


SUGGESTED = 3


class Header:
    """``widget``: a row of labelled controls, all linked with the state."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        narrow = W.Layout(width="auto")
        self.study = styled(W.Dropdown, "ul-study", description="Study", layout=narrow)
        self.layer = styled(W.Dropdown, "ul-layer", description="Layer", tooltip="layer whose units are ablated", layout=narrow)
        self.ablation = styled(
            W.Dropdown, "ul-ablation", description="Ablation", tooltip="what stands in for the unit", layout=narrow
        )
        self.before = styled(W.Button, "ul-step", description="◀", tooltip="the unit before")
        self.after = styled(W.Button, "ul-step", description="▶", tooltip="the next unit")
        self.unit = styled(
            W.BoundedIntText, "ul-unit", min=0, max=0, description="Unit", tooltip="number of the unit; the arrow keys step",
            continuous_update=False,
        )  # fmt: skip
        self.category = styled(W.Combobox, "ul-class", description="Class", placeholder="find a class", continuous_update=False)
        self.found = styled(W.HTML, "ul-found")
        self._filling = False
        self._show_study()
        self._show_choice()
        for widget, changed in (
            (self.study, self._study_chosen), (self.layer, self._layer_chosen), (self.ablation, self._ablation_chosen),
            (self.unit, self._unit_typed), (self.category, self._class_typed),
        ):  # fmt: skip
            widget.observe(guarded(changed, explorer.say), "value")
        self.before.on_click(guarded(lambda _: self._step(-1), explorer.say))
        self.after.on_click(guarded(lambda _: self._step(1), explorer.say))
        explorer.watch(self._show_study, "study", "layer", "ablation")
        explorer.watch(self._show_choice, "unit", "category", "study")
        stepper = styled(W.HBox, "ul-stepper", [self.unit, self.before, self.after])
        controls = [self.study, self.layer, self.ablation, stepper, self.category, self.found]
        self.widget = styled(W.HBox, "ul-header", controls)

    def _show_study(self) -> None:
        explorer = self.explorer
        study, source = explorer.study, explorer.source
        attrs = study.ds.attrs
        self.study.tooltip = f"{attrs.get('network', '')}; {study.ds.sizes['image']:,} images of {attrs.get('images', '')}"
        self._filling = True
        try:
            self.study.options, self.study.value = explorer.opened.names, explorer.opened.name
            self.layer.options, self.layer.value = list(source.layers), study.layer
            self.ablation.options, self.ablation.value = source.layers[study.layer], study.ablation
            low, high = int(study.units.min()), int(study.units.max())
            if low > self.unit.max:
                self.unit.max = high
            self.unit.min, self.unit.max = low, high
            self.category.options = study.names
        finally:
            self._filling = False

    def _show_choice(self) -> None:
        self._filling = True
        try:
            self.unit.value = self.state.unit
            self.category.value = self.state.category
            self.found.value = ""
        finally:
            self._filling = False

    def _study_chosen(self, change: Any) -> None:
        if not self._filling:
            self.state.study = change.new

    def _layer_chosen(self, change: Any) -> None:
        if not self._filling:
            kinds = self.explorer.source.layers[change.new]
            with self.explorer.together():
                if self.state.ablation not in kinds:
                    self.state.ablation = kinds[0]
                self.state.layer = change.new

    def _ablation_chosen(self, change: Any) -> None:
        if not self._filling:
            self.state.ablation = change.new

    def _unit_typed(self, change: Any) -> None:
        if self._filling:
            return
        units = self.explorer.study.units
        if change.new in units:
            self.state.unit = change.new
        else:
            # a study of some units has gaps: a step goes over them, a typed number to the nearest
            forward = change.new > self.state.unit
            beyond = np.sort(units[units > change.new] if forward else units[units < change.new])
            self.state.unit = int(beyond[0 if forward else -1])

    def _step(self, by: int) -> None:
        units = np.sort(self.explorer.study.units)
        place = int(np.searchsorted(units, self.state.unit)) + by
        self.state.unit = int(units[place % len(units)])

    def _class_typed(self, change: Any) -> None:
        if self._filling:
            return
        typed = change.new.strip()
        names = self.explorer.study.names
        near = [name for name in names if typed.casefold() in name.casefold()]
        exact = [name for name in near if name.casefold() == typed.casefold()]
        self.found.value = ""
        if not typed:
            self.state.category = ""
        elif typed in names or exact or len(near) == 1:
            self.state.category = typed if typed in names else (exact or near)[0]
            self._show_choice()
        elif near:
            shown = ", ".join(near[:SUGGESTED]) + (", …" if len(near) > SUGGESTED else "")
            self.found.value = as_text(f"{len(near)} classes: {shown}")
        else:
            self.found.value = as_text("no such class")
