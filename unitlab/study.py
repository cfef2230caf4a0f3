"""A study: write it to disk, put it together in memory, open and check it."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import xarray as xr
import zarr
from xarray.core import indexing
from zarr.codecs import Crc32cCodec, ZstdCodec

from unitlab import schema
from unitlab.errors import UnitlabError, nearest_names
from unitlab.manifest import Manifest, read_manifest, write_failure, write_manifest
from unitlab.schema import SCHEMA_VERSION, VARIABLES, Variable, variable_attrs
from unitlab.stored_array import StoredArray, check_metadata

__all__ = ["Group", "StudySummary", "assemble", "check_files", "open_study", "study_summary", "write_study"]

Group = tuple[Mapping[str, Any], Mapping[str, Any]]
Groups = Mapping[str, Group]

CHUNK_BYTES = 128 << 10
FILE_BYTES = 32 << 20
CACHED_BYTES = 4 << 20
SWAP_SECONDS = 30.0


@dataclass(frozen=True)
class StudySummary:
    """What a store says of itself in its metadata: ``layers`` gives the ablations of each layer."""

    name: str
    network: str
    images: str
    layers: dict[str, list[str]]
    categories: int
    n_images: int
    attrs: dict[str, Any]


# --- in memory ---------------------------------------------------------------------------------------------------


def assemble(groups: Groups, layer: str, ablation: str) -> xr.Dataset:
    """The dataset of one layer and ablation from groups in memory.

    Parameters
    ----------
    groups
        ``""`` (level "study"), ``"<layer>"`` and ``"<layer>/<ablation>"`` → arrays and attributes.
    layer, ablation
        Which to take.

    Returns
    -------
    xarray.Dataset
        The three levels merged, as `open_study` gives them.

    Raises
    ------
    UnitlabError
        A group is missing, or an array is not what `unitlab.schema` says.
    """
    _check_groups(groups, "the study")
    attrs = _root_attrs(groups, {}, str(groups[""][1].get("network", "study")))
    arrays: dict[str, Any] = {}
    for key in ("", layer, f"{layer}/{ablation}"):
        if key not in groups:
            raise UnitlabError(f"the study has no group {key!r}. {nearest_names(key, groups)}")
        arrays.update({name: np.asarray(array[:]) for name, array in groups[key][0].items()})
        attrs.update(groups[key][1])
    return _dataset(arrays, attrs)


def _dataset(arrays: Mapping[str, Any], attrs: Mapping[str, Any]) -> xr.Dataset:
    names = [name for name in VARIABLES if name in arrays]
    variables = {name: xr.Variable(VARIABLES[name].dims, arrays[name], variable_attrs(name)) for name in names}
    coords = {name: variables.pop(name) for name in names if VARIABLES[name].coordinate}
    return xr.Dataset(variables, coords=coords, attrs=_plain(attrs))


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as text, numbers and lists."""
    plain = {}
    for name, value in attrs.items():
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def _root_attrs(groups: Groups, kept: Mapping[str, list[str]], name: str) -> dict[str, Any]:
    from unitlab import __version__

    layers = [*kept, *(key for key in groups if key and "/" not in key and key not in kept)]
    attrs = {"unitlab_schema": SCHEMA_VERSION, "unitlab_version": __version__, "name": name, **groups[""][1]}
    return {**attrs, "layers": layers, "default_layer": attrs.get("default_layer", layers[-1])}


def _check_groups(groups: Groups, where: str) -> None:
    """Refuse groups that do not follow the schema or do not belong together."""
    if "" not in groups or len(groups) < 2:
        raise UnitlabError(f"{where} needs a group '' and at least one layer; given: {sorted(groups)}")
    root = groups[""][0]
    schema.check(root, "study", dims={}, where=where)
    sizes = {"category": len(root["category"]), "image": len(root["image"])}
    for name, size in sizes.items():
        if len(set(root[name].tolist())) != size:
            raise UnitlabError(f"{where}: names along '{name}' occur twice")
    for key, (arrays, _) in groups.items():
        if not key:
            continue
        layer, slash, ablation = key.partition("/")
        if not layer or layer in VARIABLES or (slash and (not ablation or "/" in ablation or ablation in VARIABLES)):
            raise UnitlabError(f"{where}: a group cannot be called {key!r}; expected '<layer>' or '<layer>/<ablation>'")
        if slash and layer not in groups:
            raise UnitlabError(f"{where} has the group {key!r} and no group {layer!r}")
        if "unit" not in arrays or (slash and not np.array_equal(arrays["unit"], groups[layer][0]["unit"])):
            raise UnitlabError(f"{where}: the units of {key!r} are missing or not those of the layer")
        dims = {**sizes, "unit": len(arrays["unit"])}
        schema.check(arrays, "ablation" if slash else "layer", dims=dims, where=f"{where}, group {key!r}")


