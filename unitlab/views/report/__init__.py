"""A study as one HTML file: no kernel, no network, every unit a click away."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
import xarray as xr

from unitlab.analysis.correlations import measures
from unitlab.analysis.requirements import unit_position
from unitlab.catalog import load, with_thumbnails
from unitlab.errors import UnitlabError
from unitlab.files import write_whole
from unitlab.progress import stages
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.findings import study_finding, unit_finding
from unitlab.views.page import script, text_of
from unitlab.views.report.content import content, definitions, lead, provenance, table_rows, title

__all__ = ["MOST_UNITS", "page", "report"]

MOST_UNITS = 512

Progress = Callable[[int, int], None]


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
    target = Path(path).expanduser()
    if target.is_dir() or not target.parent.is_dir():
        raise UnitlabError(f"{target} cannot be written: give a file name in a folder that exists")
    known = measures(ds, progress=progress)
    with stages("report", known.sizes["unit"] if units is None else len(units := list(units)), progress) as begin:
        text = page(ds, known, units, progress=lambda done, of: begin(f"unit {done} of {of}"))
    return write(text, target)


def write(text: str, target: Path) -> Path:
    """Put a page in place: the whole of it or nothing."""
    try:
        write_whole(target, text.encode())
    except OSError as error:
        raise UnitlabError(f"{target} cannot be written: {error.strerror}") from error
    return target


def page(
    ds: xr.Dataset,
    known: xr.Dataset,
    units: Iterable[int] | None = None,
    *,
    unit: int | None = None,
    progress: Progress | None = None,
) -> str:
    """The report as text.

    Parameters
    ----------
    ds, known
        A study and its measures.
    units
        Units to include; default all, where they are at most 512.
    unit
        The one that is open at first; default the one of the largest cross-fitted drop.
    progress
        Called with (units done, units).
    """
    numbers = [int(number) for number in (known["unit"].values if units is None else dict.fromkeys(units))]
    if not 0 < len(numbers) <= MOST_UNITS:
        raise UnitlabError(
            f"a report holds 1 to {MOST_UNITS} units; {len(numbers)} were asked for. Give units=[…], for example those of the "
            f"largest max_class_drop_crossfit"
        )
    places = [unit_position(known, number) for number in numbers]
    study = MeasuredStudy(ds.isel(unit=places), known.isel(unit=places))
    data = content(study, progress or (lambda done, of: None))
    crossfit = np.nan_to_num(study.measures["max_class_drop_crossfit"].values, nan=-np.inf)
    first = data["first"] = numbers.index(unit) if unit in numbers else int(crossfit.argmax())
    packed = base64.b64encode(gzip.compress(json.dumps(data, allow_nan=False).encode(), mtime=0)).decode()
    style, template = (resources.files(__name__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "html"))
    style, code = text_of("page.css") + text_of("explorer.css") + style, script("report")
    finding = escape(str(unit_finding(study.measures, numbers[first])))
    return Template(template).substitute(
        title=escape(title(ds)),
        lead=escape(lead(ds, known)),
        summary=escape(study_finding(known)),
        selection=escape("" if len(numbers) == known.sizes["unit"] else f"This report holds {len(numbers)} of them."),
        style=style,
        script=code,
        style_hash=_digest(style),
        script_hash=_digest(code),
        data=packed,
        views=Template(text_of("views.html")).substitute(finding=finding),
        rows=table_rows(study),
        definitions=definitions(study),
        provenance=provenance(ds, known),
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
