"""Write a study to disk, or add layers and ablations to one."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from unitlab.errors import UnitlabError, write_failure
from unitlab.schema import SCHEMA_VERSION, VARIABLES, Variable, variable_attrs
from unitlab.store.files import write_manifest
from unitlab.store.study import Groups, StudySummary, check_groups, open_group, plain_attrs, root_attrs, study_summary
from unitlab.store.swap import finish_swap, swap, swap_lock

CHUNK_BYTES = 128 << 10
FILE_BYTES = 32 << 20
REMOVALS = 20


def write_study(path: str | Path, groups: Groups) -> None:
    """Write a study, or add layers and ablations to it.

    The store is built beside ``path`` and renamed into place: at ``path`` there is the old study or the new one,
    never a part. Arrays are read in blocks of rows (``array[start:stop]``), so none needs to fit into memory.

    Parameters
    ----------
    path
        Where the study goes. The layers and ablations of a study that is there already are kept.
    groups
        ``""`` (level "study"), ``"<layer>"`` and ``"<layer>/<ablation>"`` → arrays and attributes.

    Raises
    ------
    UnitlabError
        Arrays that are not what `unitlab.schema` says; something at ``path`` that is no study, or that is a study of
        another network or other images; a full disk, a folder that cannot be written.
    """
    target = Path(os.path.abspath(path))
    check_groups(groups, str(target))
    building = target.with_name(f"{target.name}.building")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with swap_lock(target):
            finish_swap(target)
            old = study_summary(target) if os.path.lexists(target) else None
            if old is not None:
                groups = _joined_with_stored(target, old, groups)
            shutil.rmtree(building, ignore_errors=True)
            try:
                _build(building, target, old, groups)
                swap(building, target)
            except BaseException:
                _remove(building)
                raise
    except OSError as error:
        raise write_failure(error, target) from error


def _remove(building: Path) -> None:
    """Writes that zarr had under way when another failed may still bring files: gone is what is not there twice."""
    gone = 0
    for _ in range(REMOVALS):
        gone = 0 if os.path.lexists(building) else gone + 1
        if gone == 2:
            return
        shutil.rmtree(building, ignore_errors=True)
        time.sleep(0.05)


def _joined_with_stored(target: Path, old: StudySummary, groups: Groups) -> Groups:
    """``groups`` with the root of the store; refused where the two do not belong together."""
    attrs = groups[""][1]
    for name in sorted(key for key in {*attrs, *old.attrs} if key.startswith("fingerprint_")):
        if attrs.get(name) != old.attrs.get(name):
            raise UnitlabError(
                f"{target} holds a study of other {name.removeprefix('fingerprint_')} ({str(old.attrs.get(name))[:16]}, "
                f"now {str(attrs.get(name))[:16]}); write to another path, or remove it"
            )
    stored = open_group(target, "")
    for name in ("image", "category", "label", "baseline_prediction"):
        if not np.array_equal(np.asarray(groups[""][0][name][:]), stored[name].values):
            raise UnitlabError(
                f"{target} holds a study whose '{name}' differs from the new one's, as happens between machines or "
                "versions; write to another path, or compute it again as a whole"
            )
    for layer, ablations in old.layers.items():
        kept = [kind for kind in ablations if f"{layer}/{kind}" not in groups]
        if layer in groups and kept:
            units = open_group(target, layer)["unit"].values
            if not np.array_equal(units, np.asarray(groups[layer][0]["unit"])):
                raise UnitlabError(f"{target} holds {layer}/{kept[0]} for other units; write to another path")
    known = {**attrs, **old.attrs}
    return {**groups, "": ({str(name): array.values for name, array in stored.variables.items()}, known)}


def _build(building: Path, target: Path, old: StudySummary | None, groups: Groups) -> None:
    store = zarr.storage.LocalStore(building)
    root_arrays = groups[""][0]
    shared = {name: root_arrays[name] for name in ("category", "category_index", "image")}
    kept = old.layers if old is not None else {}
    attrs = {"": root_attrs(groups, kept, target.stem)}
    for key in sorted(groups):
        arrays = {**shared, **groups[key][0]} if key else root_arrays
        group = zarr.create_group(
            store, path=key, zarr_format=3,
            attributes=plain_attrs({**attrs.get(key, groups[key][1]), "coordinates": "category_index"}),
        )  # fmt: skip
        for name in (name for name in VARIABLES if name in arrays):
            _write_array(group, VARIABLES[name], arrays[name])
    for layer, ablations in kept.items():
        if layer not in groups:
            _link_tree(target / layer, building / layer)
        for kind in ablations if layer in groups else ():
            if f"{layer}/{kind}" not in groups:
                _link_tree(target / layer / kind, building / layer / kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for key in sorted(groups, reverse=True):
            zarr.consolidate_metadata(store, path=key, zarr_format=3)
    write_manifest(building, SCHEMA_VERSION)


def _write_array(group: zarr.Group, row: Variable, source: Any) -> None:
    text = row.kind == "T"
    dtype = np.dtype(object) if text else np.dtype(source.dtype)
    fill: Any = "" if text else np.nan if dtype.kind == "f" else -1 if dtype.kind == "i" else 0
    shape = tuple(int(size) for size in source.shape)
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64))) * (32 if text else dtype.itemsize)
    chunk = min(shape[0], max(1, CHUNK_BYTES // row_bytes)) or 1
    whole = text or row.coordinate or chunk >= shape[0]
    chunk = shape[0] if whole else chunk
    block = shape[0] if whole else chunk * min(-(-shape[0] // chunk), max(1, FILE_BYTES // (chunk * row_bytes)))
    array = group.create_array(
        row.name,
        shape=shape,
        dtype="string" if text else dtype,
        chunks=(chunk, *shape[1:]),
        shards=None if whole else (block, *shape[1:]),
        compressors=[ZstdCodec(level=5), Crc32cCodec()],
        fill_value=fill,
        dimension_names=row.dims,
        attributes=dict[str, Any](variable_attrs(row.name)),
        config={"write_empty_chunks": True},
    )
    for start in range(0, shape[0], block):
        values = np.asarray(source[start : start + block])
        array[start : start + block] = np.array([str(value) for value in values], dtype=object) if text else values


def _link_tree(source: Path, destination: Path) -> None:
    """Copy a group; the files with the data become hard links where the disk has them."""

    def link(there: str, here: str) -> None:
        if os.path.basename(there) == "zarr.json":
            shutil.copy2(there, here)
            return
        try:
            os.link(there, here)
        except OSError:
            shutil.copy2(there, here)

    shutil.copytree(source, destination, copy_function=link)
