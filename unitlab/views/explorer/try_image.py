"""Try an image: a picture of the study or of the reader's through the study's network, with units silenced."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from unitlab.errors import UnitlabError
from unitlab.views.explorer.answers import maps_over, packed
from unitlab.views.explorer.background import Progress
from unitlab.views.explorer.live_network import LiveNetwork, PictureNetwork
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.page.sheets import sheet

Found = tuple[dict[str, Any], list[bytes]]

TOP, WIDEST, RANKED = 5, 224, 24


class TriedImage:
    """The picture that is tried, an id of the study or a picture of Pillow; the network is built with the first question."""

    def __init__(self) -> None:
        self.picture: Any = None
        self._of: MeasuredStudy | None = None
        self._pixels: Any = None

    def take(self, given: Any) -> None:
        """Try another picture: an id, a picture, or a file as the page gives it (a data address)."""
        if isinstance(given, str) and given.startswith("data:"):
            try:
                given = Image.open(io.BytesIO(base64.b64decode(given.partition(",")[2])))
                given.load()
            except Exception as error:
                raise UnitlabError(f"this file cannot be read as a picture ({error})") from error
        self.picture, self._pixels = given, None

    def _network(self, study: MeasuredStudy) -> tuple[PictureNetwork, Any]:
        if self._of is not study:
            self.network, self._of, self._pixels = PictureNetwork(LiveNetwork(study.ds, images=False)), study, None
        if self._pixels is None:
            self._pixels = self.network.pixels(self.picture)
        return self.network, self._pixels

    def answer(self, study: MeasuredStudy, ask: dict[str, Any], _progress: Progress) -> Found:
        """Probabilities of the classes that lead before or after, and the open unit's map on the picture."""
        network, pixels = self._network(study)
        strengths = {int(unit): float(value) for unit, value in ask["strengths"]}
        before, after, maps = network.without(pixels, strengths, ask.get("region"))
        order = np.argsort(-before, kind="stable")
        some = [int(k) for k in order if k in {*order[:TOP], *np.argsort(-after, kind="stable")[:TOP]}]
        index = study.ds["category_index"].values
        names = {int(k): name for k, name in zip(index, study.names, strict=True)}
        classes = [[names.get(k, f"output {k}"), float(before[k]), float(after[k])] for k in some]
        own = np.maximum(maps[int(ask["unit"])], 0).reshape(1, *(maps.shape[1:] if maps.ndim == 3 else (1, 1)))
        tile: dict[str, Any] = {"place": 0, "map": True}
        if study.top_activation is not None and own.max() > 0:
            tile["least"] = float(study.thresholds([study.position(ask["unit"])])[0][0] / own.max())
        leading = names.get(int(after.argmax()), f"output {int(after.argmax())}")
        jpeg, laid_out = sheet(self._shown(study), WIDEST)
        pictures = {"sheet": np.frombuffer(jpeg, np.uint8), "laid_out": laid_out, **maps_over(study, own)}
        return packed({"classes": classes, "now": leading, "tiles": [tile], **pictures})

    def _shown(self, study: MeasuredStudy) -> Any:
        if isinstance(self.picture, str):
            place = study.ids.index(self.picture)
            return study.thumbnails(np.array([place])) if "thumbnails" in study.ds else np.full((1, 8, 8, 3), 128, np.uint8)
        small = self.picture.convert("RGB")
        small.thumbnail((WIDEST, WIDEST))
        return np.asarray(small)[None]

    def ranking(self, study: MeasuredStudy, _ask: dict[str, Any], progress: Progress) -> Found:
        """The units by what silencing each does to the picture, for a thread beside the kernel."""
        network, pixels = self._network(study)

        def largest(drops: Any) -> list[Any]:
            order = np.argsort(-np.abs(drops), kind="stable")[:RANKED]
            return [[int(study.units[at]), float(drops[at])] for at in order]

        drops = network.ranking(pixels, lambda some: progress(len(some), len(study.units), largest(some)))
        return packed({"units": largest(drops)})


# for a thread beside the kernel; a newer question stops the one before
TRIALS = {"try": TriedImage.answer, "try_rank": TriedImage.ranking}
