"""What a report shows: findings, measures, drops by class, pictures, definitions, provenance."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from statistics import NormalDist
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.requirements import class_positions
from unitlab.version import __version__
from unitlab.views.explorer.answers import answered
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.findings import interval, number, points, probability

WIDEST = 80  # pixels of a picture
# of the static table, where no script runs: as the page's own
COLUMNS = ("n_damaged", "class_selectivity", "fraction_active", "mean_activation")
LABELS = {
    "name": "study", "network": "network", "training": "training", "top1_accuracy": "accuracy of the network",
    "pixel_nearest_neighbour_accuracy": "accuracy of a nearest neighbour on pixels", "images": "images", "labels": "labels",
    "layer": "layer", "site": "site", "ablation": "ablation", "precision": "precision", "strategy": "computed by",
    "baseline_overall_accuracy": "accuracy before ablation", "created": "study computed", "versions": "computed with",
    "unitlab_version": "unitlab of the study", "transform": "transform", "reading": "pictures read",
}  # fmt: skip


def title(ds: xr.Dataset) -> str:
    """Study, layer and ablation."""
    attrs = ds.attrs
    parts = [str(attrs[name]) for name in ("name", "layer") if attrs.get(name)]
    return " · ".join([*parts, f"{attrs.get('ablation', 'zero')} ablation"])


def content(study: MeasuredStudy, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """What the page's script reads: what an explorer's kernel would tell of the study and answer of each unit."""
    held, measured = study.for_page()
    count = len(study.units)
    data: dict[str, Any] = {"held": held, "measured": _packed(measured), "units": [], "tops": [], **_images(study)}
    for done, unit in enumerate(study.units.tolist(), 1):
        for name, ask in (("units", {"kind": "unit"}), ("tops", {"kind": "top", "most": WIDEST})):
            answer, buffers = answered(study, ask | {"unit": unit}, hundredths=name == "units")
            data[name].append({"answer": answer, "buffers": [_packed(buffer) for buffer in buffers]})
        progress(done, count)
    return data


def _images(study: MeasuredStudy) -> dict[str, Any]:
    """What two units are compared by: classes and ids of the images, and those that each unit loses and wins."""
    label, right, changed = study.class_position, study.before == study.class_position, []
    for place in range(len(study.units)):
        still = class_positions(study.ds, study.ds["prediction"][place].values) == label
        changed.append({"lost": np.flatnonzero(right & ~still).tolist(), "won": np.flatnonzero(~right & still).tolist()})
    z = None if "cluster" in study.ds else NormalDist().inv_cdf((1 + study.measures.attrs.get("level", LEVEL)) / 2)
    place = {"study": str(study.ds.attrs.get("name", "study")), "layer": study.layer, "ablation": study.ablation}
    return {"label": label.tolist(), "ids": study.ids, "changed": changed, "z": z, "place": place}


def _packed(value: Any) -> Any:
    """As JSON has it, bytes as base64."""
    if isinstance(value, dict):
        return {name: _packed(each) for name, each in value.items()}
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def lead(ds: xr.Dataset, known: xr.Dataset) -> str:
    """What was done to what."""
    attrs = ds.attrs
    network = f" of {attrs['network']}" if attrs.get("network") else ""
    images = f" of {attrs['images']}" if attrs.get("images") else ""
    right = (
        f" The network is right on {float(attrs['baseline_overall_accuracy']):.1%} of them."
        if "baseline_overall_accuracy" in attrs
        else ""
    )
    return (
        f"Each of the {known.sizes['unit']:,} units of {attrs.get('layer', 'the layer')}{network} was silenced in turn "
        f"({attrs.get('ablation', 'zero')} ablation), and the accuracy of each of {ds.sizes['category']:,} classes measured "
        f"again on {ds.sizes['image']:,} images{images}.{right}"
    )


def table_rows(study: MeasuredStudy) -> str:
    """Body of the table of units; without scripts, ``#unit-37`` leads to its row."""
    part, rows = study.measures, []
    low, high = part["max_class_drop_low"].values, part["max_class_drop_high"].values
    for place, unit in enumerate(study.units):
        row = {name: float(part[name].values[place]) for name in study.variables}
        k = study.max_class[place]
        limits = f" <small>{interval(low[place], high[place])}</small>" if k >= 0 else ""
        cells = [
            f'<th scope="row"><a href="#unit-{unit}">{unit}</a></th>',
            f"<td>{points(row['overall_drop'])}</td>",
            f'<td class="name" dir="auto">{escape(study.names[k]) if k >= 0 else "–"}</td>',
            f"<td>{points(row['max_class_drop'])}{limits}</td>",
            f"<td>{points(row['max_class_drop_crossfit'])}</td>",
            f"<td>{probability('p', row['p_specific']).removeprefix('p ').removeprefix('= ')}</td>",
            *(f"<td>{number(row.get(name, np.nan))}</td>" for name in COLUMNS),
        ]
        rows.append(f'<tr id="unit-{unit}">{"".join(cells)}</tr>')
    return "\n".join(rows)


def definitions(study: MeasuredStudy) -> str:
    """Every number of the page and what it means."""
    rows = answered(study, {"kind": "definitions"})[0]["rows"]
    return "\n".join(
        f"<dt>{escape(title)} <code>{escape(name)}</code></dt><dd>{escape(text)}</dd>" for name, title, text in rows
    )


def _plain(name: str, value: Any) -> str:
    return f"{value:.2%}" if "accuracy" in name and isinstance(value, int | float) else str(value)


def provenance(ds: xr.Dataset, known: xr.Dataset) -> str:
    """What was measured on what with what, fingerprints included."""
    attrs = ds.attrs
    rows = [(text, _plain(name, attrs[name])) for name, text in LABELS.items() if attrs.get(name) not in (None, "")]
    rows.append(("images, classes, units", f"{ds.sizes['image']:,}, {ds.sizes['category']:,}, {known.sizes['unit']:,}"))
    if "verified_compared" in attrs:
        rows.append(
            (
                "checked with plain forward hooks",
                f"{attrs['verified_compared']} (unit, image) pairs, {attrs.get('verified_excused', 0)} ties within float "
                f"noise, {attrs.get('verified_different', 0)} different",
            )
        )
    settings = known.attrs
    statistics = (
        f"{100 * float(settings.get('level', LEVEL)):g} % intervals, tests by {'cluster' if 'cluster' in ds else 'image'}",
        str(settings["tested"]).rstrip("."),
        f"{settings['n_splits']} splits, seed {settings['seed']}",
        f"reliability {number(float(known['reliability']))}",
    )
    rows.append(("statistics", "; ".join(statistics)))
    rows += [
        (name.removeprefix("fingerprint_").replace("_", " ") + ", fingerprint", str(value))
        for name, value in sorted(attrs.items())
        if name.startswith("fingerprint_")
    ]
    rows.append(("report written", f"{datetime.now(UTC).isoformat(timespec='seconds')}, unitlab {__version__}"))
    return "\n".join(f'<dt>{escape(name)}</dt><dd dir="auto">{escape(text)}</dd>' for name, text in rows)
