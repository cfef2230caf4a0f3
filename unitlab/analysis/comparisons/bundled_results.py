"""Results that come with unitlab, a file each: the variables of one of the schema's tables, as a zipped Zarr store."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore, ZipStore

from unitlab.errors import UnitlabError
from unitlab.files import bundled_folder
from unitlab.schema import Variable, described

Table = Mapping[str, Variable]


def read_results(path: str | Path | None, bundled: str, table: Table, script: str) -> xr.Dataset:
    """The results of ``table`` in a file, by default the ``bundled`` one, in memory; ``script`` is what writes it."""
    path = Path(path) if path is not None else bundled_folder() / bundled
    try:
        # ZipFile checks the CRC-32 of everything that is read; zarr alone would take a missing chunk for fill values
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"its part {damaged} is damaged")
        with ZipStore(path, mode="r") as store:
            group = zarr.open_group(store, mode="r")
            arrays = {name: np.asarray(array[...]) for name, array in group.arrays()}
            attrs = dict(group.attrs)
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        again = f"install unitlab again, or rebuild it with {script}"
        raise UnitlabError(f"the comparison {path} cannot be read ({error}); {again}") from error
    if set(arrays) != set(table):
        other = sorted(set(arrays) ^ set(table))
        raise UnitlabError(f"{path} is no such comparison, or one of another version: {', '.join(other)}")
    return described(table, arrays, attrs)


def write_results(path: Path, table: Table, values: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
    """Write what `read_results` reads; the same values give the same bytes."""
    with TemporaryDirectory() as folder:
        group = zarr.create_group(LocalStore(folder), zarr_format=3, attributes=dict(attrs))
        for name, row in table.items():
            text, held = row.kind == "T", np.asarray(values[name])
            array = group.create_array(
                name, shape=held.shape, dtype="string" if text else held.dtype, chunks=held.shape,
                dimension_names=row.dims, attributes=row.attrs,
            )  # fmt: skip
            array[...] = held.astype(object) if text else held
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(one for one in Path(folder).rglob("*") if one.is_file()):
                # a date of its own would make every rebuild another file
                archive.writestr(zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes())
