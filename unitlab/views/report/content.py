"""What a report shows: findings, measures, drops by class, pictures, definitions, provenance."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.requirements import class_positions
from unitlab.schema import VARIABLES
from unitlab.version import __version__
from unitlab.views.findings import interval, number, points, probability, unit_finding
from unitlab.views.page.sheets import ACROSS, map_bytes, sheet
from unitlab.views.words import quantity

Array = np.ndarray[Any, Any]

MEASURES = (
    "overall_drop", "max_class_drop_crossfit", "max_class_drop", "p_specific", "p_margin_specific", "n_damaged",
    "concentration", "p_concentration", "max_z",
    "class_selectivity", "class_selectivity_max", "max_class_correlation", "mutual_information", "top_precision",
    "fraction_active", "mean_activation", "max_activation", "l1_norm", "l1_norm_folded", "first_order_margin_drop_overall",
    "max_class_drop_crossfit_null", "max_class_drop_null",
)  # fmt: skip
CELLS = (
    "accuracy_drop", "drop_low", "drop_high", "q_value", "n_broken", "n_fixed", "precision_drop", "balanced_accuracy_drop",
    "margin_drop", "margin_specific", "margin_specific_q_value",
)  # fmt: skip
OTHERS = (
    "overall_drop_low", "overall_drop_bound", "p_overall", "max_class_drop_low", "max_class_drop_crossfit_low",
    "baseline_accuracy", "n_images", "top_image", "top_activation", "top_map", "reliability",
)  # fmt: skip
PICTURES, WIDEST = 12, 80
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


def content(
    ds: xr.Dataset, part: xr.Dataset, known: xr.Dataset, unit: int | None, progress: Callable[[int, int], None]
) -> tuple[dict[str, Any], int]:
    """What the page's script reads, and the position of the unit that is open first."""
    numbers = [int(value) for value in part["unit"].values]
    crossfit = np.nan_to_num(part["max_class_drop_crossfit"].values, nan=-np.inf)
    first = numbers.index(unit) if unit in numbers else int(crossfit.argmax())
    measured = [_measure(part, name) for name in MEASURES if name in part and np.isfinite(part[name].values).any()]
    data = {
        "name": title(ds),
        "lead": _lead(ds, known),
        "units": numbers,
        "first": first,
        "findings": [list(unit_finding(part, value)) for value in numbers],
        "measures": measured,
        # a unit that damages no class has no most damaged one
        "worst": np.where(part["max_class_drop"].values > 0, part["max_class"].values, -1).tolist(),
        "worst_low": _hundredths(part["max_class_drop_low"].values),
        "worst_high": _hundredths(part["max_class_drop_high"].values),
        "layer": str(ds.attrs.get("layer", "")),
        "classes": [str(name) for name in part["category"].values],
        "n": [int(n) for n in part["n_images"].values],
        "accuracy": [round(float(value), 4) if np.isfinite(value) else None for value in part["baseline_accuracy"].values],
        "drop": _hundredths(part["accuracy_drop"].values),
        "low": _hundredths(part["drop_low"].values),
        "high": _hundredths(part["drop_high"].values),
        "q": _packed(part["q_value"].values, "<f4"),
        "precision": _hundredths(part["precision_drop"].values),
        "balanced": _hundredths(part["balanced_accuracy_drop"].values),
        # hundredths of a logit
        "margin": _hundredths(part["margin_drop"].values / 100),
        "own": _hundredths(part["margin_specific"].values / 100),
        "own_q": _packed(part["margin_specific_q_value"].values, "<f4"),
        "level": float(known.attrs.get("level", LEVEL)),
        "pictures": _pictures(ds, progress),
    }
    return data, first


def _lead(ds: xr.Dataset, known: xr.Dataset) -> str:
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


def _measure(part: xr.Dataset, name: str) -> dict[str, Any]:
    shown = quantity(name)
    values = part[name].values.astype(float) * shown.factor
    return {
        "name": name,
        "label": shown.title,
        "values": [float(f"{value:.5g}") if np.isfinite(value) else None for value in values],
    }


def _hundredths(drops: Array) -> str:
    """Drops in hundredths of a point as 16-bit numbers, −32768 where there is none."""
    values = np.where(np.isfinite(drops), np.clip(np.nan_to_num(drops) * 1e4, -32767, 32767), -32768)
    return _packed(values.round(), "<i2")


def _packed(values: Array, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


def _pictures(ds: xr.Dataset, progress: Callable[[int, int], None]) -> dict[str, Any] | None:
    """For each unit one JPEG of its top images and their maps, with class, activation and id of each."""
    count = ds.sizes["unit"]
    if "thumbnails" not in ds or "top_image" not in ds:
        progress(count, count)
        return None
    place = class_positions(ds, ds["label"].values)
    ids = ds["image"].values
    top, activation = ds["top_image"].values[:, :PICTURES], ds["top_activation"].values[:, :PICTURES]
    maps = ds["top_map"][:, :PICTURES].values
    held: dict[str, Any] = {"sheets": [], "maps": [], "shown": [], "mapped": list(maps.shape[2:])}
    for unit in range(count):
        ranks = [rank for rank in range(top.shape[1]) if top[unit, rank] >= 0 and activation[unit, rank] > 0]
        images = top[unit, ranks]
        jpeg = b""
        if ranks:
            jpeg, laid_out = sheet(ds["thumbnails"].isel(image=images).values, WIDEST, 80)
            held |= laid_out
        held["sheets"].append(base64.b64encode(jpeg).decode())
        held["maps"].append(base64.b64encode(map_bytes(maps[unit, ranks])).decode())
        held["shown"].append(
            [[int(place[i]), float(f"{activation[unit, r]:.3g}"), str(ids[i])] for r, i in zip(ranks, images, strict=True)]
        )
        progress(unit + 1, count)
    # the last unit may have fewer images than a row has room for
    return held | {"across": ACROSS}


def table_rows(part: xr.Dataset) -> str:
    """Body of the table of units; without scripts, ``#unit-37`` leads to its row."""
    names = part["category"].values
    low, high, worst = part["max_class_drop_low"].values, part["max_class_drop_high"].values, part["max_class"].values
    rows = []
    for place, unit in enumerate(part["unit"].values):
        row = {name: float(part[name].values[place]) for name in MEASURES if name in part}
        k = int(worst[place])
        limits = f" <small>{interval(low[place], high[place])}</small>" if k >= 0 else ""
        cells = [
            f'<th scope="row"><a href="#unit-{int(unit)}">{int(unit)}</a></th>',
            f"<td>{points(row['overall_drop'])}</td>",
            f'<td class="name" dir="auto">{escape(str(names[k])) if k >= 0 else "–"}</td>',
            f"<td>{points(row['max_class_drop'])}{limits}</td>",
            f"<td>{points(row['max_class_drop_crossfit'])}</td>",
            f"<td>{probability('p', row['p_specific']).removeprefix('p ').removeprefix('= ')}</td>",
            f"<td>{number(row['n_damaged'])}</td>",
            *(
                f"<td>{number(row.get(name, np.nan))}</td>"
                for name in ("class_selectivity", "fraction_active", "mean_activation")
            ),
        ]
        rows.append(f'<tr id="unit-{int(unit)}">{"".join(cells)}</tr>')
    return "\n".join(rows)


def definitions() -> str:
    """Every number of the page and what it means."""
    rows = []
    for name in (*CELLS, *MEASURES, *OTHERS):
        row = VARIABLES[name]
        rows.append(f"<dt>{escape(quantity(name).title)} <code>{escape(name)}</code></dt><dd>{escape(row.comment)}</dd>")
    return "\n".join(rows)


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
