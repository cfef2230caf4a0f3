"""Dissections that come with unitlab, so that they can be looked at without computing them."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from unitlab.analysis.comparisons.bundled_results import read_results, write_results
from unitlab.errors import UnitlabError, nearest_names
from unitlab.files import bundled_folder
from unitlab.schema import DISSECTION_VARIABLES

FOLDER, SCRIPT = "dissections", "data/rebuild/dissections.py"


def bundled_dissection(name: str, procedure: str = "2017") -> xr.Dataset:
    """What `unitlab.dissect` gave for the default layer of a study, on all of its images.

    Parameters
    ----------
    name
        Of the study, such as ``"vgg_emoji"``.
    procedure
        ``"2017"`` or ``"2020"``.

    Returns
    -------
    xarray.Dataset
        As of `unitlab.dissect`; its attributes say of which network and images.

    Raises
    ------
    UnitlabError
        There is none of this name, or its file is damaged.

    Examples
    --------
    >>> from unitlab import concepts
    >>> concepts.bundled_dissection("vgg_emoji").iou.sizes["unit"]
    64
    """
    found = f"{name}-{procedure}"
    known = sorted(path.name.removesuffix(".zarr.zip") for path in (bundled_folder() / FOLDER).glob("*.zarr.zip"))
    if found not in known:
        raise UnitlabError(f"no dissection of {found!r} is bundled. {nearest_names(found, known)}")
    return read_results(None, f"{FOLDER}/{found}.zarr.zip", DISSECTION_VARIABLES, SCRIPT)


def write_bundled_dissection(folder: Path, name: str, found: xr.Dataset) -> None:
    """Write what `bundled_dissection` reads."""
    values = {row: found[row].values for row in DISSECTION_VARIABLES}
    write_results(folder / f"{name}-{found.attrs['procedure']}.zarr.zip", DISSECTION_VARIABLES, values, found.attrs)
