"""What takes seconds, beside the kernel: runs of the network, tables, the report."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unitlab.errors import UnitlabError
from unitlab.views.explorer.answers import answered
from unitlab.views.explorer.background import Progress
from unitlab.views.explorer.live_network import LiveNetwork
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.explorer.tables import cells_table, units_table
from unitlab.views.report import page, write

Found = tuple[dict[str, Any], list[bytes]]
Work = Callable[[Progress], Found]

# what goes to the browser inside a message; larger files are written beside the notebook alone
LARGEST_MESSAGE = 40_000_000
FIRST_COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20)


def _together(study: MeasuredStudy, ask: dict[str, Any]) -> Work:
    """What silencing a group costs: from the study for a single unit, else by a run of the network."""
    units = [int(study.units[study.position(unit)]) for unit in ask["units"]]
    if len(units) == 1 and study.complete:
        place = study.position(units[0])
        return lambda progress: _joint(study.measures.isel(unit=place))
    live = LiveNetwork(study.ds)
    return lambda progress: _joint(live.together(units, progress).isel(unit=0))


def _joint(row: Any) -> Found:
    names = ("accuracy_drop", "drop_low", "drop_high")
    drops = [(100 * row[name].values).astype("<f4").tobytes() for name in names]
    lost, won = int(row["n_broken"].sum()), int(row["n_fixed"].sum())
    arrays = [[name, "f"] for name in ("drop", "low", "high", "q")]
    meta = {"overall": 100 * float(row["overall_drop"]), "lost": lost, "won": won, "arrays": arrays}
    return meta, [*drops, row["q_value"].values.astype("<f4").tobytes()]


def _curve(study: MeasuredStudy, ask: dict[str, Any]) -> Work:
    place = study.category_position(ask["category"])
    counts = [k for k in FIRST_COUNTS if k <= len(study.units)]
    live = LiveNetwork(study.ds)

    def work(progress: Progress) -> Found:
        found = live.curve(place, counts, progress)
        rows = {name: (100 * np.asarray(getattr(found, name))).tolist() for name in ("own", "low", "high", "overall")}
        return {"k": found.k.tolist(), "arrays": [], **rows}, []

    return work


def _at_hand(study: MeasuredStudy, _ask: dict[str, Any]) -> Work:
    LiveNetwork(study.ds)
    return lambda progress: ({"arrays": []}, [])


def _alike(study: MeasuredStudy, ask: dict[str, Any]) -> Work:
    return lambda progress: answered(study, ask)


def _csv(table: Callable[..., Any], what: str) -> Callable[[MeasuredStudy, dict[str, Any]], Work]:
    def csv(study: MeasuredStudy, ask: dict[str, Any]) -> Work:
        units = ask.get("units") or study.units.tolist()
        return lambda progress: _given(f"{_stem(study)}_{what}.csv", "text/csv", table(study, units).to_csv().encode())

    return csv


def _report(study: MeasuredStudy, ask: dict[str, Any]) -> Work:
    if not study.complete:
        raise UnitlabError("the report follows when tests and cross-fitted drops are computed")
    units = ask.get("units") or study.units.tolist()
    target = Path(str(ask.get("path") or "").strip() or f"{_stem(study)}.html").expanduser()
    if target.is_dir() or not target.parent.is_dir():
        raise UnitlabError(f"there is no folder for {str(target)!r}; give a file name in a folder that exists")

    def work(progress: Progress) -> Found:
        text = page(study.ds, study.measures, units, unit=ask.get("unit"), progress=progress)
        try:
            said = f"Written to {write(text, target).resolve()}."
        except UnitlabError as error:
            said = str(error)  # a server that lets nobody write: the browser gets the file all the same
        return _given(target.name, "text/html", text.encode(), said)

    return work


def _given(name: str, kind: str, content: bytes, said: str = "") -> Found:
    """A file for the reader's browser."""
    size = f"{len(content) / 1e6:.1f} MB" if len(content) >= 1e5 else f"{len(content) / 1e3:.1f} kB"
    meta: dict[str, Any] = {"name": name, "type": kind, "size": size, "said": said, "arrays": []}
    if len(content) > LARGEST_MESSAGE:
        if not said:
            meta["said"] = f"Written to {write(content.decode(), Path(name)).resolve()}."
        return meta, []
    return meta | {"arrays": [["content", "u"]]}, [content]


def _stem(study: MeasuredStudy) -> str:
    parts = f"{study.ds.attrs.get('name', 'study')}_{study.layer}_{study.ablation}"
    return re.sub(r"[^\w.-]+", "_", parts).strip("._") or "study"


LONG: dict[str, Callable[[MeasuredStudy, dict[str, Any]], Work]] = {
    "at_hand": _at_hand, "alike": _alike, "together": _together, "curve": _curve,
    "units_csv": _csv(units_table, "units"), "cells_csv": _csv(cells_table, "cells"), "report": _report,
}  # fmt: skip
