"""Write a study to disk, or add layers and ablations to one."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from unitlab.errors import UnitlabError, before_and_now, write_failure
from unitlab.schema import RESULTS, SCHEMA_VERSION, VARIABLES, Variable
from unitlab.store.files import write_manifest
from unitlab.store.shards import PartialStudy, shard_folder, unfinished_fingerprint
from unitlab.store.study import Group, Groups, StudySummary, check_groups, open_group, plain_attrs, root_attrs, study_summary
from unitlab.store.swap import finish_swap, swap, swap_lock
from unitlab.version import __version__

CHUNK_BYTES = 128 << 10
FILE_BYTES = 32 << 20
REMOVALS = 20
# hashes of all pixels: older studies have the first one, by shard, newer ones the second, of each image's hash
CONTENT = ("fingerprint_content", "fingerprint_content_images")
MARGIN = 0.01  # of the largest one
# how many pairs were compared with plain hooks, and what of them was found: of all units together
COMPARED = ("verified_compared", "verified_excused", "verified_different", "verified_outcomes_different")


def write_study(path: str | Path, groups: Groups) -> None:
    """Write a study, or add layers and ablations to it.

    The store is built beside ``path`` and renamed into place: at ``path`` there is the old study or the new one,
    never a part. Arrays are read in blocks of rows (``array[start:stop]``), so none needs to fit into memory.

    Parameters
    ----------
    path
        Where the study goes. The layers and ablations of a study that is there already are kept, and so are the units of
        an ablation that ``groups`` has for other units.
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


def write_result(path: str | Path, ds: xr.Dataset, kind: str) -> None:
    """Write a result that has dimensions of its own, "groups" or "curves"; `open_study` opens it.

    Raises
    ------
    UnitlabError
        A full disk, a folder that cannot be written.
    """
    target = Path(os.path.abspath(path))
    building = target.with_name(f"{target.name}.building")
    attrs = {"unitlab_schema": SCHEMA_VERSION, "unitlab_version": __version__, "name": target.stem, **ds.attrs}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with swap_lock(target):
            finish_swap(target)
            shutil.rmtree(building, ignore_errors=True)
            try:
                store = zarr.storage.LocalStore(building)
                root = zarr.create_group(store, zarr_format=3, attributes=plain_attrs({**attrs, "result": kind}))
                for name in ds.variables:
                    _write_array(root, RESULTS[kind][str(name)], ds[name].values)
                _consolidate(store, [""])
                write_manifest(building, SCHEMA_VERSION)
                swap(building, target)
            except BaseException:
                _remove(building)
                raise
    except OSError as error:
        raise write_failure(error, target) from error


def remove_study(path: str | Path) -> None:
    """Remove a store and what an unfinished sweep has left beside it.

    Raises
    ------
    UnitlabError
        Another process is computing or writing it; the folder cannot be written.
    """
    target = Path(os.path.abspath(path))
    try:
        if shard_folder(target).exists():
            PartialStudy(target, unfinished_fingerprint(target)).remove()
        with swap_lock(target):
            finish_swap(target)
            if target.exists():
                shutil.rmtree(target)
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
        if name in CONTENT and not (name in attrs and name in old.attrs):
            continue
        if attrs.get(name) != old.attrs.get(name):
            raise UnitlabError(
                f"{target} holds a study of other {name.removeprefix('fingerprint_')}"
                f"{before_and_now(old.attrs.get(name), attrs.get(name))}; write to another path, or remove it"
            )
    stored = open_group(target, "")
    one_hash = any(name in attrs and name in old.attrs for name in CONTENT)
    for name in ("image", "category", "label", "baseline_prediction", "baseline_margin"):
        now, before = np.asarray(groups[""][0][name][:]), stored[name].values
        # without a hash of all pixels in common their margins tell images apart, as far as devices and precisions agree
        near = name == "baseline_margin" and (one_hash or np.allclose(now, before, 0, MARGIN * np.abs(before).max(), True))
        if not (near or np.array_equal(now, before)):
            raise UnitlabError(
                f"{target} holds a study whose '{name}' differs from the new one's, as happens between machines or "
                "versions; write to another path, or compute it again as a whole"
            )
    known = {**attrs, **old.attrs}
    there = [key for layer, kinds in old.layers.items() for key in (layer, *(f"{layer}/{kind}" for kind in kinds))]
    joined = {key: _joined_units(target, key, *groups[key]) for key in there if key in groups}
    return {**groups, **joined, "": ({str(name): array.values for name, array in stored.variables.items()}, known)}


def _joined_units(target: Path, key: str, arrays: Mapping[str, Any], attrs: Mapping[str, Any]) -> Group:
    """A group with the units that the store's group of this name has besides."""
    stored = open_group(target, key)
    units, before = np.asarray(arrays["unit"]), stored["unit"].values
    further = np.flatnonzero(~np.isin(before, units))
    if not len(further):
        return arrays, attrs
    for name, there in stored.attrs.items():
        # older studies have a hash of their units there
        if name.startswith("fingerprint_") and name != "fingerprint_units" and attrs.get(name) != there:
            raise UnitlabError(
                f"{target} holds units of {key} with other {name.removeprefix('fingerprint_')} than those to be added"
                f"{before_and_now(there, attrs.get(name))}; write to another path"
            )
    if set(arrays) != set(stored.variables) - {"category", "category_index", "image"}:
        raise UnitlabError(f"{target} holds other variables of {key} than the units to be added have; write to another path")
    order = np.argsort(np.concatenate([units, before[further]]), kind="stable")
    joined = {
        name: _JoinedRows(array, stored[name], further, order) if VARIABLES[name].dims[:1] == ("unit",) else array
        for name, array in arrays.items()
    }
    compared = {name: attrs[name] + stored.attrs[name] for name in COMPARED if name in attrs and name in stored.attrs}
    return {**joined, "unit": joined["unit"][:]}, {**attrs, **compared}


class _JoinedRows:
    """Rows of an array, and ``further`` ones of a stored variable, in the order of ``order``, read when they are written."""

    def __init__(self, array: Any, stored: xr.DataArray, further: np.ndarray, order: np.ndarray) -> None:
        self.array, self.stored, self.further, self.order = array, stored, further, order
        self.shape, self.dtype = (len(order), *array.shape[1:]), array.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        chosen, own = self.order[rows], self.array.shape[0]
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for place, row in enumerate(chosen):
            if row < own:
                found[place] = self.array[int(row) : int(row) + 1][0]
        old = chosen >= own
        found[old] = self.stored[self.further[chosen[old] - own]].values
        return found


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
    _consolidate(store, sorted(groups, reverse=True))
    write_manifest(building, SCHEMA_VERSION)


def _consolidate(store: zarr.storage.LocalStore, keys: Iterable[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for key in keys:
            zarr.consolidate_metadata(store, path=key, zarr_format=3)


def _write_array(group: zarr.Group, row: Variable, source: Any) -> None:
    text = row.kind == "T" or (row.kind == "iT" and source.dtype.kind in "OU")
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
        attributes=row.attrs,
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
