"""What takes seconds, beside the kernel: runs of the network, also on a picture that is tried; tables, the report."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unitlab.errors import UnitlabError
from unitlab.files import bytes_text
from unitlab.views.explorer.answers import Ask
from unitlab.views.explorer.background import Progress
from unitlab.views.explorer.live_network import LiveNetwork, PictureNetwork
from unitlab.views.explorer.measured_study import DROPS, MeasuredStudy
from unitlab.views.page.sheets import maps_over, sheet
from unitlab.views.report import page, writable, write

# what goes to the browser inside a message; larger files are written beside the notebook alone
LARGEST_MESSAGE = 40_000_000
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.int64)  # set, of each byte
FIRST_COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20)
TOP, WIDEST, RANKED = 5, 224, 24  # classes, pixels and units of a picture that is tried


def _together(study: MeasuredStudy, ask: Ask, progress: Progress) -> Ask:
    """What silencing a group costs: from the study for a single unit, else by a run of the network."""
    places = [study.position(unit) for unit in ask["units"]]
    held = len(places) == 1 and study.complete
    found = study.measures if held else LiveNetwork(study.ds).together(study.units[places].tolist(), progress)
    row = found.isel(unit=places[0] if held else 0)
    drops = {name: 100 * row[variable].values for name, variable in DROPS.items()} | {"q": row["q_value"].values}
    lost, won = int(row["n_broken"].sum()), int(row["n_fixed"].sum())
    return {"overall": 100 * float(row["overall_drop"]), "lost": lost, "won": won, **drops}


def _curve(study: MeasuredStudy, ask: Ask, progress: Progress) -> Ask:
    counts = [k for k in FIRST_COUNTS if k <= len(study.units)]
    found = LiveNetwork(study.ds).curve(study.category_position(ask["category"]), counts, progress)
    return {"k": counts, **{name: (100 * values).tolist() for name, values in found.items()}}


def _alike(study: MeasuredStudy, ask: Ask, _progress: Progress) -> Ask:
    """The units that lose the same images: largest Jaccard overlap first."""
    lost = study.lost
    own = lost[study.position(ask["unit"])]
    both, each = BITS[lost & own].sum(1), BITS[lost].sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = np.nan_to_num(both / (each + BITS[own].sum() - both))
    order = [at for at in np.argsort(-overlap, kind="stable") if study.units[at] != ask["unit"] and overlap[at] > 0]
    return {"units": [[int(study.units[at]), float(overlap[at])] for at in order[:8]]}


def _csv(what: str, study: MeasuredStudy, ask: Ask, _progress: Progress) -> Ask:
    """Selected rows: units with all their measures, or unit × class cells, in the units of the schema (drops are fractions)."""
    places = [study.position(unit) for unit in ask.get("units") or study.units]
    rows = study.measures.isel(unit=places).reset_coords(drop=True)
    if what == "units":
        table = rows[study.variables].to_dataframe()
        table.insert(0, "most_damaged_class", [study.names[k] if k >= 0 else "" for k in rows["max_class"].values])
    else:
        names = [str(name) for name, values in rows.data_vars.items() if values.dims == ("unit", "category")]
        table = rows[["n_images", *names]].rename(category="class").to_dataframe(dim_order=["unit", "class"])
    return _file(f"{_stem(study)}_{what}.csv", "text/csv", table.to_csv().encode())


def _report(study: MeasuredStudy, ask: Ask, progress: Progress) -> Ask:
    if not study.complete:
        raise UnitlabError("the report follows when tests and cross-fitted drops are computed")
    target = writable(str(ask.get("path") or "").strip() or f"{_stem(study)}.html")
    text = page(study.ds, study.measures, ask.get("units") or study.units.tolist(), unit=ask.get("unit"), progress=progress)
    try:
        said = f"Written to {write(text, target).resolve()}."
    except UnitlabError as error:
        said = str(error)  # a server that lets nobody write: the browser gets the file all the same
    return _file(target.name, "text/html", text.encode(), said)


def _file(name: str, kind: str, content: bytes, said: str = "") -> Ask:
    """A file for the reader's browser."""
    answer: Ask = {"name": name, "type": kind, "size": bytes_text(len(content)), "said": said}
    if len(content) <= LARGEST_MESSAGE:
        return answer | {"content": np.frombuffer(content, np.uint8)}
    return answer | {"said": said or f"Written to {write(content.decode(), Path(name)).resolve()}."}


def _stem(study: MeasuredStudy) -> str:
    parts = f"{study.ds.attrs.get('name', 'study')}_{study.layer}_{study.ablation}"
    return re.sub(r"[^\w.-]+", "_", parts).strip("._") or "study"


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

    def answer(self, study: MeasuredStudy, ask: Ask, _progress: Progress) -> Ask:
        """Probabilities of the classes that lead before or after, and the open unit's map on the picture."""
        network, pixels = self._network(study)
        strengths = {int(unit): float(value) for unit, value in ask["strengths"]}
        before, after, maps = network.without(pixels, strengths, ask.get("region"))
        order = np.argsort(-before, kind="stable")
        some = [int(k) for k in order if k in {*order[:TOP], *np.argsort(-after, kind="stable")[:TOP]}]
        names = dict(zip(study.ds["category_index"].values.tolist(), study.names, strict=True))
        classes: list[Any] = [[names.get(k, f"output {k}"), float(before[k]), float(after[k])] for k in some]
        now = max(classes, key=lambda row: row[2])[0]
        own = np.maximum(maps[int(ask["unit"])], 0).reshape(1, *(maps.shape[1:] if maps.ndim == 3 else (1, 1)))
        tile: dict[str, Any] = {"place": 0, "map": True}
        if study.top_activation is not None and own.max() > 0:
            tile["least"] = float(study.thresholds([study.position(ask["unit"])])[0][0] / own.max())
        pictures = sheet(self._shown(study), WIDEST) | maps_over(study.ds, own)
        return {"classes": classes, "now": now, "tiles": [tile], **pictures}

    def _shown(self, study: MeasuredStudy) -> Any:
        if isinstance(self.picture, str):
            place = study.ids.index(self.picture)
            return study.thumbnails(np.array([place])) if "thumbnails" in study.ds else np.full((1, 8, 8, 3), 128, np.uint8)
        small = self.picture.convert("RGB")
        small.thumbnail((WIDEST, WIDEST))
        return np.asarray(small)[None]

    def ranking(self, study: MeasuredStudy, _ask: Ask, progress: Progress) -> Ask:
        """The units by what silencing each does to the picture."""
        network, pixels = self._network(study)

        def largest(drops: Any) -> list[Any]:
            order = np.argsort(-np.abs(drops), kind="stable")[:RANKED]
            return [[int(study.units[at]), float(drops[at])] for at in order]

        drops = network.ranking(pixels, lambda some: progress(len(some), len(study.units), largest(some)))
        return {"units": largest(drops)}


LONG: dict[str, Callable[[MeasuredStudy, Ask, Progress], Ask]] = {
    "at_hand": lambda study, ask, progress: {"recipe": LiveNetwork(study.ds).recipe.name},
    "alike": _alike, "together": _together, "curve": _curve,
    "units_csv": partial(_csv, "units"), "cells_csv": partial(_csv, "cells"), "report": _report,
}  # fmt: skip
