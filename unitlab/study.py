"""A study: put together in memory, opened from disk, and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from xarray.core import indexing

from unitlab import schema
from unitlab.errors import UnitlabError, nearest_names
from unitlab.manifest import Manifest, read_manifest, write_failure
from unitlab.schema import SCHEMA_VERSION, VARIABLES, variable_attrs
from unitlab.store_swap import finish_swap, swap_lock
from unitlab.stored_array import StoredArray, check_metadata

__all__ = [
    "Group", "Groups", "StudySummary", "assemble", "check_files", "check_groups", "open_group", "open_study", "plain_attrs",
    "root_attrs", "study_summary",
]  # fmt: skip

Group = tuple[Mapping[str, Any], Mapping[str, Any]]
Groups = Mapping[str, Group]

CACHED_BYTES = 4 << 20


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
    check_groups(groups, "the study")
    attrs = root_attrs(groups, {}, str(groups[""][1].get("network", "study")))
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
    return xr.Dataset(variables, coords=coords, attrs=plain_attrs(attrs))


def plain_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as text, numbers and lists."""
    plain = {}
    for name, value in attrs.items():
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def root_attrs(groups: Groups, kept: Mapping[str, list[str]], name: str) -> dict[str, Any]:
    from unitlab import __version__

    layers = [*kept, *(key for key in groups if key and "/" not in key and key not in kept)]
    attrs = {"unitlab_schema": SCHEMA_VERSION, "unitlab_version": __version__, "name": name, **groups[""][1]}
    return {**attrs, "layers": layers, "default_layer": attrs.get("default_layer", layers[-1])}


def check_groups(groups: Groups, where: str) -> None:
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
        that fails is a `UnitlabError`. Its ``encoding`` tells the store ("source") and what can be opened of it
        ("ablations": those of each layer).

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
        # an ablation of directions has its own activations in the place of the layer's
        arrays = {**group, **arrays}
        attrs = {**found, **attrs}
    for level, key in (("study", ""), ("layer", layer), ("ablation", f"{layer}/{ablation}")):
        own = {name: array for name, array in arrays.items() if VARIABLES[name].level == level}
        sizes: dict[str, int] = {dim: arrays[dim].shape[0] for dim in ("unit", "category", "image") if dim in arrays}
        schema.check(own, level, dims=sizes, where=f"{manifest.folder}, group {key!r}")
    ds = _opened(arrays, attrs, manifest)
    ds.encoding["ablations"] = summary.layers
    return ds


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
            with swap_lock(folder):
                finish_swap(folder)
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
    own = [name for name, member in members.items() if not _is_group(member) and "/" not in name]
    paths = {name: f"{key}/{name}" if key else name for name in own}
    # before zarr, which builds the codecs of all members when it opens the group
    for name, path in paths.items():
        check_metadata(members[name], path, manifest)
    try:
        group = zarr.open_group(manifest.folder, mode="r", path=key, zarr_format=3, use_consolidated=True)
        # all at once: to ask zarr for one costs it a millisecond
        opened = dict(group.arrays())
        arrays = {name: StoredArray(opened[name], path, manifest) for name, path in paths.items()}
    except Exception as error:
        raise UnitlabError(
            f"{manifest.folder}: the group {key!r} cannot be opened ({type(error).__name__}: {error})"
        ) from error
    return arrays, {name: value for name, value in attrs.items() if name != "coordinates"}