# --- on disk: writing --------------------------------------------------------------------------------------------


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
    _check_groups(groups, str(target))
    building = target.with_name(f"{target.name}.building")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _swap_lock(target):
            _finish_swap(target)
            old = study_summary(target) if os.path.lexists(target) else None
            if old is not None:
                groups = _joined_with_stored(target, old, groups)
            shutil.rmtree(building, ignore_errors=True)
            try:
                _build(building, target, old, groups)
                _swap(building, target)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
    except OSError as error:
        raise write_failure(error, target) from error


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
    attrs = {"": _root_attrs(groups, kept, target.stem)}
    for key in sorted(groups):
        arrays = {**shared, **groups[key][0]} if key else root_arrays
        group = zarr.create_group(
            store, path=key, zarr_format=3,
            attributes=_plain({**attrs.get(key, groups[key][1]), "coordinates": "category_index"}),
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


@contextmanager
def _swap_lock(target: Path) -> Iterator[None]:
    """One process at a time puts a store in place; a killed one's lock is free at once."""
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=SWAP_SECONDS)
    except filelock.Timeout as error:
        raise UnitlabError(f"another process is writing {target}; wait until it is done") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _swap(building: Path, target: Path) -> None:
    previous = target.with_name(f"{target.name}.previous")
    if target.exists():
        target.rename(previous)
    building.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def _finish_swap(target: Path) -> None:
    """End what a process that died between the two renames of `_swap` has begun."""
    building, previous = (target.with_name(f"{target.name}.{kind}") for kind in ("building", "previous"))
    if not previous.exists():
        return
    if not target.exists():
        try:
            read_manifest(building).check_bytes()
            building.rename(target)
        except (UnitlabError, FileNotFoundError):
            previous.rename(target)
            return
    shutil.rmtree(previous, ignore_errors=True)


# --- on disk: reading --------------------------------------------------------------------------------------------


def open_study(path: str | Path, layer: str | None = None, ablation: str = "zero") -> xr.Dataset:
    """Open one layer and ablation of a study, lazily.

    Parameters
    ----------
    path
        The store.
    layer
        Default: the study's own default layer.
    ablation
        "zero", "mean", "resample" or whatever the study has.

    Returns
    -------
    xarray.Dataset
        The levels study, layer and ablation merged, attributes too. Values are read when they are needed; a read
        that fails is a `UnitlabError`.

    Raises
    ------
    UnitlabError
        No study at ``path``; a damaged, cut, foreign or newer one (the message names the file); a layer or ablation
        that it does not have.
    """
    manifest = _checked_manifest(Path(path))
    summary = _summary(manifest)
    layer = str(summary.attrs.get("default_layer")) if layer is None else layer
    if layer not in summary.layers:
        raise UnitlabError(f"the study {summary.name!r} has no layer {layer!r}. {nearest_names(layer, summary.layers)}")
    if ablation not in summary.layers[layer]:
        raise UnitlabError(
            f"the study {summary.name!r} has no ablation {ablation!r} of {layer!r}. "
            f"{nearest_names(ablation, summary.layers[layer])}"
        )
    arrays: dict[str, Any] = {}
    attrs: dict[str, Any] = {}
    for key in (f"{layer}/{ablation}", layer, ""):
        group, found = _stored_group(manifest, key)
        arrays.update(group)
        attrs = {**found, **attrs}
    for level, key in (("study", ""), ("layer", layer), ("ablation", f"{layer}/{ablation}")):
        own = {name: array for name, array in arrays.items() if VARIABLES[name].level == level}
        sizes: dict[str, int] = {dim: arrays[dim].shape[0] for dim in ("unit", "category", "image") if dim in arrays}
        schema.check(own, level, dims=sizes, where=f"{manifest.folder}, group {key!r}")
    return _opened(arrays, attrs, manifest)


def open_group(path: str | Path, key: str) -> xr.Dataset:
    """One group of a store alone: ``""``, ``"<layer>"`` or ``"<layer>/<ablation>"``."""
    manifest = _checked_manifest(Path(path))
    return _opened(*_stored_group(manifest, key), manifest)


def study_summary(path: str | Path) -> StudySummary:
    """What a store holds, from its metadata alone.

    Raises
    ------
    UnitlabError
        No study at ``path``, or a damaged, cut, foreign or newer one.
    """
    return _summary(_checked_manifest(Path(path)))


def check_files(path: str | Path) -> None:
    """Compare every byte of a store with its manifest.

    Raises
    ------
    UnitlabError
        A file is missing, cut or changed; the message names it.
    """
    _checked_manifest(Path(path)).check_bytes()


def _opened(arrays: Mapping[str, StoredArray], attrs: Mapping[str, Any], manifest: Manifest) -> xr.Dataset:
    values: dict[str, Any] = {}
    for name, array in arrays.items():
        lazy: Any = indexing.LazilyIndexedArray(array)
        if VARIABLES[name].coordinate:
            values[name] = np.asarray(lazy)
        elif array.dtype.itemsize * int(np.prod(array.shape, dtype=np.int64)) <= CACHED_BYTES:
            values[name] = indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))
        else:
            values[name] = indexing.CopyOnWriteArray(lazy)
    ds = _dataset(values, attrs)
    ds.encoding["source"] = str(manifest.folder)
    return ds


