"""Row 2, right: the images that activate a unit most, with its activation map over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as W

from unitlab.errors import UnitlabError
from unitlab.views.explorer.measured_study import TopImages
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.state import IMAGE_STYLES
from unitlab.views.explorer.styled import styled
from unitlab.views.gallery import data_address, picture_with_map

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


COUNT = 12


class ImagesView:
    """``widget``: how the map is drawn, and the images in a grid of the class ``ul-images``."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.title = styled(W.HTML, "ul-caption")
        self.style = styled(W.Dropdown, options=IMAGE_STYLES, description="map", tooltip="how the activation map is drawn")
        self.strength = styled(
            W.FloatSlider, min=0.0, max=1.0, step=0.05, readout=False, description="threshold", continuous_update=False,
            tooltip="threshold of the outline, or opacity of the heat",
        )  # fmt: skip
        self.grid = styled(W.HTML, "ul-images")
        W.link((self.state, "image_style"), (self.style, "value"))
        W.link((self.state, "image_strength"), (self.strength, "value"))
        self._kept: tuple[Any, TopImages] | None = None
        controls = styled(W.HBox, "ul-controls", [self.title, self.style, self.strength])
        self.widget = styled(W.VBox, "ul-images-view", [controls, self.grid])
        self.show = guarded(self._show, self._say)
        self.show()
        explorer.watch(self.show, "unit", "study", "image_style", "image_strength", afterwards=True)

    def _say(self, sentence: str) -> None:
        self.title.value = ""
        self.grid.value = f'<div class="ul-message">{message_html(sentence, self.explorer.source.remedy())}</div>'

    def _top_images(self) -> TopImages:
        key = (self.explorer.study, self.state.unit)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self.explorer.study.top_images(self.state.unit, COUNT)
        return self._kept[1]

    def _show(self) -> None:
        study, state = self.explorer.study, self.state
        self.strength.description = "opacity" if state.image_style == "heat" else "threshold"
        self.strength.disabled = state.image_style == "none"
        if study.dead[study.position(state.unit)]:
            self._say(f"No image activates unit {state.unit}: it is dead.")
            return
        top = self._top_images()
        if top.pixels is None:
            names = ", ".join(f"{name} ({value:.3g})" for name, value in zip(top.names, top.activation, strict=True))
            raise UnitlabError(
                f"the study keeps no thumbnails, so the images cannot be shown; unit {state.unit} is most active on: {names}"
            )
        self.title.value = as_text(f"top {len(top.image)} images")
        cells = []
        for rank, (name, identity, value) in enumerate(zip(top.names, top.ids, top.activation, strict=True)):
            picture = picture_with_map(top.pixels[rank], top.maps[rank], style=state.image_style, strength=state.image_strength)
            text = as_text(f"{rank + 1}: {name}, activation {value:.3g}, {identity}")
            cells.append(
                f'<figure title="{text}"><img alt="{text}" src="{data_address(picture)}">'
                f"<figcaption>{as_text(name)}</figcaption></figure>"
            )
        self.grid.value = f'<div class="ul-grid">{"".join(cells)}</div>'
