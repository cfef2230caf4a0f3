"""A study as one HTML file: no kernel, no network, every unit a click away."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from statistics import NormalDist
from string import Template
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.correlations import measures
from unitlab.analysis.requirements import unit_position
from unitlab.catalog import load, with_thumbnails
from unitlab.errors import UnitlabError, write_failure
from unitlab.files import write_whole
from unitlab.progress import stages
from unitlab.version import __version__
from unitlab.views.description import proof
from unitlab.views.explorer.answers import answered, packed
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.findings import interval, number, points, probability, study_finding
from unitlab.views.page import script, text_of

__all__ = ["MOST_UNITS", "page", "report"]

MOST_UNITS = 512
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


def report(
    ds_or_name: xr.Dataset | str | Path, path: str | Path, *, units: Iterable[int] | None = None, progress: bool = True
) -> Path:
    """Write a study as one HTML file that can be mailed: it needs no kernel, no server and no network.

    Every unit is a point beside the finding about it, its drops by class with interval and significance, and its top images
    with their activation maps; ``#unit-37`` behind the file's address opens unit 37. Definitions and provenance are included.

    Parameters
    ----------
    ds_or_name
        A study, or its name or path.
    path
        The file to write; an older one of that name is replaced.
    units
        Numbers of the units to include, at most 512. Default: all.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    UnitlabError
        ``ds_or_name`` is no study; it has more than 512 units and ``units`` is not given; a unit that it does not have; a file
        that cannot be written.

    Examples
    --------
    >>> import unitlab, tempfile
    >>> unitlab.report("vgg_fashion", tempfile.mkdtemp() + "/vgg_fashion.html", units=[3, 5]).name
    'vgg_fashion.html'
    """
    ds = with_thumbnails(ds_or_name) if isinstance(ds_or_name, xr.Dataset) else load(ds_or_name)
    target = writable(path)
    known = measures(ds, progress=progress)
    with stages("report", known.sizes["unit"] if units is None else len(units := list(units)), progress) as begin:
        text = page(ds, known, units, progress=lambda done, of: begin(f"unit {done} of {of}"))
    return write(text, target)


def writable(path: str | Path) -> Path:
    """The path of a file to write; refused where it cannot be one."""
    target = Path(path).expanduser()
    if target.is_dir() or not target.parent.is_dir():
        raise UnitlabError(f"no report can be written to {str(target)!r}; give a file name in a folder that exists")
    return target


def write(text: str, target: Path) -> Path:
    """Put a page in place: the whole of it or nothing."""
    try:
        write_whole(target, text.encode())
    except OSError as error:
        raise write_failure(error, target) from error
    return target


def page(
    ds: xr.Dataset, known: xr.Dataset, units: Iterable[int] | None = None, *, unit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> str:  # fmt: skip
    """A study with its measures as the text of a report of some units; ``unit`` is open at first, default as in an explorer."""
    numbers = [int(number) for number in (known["unit"].values if units is None else dict.fromkeys(units))]
    if not 0 < len(numbers) <= MOST_UNITS:
        raise UnitlabError(
            f"a report holds 1 to {MOST_UNITS} units; {len(numbers)} were asked for. Give units=[…], for example those of the "
            f"largest max_class_drop_crossfit"
        )
    places = [unit_position(known, number) for number in numbers]
    study = MeasuredStudy(ds.isel(unit=places), known.isel(unit=places))
    data = _content(study, progress)
    first = data["first"] = numbers.index(unit if unit in numbers else study.strongest_unit())
    style, template = (resources.files(__name__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "html"))
    style, code = text_of("page.css") + text_of("explorer.css") + style, script("report")
    finding = escape("".join(data["units"][first]["answer"]["finding"]))
    definitions = [
        f"<dt>{escape(title)} <code>{escape(name)}</code></dt><dd>{escape(text)}</dd>"
        for name, title, text in answered(study, {"kind": "definitions"})["rows"]
    ]
    title = [str(ds.attrs[name]) for name in ("name", "layer") if ds.attrs.get(name)]
    return Template(template).substitute(
        title=escape(" · ".join([*title, f"{study.ablation} ablation"])),
        lead=escape(_lead(ds, known)),
        summary=escape(study_finding(known)),
        selection=escape("" if len(numbers) == known.sizes["unit"] else f"This report holds {len(numbers)} of them."),
        style=style,
        script=code,
        style_hash=_base64(hashlib.sha256(style.encode()).digest()),
        script_hash=_base64(hashlib.sha256(code.encode()).digest()),
        data=_base64(gzip.compress(json.dumps(data, allow_nan=False).encode(), mtime=0)),
        views=Template(text_of("views.html")).substitute(finding=finding),
        rows=_table_rows(study),
        definitions="\n".join(definitions),
        provenance=_provenance(ds, known),
    )


def _content(study: MeasuredStudy, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """What the page's script reads: what an explorer's kernel would tell of the study and answer of each unit, and what two
    units are compared by, classes and ids of the images and those that each unit loses and wins."""
    data: dict[str, Any] = {"units": [], "tops": [], "changed": []}
    for done, unit in enumerate(study.units.tolist(), 1):
        for name, ask in (("units", {"kind": "unit"}), ("tops", {"kind": "top", "most": WIDEST})):
            answer, buffers = packed(answered(study, ask | {"unit": unit}), hundredths=name == "units")
            data[name].append({"answer": answer, "buffers": [_base64(buffer) for buffer in buffers]})
        lost, won = study.changed(study.after(done - 1))
        data["changed"].append({"lost": np.flatnonzero(lost).tolist(), "won": np.flatnonzero(won).tolist()})
        progress(done, len(study.units))
    measured = {name: _base64(value) if isinstance(value, bytes) else value for name, value in study.measured.items()}
    z = None if "cluster" in study.ds else NormalDist().inv_cdf((1 + study.measures.attrs.get("level", LEVEL)) / 2)
    where = {"study": str(study.ds.attrs.get("name", "study")), "layer": study.layer, "ablation": study.ablation}
    images = {"label": study.class_position.tolist(), "ids": study.ids}
    return {"held": study.held, "measured": measured, "z": z, "place": where, **images, **data}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _lead(ds: xr.Dataset, known: xr.Dataset) -> str:
    """What was done to what."""
    attrs = ds.attrs
    network, images = (f" of {attrs[name]}" if attrs.get(name) else "" for name in ("network", "images"))
    accuracy = attrs.get("baseline_overall_accuracy")
    right = "" if accuracy is None else f" The network is right on {100 * float(accuracy):.1f} % of them."
    return (
        f"Each of the {known.sizes['unit']:,} units of {attrs.get('layer', 'the layer')}{network} was silenced in turn "
        f"({attrs.get('ablation', 'zero')} ablation), and the accuracy of each of {ds.sizes['category']:,} classes measured "
        f"again on {ds.sizes['image']:,} images{images}.{right}"
    )


def _table_rows(study: MeasuredStudy) -> str:
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


def _provenance(ds: xr.Dataset, known: xr.Dataset) -> str:
    """What was measured on what with what, fingerprints included."""
    attrs, settings = ds.attrs, known.attrs
    rows = {text: attrs[name] for name, text in LABELS.items() if attrs.get(name) not in (None, "")}
    shares = {text: f"{share:.2%}" for text, share in rows.items() if "accuracy" in text and isinstance(share, int | float)}
    rows |= shares | {"images, classes, units": f"{ds.sizes['image']:,}, {ds.sizes['category']:,}, {known.sizes['unit']:,}"}
    rows["checked"] = proof(attrs)
    rows["statistics"] = (
        f"{100 * float(settings.get('level', LEVEL)):g} % intervals, tests by {'cluster' if 'cluster' in ds else 'image'}; "
        f"{str(settings['tested']).rstrip('.')}; {settings['n_splits']} splits, seed {settings['seed']}; "
        f"reliability {number(float(known['reliability']))}"
    )
    for name in sorted(name for name in attrs if name.startswith("fingerprint_")):
        rows[name.removeprefix("fingerprint_").replace("_", " ") + ", fingerprint"] = attrs[name]
    rows["report written"] = f"{datetime.now(UTC).isoformat(timespec='seconds')}, unitlab {__version__}"
    return "\n".join(f'<dt>{escape(name)}</dt><dd dir="auto">{escape(str(text))}</dd>' for name, text in rows.items())