def _checked_manifest(path: Path) -> Manifest:
    """The manifest of a store whose metadata is whole and whose files are all there."""
    folder = Path(os.path.abspath(path))
    if not os.path.lexists(folder):
        _recover(folder)
    try:
        _refuse_what_is_no_study(folder)
        manifest = read_manifest(folder)
    except OSError as error:
        raise UnitlabError(f"{folder} cannot be read: {error.strerror} ({error.filename})") from error
    if manifest.schema > SCHEMA_VERSION:
        raise UnitlabError(
            f"{folder} was written by a newer unitlab (schema {manifest.schema}, this one reads up to {SCHEMA_VERSION}); "
            "install a newer unitlab"
        )
    manifest.check_presence()
    manifest.check_bytes(name for name in manifest.files if name.endswith("zarr.json"))
    return manifest


def _recover(folder: Path) -> None:
    if folder.with_name(f"{folder.name}.previous").exists():
        try:
            with _swap_lock(folder):
                _finish_swap(folder)
        except OSError as error:
            raise write_failure(error, folder) from error
    if not os.path.lexists(folder):
        unfinished = folder.with_name(f"{folder.name}.partial").exists()
        hint = "; an unfinished one is, and the call or command that began it goes on with it" if unfinished else ""
        raise UnitlabError(f"there is no study at {folder}{hint}")


def _refuse_what_is_no_study(folder: Path) -> None:
    """Say what it is that has no manifest."""
    if not folder.is_dir():
        raise UnitlabError(f"{folder} is not a study: it is a file, a study is a folder (a zarr store)")
    if (folder / "manifest.json").exists():
        return
    if not (folder / "zarr.json").exists():
        old = [name for name in (".zgroup", ".zarray", ".zmetadata") if (folder / name).exists()]
        what = "a zarr store of format 2, which unitlab did not write" if old else "it holds no zarr.json"
        raise UnitlabError(f"{folder} is not a study: {what}")
    try:
        attrs = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        ours = "unitlab_schema" in attrs
    except (ValueError, KeyError, TypeError) as error:
        raise UnitlabError(f"{folder} is damaged: the files zarr.json and manifest.json cannot be read") from error
    if ours:
        raise UnitlabError(f"{folder} is not whole: the file manifest.json is missing")
    raise UnitlabError(f"{folder} is a zarr store, but no study of unitlab (no attribute 'unitlab_schema')")


def _group_json(manifest: Manifest, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes and consolidated metadata (member → metadata) of a group."""
    name = f"{key}/zarr.json" if key else "zarr.json"
    if name not in manifest.files:
        raise UnitlabError(f"{manifest.folder} is not a study: it has no group {key!r}")
    try:
        content = json.loads((manifest.folder / name).read_bytes())
        attrs, members = content["attributes"], content["consolidated_metadata"]["metadata"]
        if not isinstance(attrs, dict) or not all(isinstance(member, dict) for member in members.values()):
            raise TypeError("attributes and members are expected as JSON objects")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnitlabError(f"{manifest.folder} is not a study: {name} has another layout ({error})") from error
    return attrs, members


def _summary(manifest: Manifest) -> StudySummary:
    attrs, members = _group_json(manifest, "")
    if attrs.get("unitlab_schema") != manifest.schema:
        raise UnitlabError(f"{manifest.folder} is not a study: its attributes lack 'unitlab_schema'")
    layers: dict[str, list[str]] = {}
    for layer in attrs.get("layers", []):
        kinds = [name.split("/")[1] for name, member in members.items() if _is_group(member) and name.startswith(f"{layer}/")]
        layers[str(layer)] = sorted(kinds, key=lambda kind: (kind != "zero", kind))
    sizes = {}
    for name in ("category", "image"):
        if name not in members:
            raise UnitlabError(f"{manifest.folder} lacks the variable '{name}'")
        check_metadata(members[name], name, manifest)
        sizes[name] = int(members[name]["shape"][0])
    return StudySummary(
        str(attrs.get("name", manifest.folder.stem)), str(attrs.get("network", "")), str(attrs.get("images", "")),
        layers, sizes["category"], sizes["image"], attrs,
    )  # fmt: skip


def _is_group(member: Mapping[str, Any]) -> bool:
    return member.get("node_type") == "group"


def _stored_group(manifest: Manifest, key: str) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    attrs, members = _group_json(manifest, key)
    arrays = {}
    try:
        group = zarr.open_group(manifest.folder, mode="r", path=key, zarr_format=3, use_consolidated=True)
        for name, member in members.items():
            if _is_group(member) or "/" in name:
                continue
            path = f"{key}/{name}" if key else name
            check_metadata(member, path, manifest)
            array = group[name]
            assert isinstance(array, zarr.Array)
            arrays[name] = StoredArray(array, path, manifest)
    except UnitlabError:
        raise
    except Exception as error:
        raise UnitlabError(
            f"{manifest.folder}: the group {key!r} cannot be opened ({type(error).__name__}: {error})"
        ) from error
    return arrays, {name: value for name, value in attrs.items() if name != "coordinates"}
