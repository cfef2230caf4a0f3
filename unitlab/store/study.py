"""A study: put together in memory, opened from disk, and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitlab import schema
from unitlab.errors import UnitlabError, nearest_names, write_failure
from unitlab.schema import RESULTS, SCHEMA_VERSION, VARIABLES, Variable
from unitlab.store.arrays import LazyArray, SelectedRows, StoredArray, as_unitlab_error, lazy
from unitlab.store.files import LocalFiles, StudyFiles
from unitlab.store.swap import finish_swap, swap_lock

Group = tuple[Mapping[str, Any], Mapping[str, Any]]
Groups = Mapping[str, Group]


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


def _dataset(arrays: Mapping[str, Any], attrs: Mapping[str, Any], table: Mapping[str, Variable] = VARIABLES) -> xr.Dataset:
    names = [name for name in table if name in arrays]
    variables = {name: _variable(arrays[name], table[name], name) for name in names}
    coords = {name: variables.pop(name) for name in names if table[name].coordinate}
    return xr.Dataset(variables, coords=coords, attrs=plain_attrs(attrs))


def _variable(array: Any, row: Variable, name: str) -> xr.Variable:
    """As it is: to see that it is none of dask, xarray would import dask, where that is installed (0.3 s)."""
    data = pd.Index(array, dtype=array.dtype) if row.dims == (name,) else array
    return xr.Variable(row.dims, data, row.attrs, fastpath=row.dims != (name,))


def plain_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as text, numbers and lists."""
    plain = {}
    for name, value in attrs.items():
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def root_attrs(groups: Groups, kept: Mapping[str, list[str]], name: str) -> dict[str, Any]:
    from unitlab.version import __version__

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
        units = np.asarray(groups[layer][0].get("unit", ()))
        if "unit" not in arrays or (slash and not np.array_equal(arrays["unit"], units[np.isin(units, arrays["unit"])])):
            raise UnitlabError(f"{where}: the units of {key!r} are missing or not those of the layer")
        dims = {**sizes, "unit": len(arrays["unit"])}
        schema.check(arrays, "ablation" if slash else "layer", dims=dims, where=f"{where}, group {key!r}")


def open_study(path: str | Path, layer: str | None = None, ablation: str = "zero") -> xr.Dataset:
    """Open one layer and ablation of a study, lazily.

    Parameters
    ----------
    path
        The store: a folder, or an address that fsspec opens.
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
    files = _study_files(path)
    metadata = _metadata(files)
    if metadata[0].get("result") in RESULTS:
        return _result(files, *metadata, layer)
    summary = _summary(files, *metadata)
    layer = str(summary.attrs.get("default_layer")) if layer is None else layer
    if layer not in summary.layers:
        raise UnitlabError(f"the study {summary.name!r} has no layer {layer!r}. {nearest_names(layer, summary.layers)}")
    if ablation not in summary.layers[layer]:
        raise UnitlabError(
            f"the study {summary.name!r} has no ablation {ablation!r} of {layer!r}. "
            f"{nearest_names(ablation, summary.layers[layer])}"
        )
    root, attrs = _stored_group(files, *metadata, "")
    of_layer, layer_attrs = _stored_group(files, *metadata, layer)
    of_ablation, ablation_attrs = _stored_group(files, *metadata, f"{layer}/{ablation}")
    # an ablation of directions has its own activations in the place of the layer's
    arrays = {**root, **_of_units(of_layer, of_ablation, files), **of_ablation}
    attrs = {**attrs, **layer_attrs, **ablation_attrs}
    for level, key in (("study", ""), ("layer", layer), ("ablation", f"{layer}/{ablation}")):
        own = {name: array for name, array in arrays.items() if VARIABLES[name].level == level}
        sizes: dict[str, int] = {dim: arrays[dim].shape[0] for dim in ("unit", "category", "image") if dim in arrays}
        schema.check(own, level, dims=sizes, where=f"{files.where}, group {key!r}")
    ds = _opened(arrays, attrs, files)
    ds.encoding["ablations"] = summary.layers
    return ds


def _result(files: StudyFiles, attrs: dict[str, Any], members: Mapping[str, Any], layer: str | None) -> xr.Dataset:
    """Groups or curves, which are of one layer and ablation."""
    if layer not in (None, attrs.get("layer")):
        raise UnitlabError(f"{files.where} holds {attrs['result']} of the layer {attrs.get('layer')!r}, none of {layer!r}")
    arrays, attrs = _stored_group(files, attrs, members, "")
    return _opened(arrays, attrs, files, RESULTS[attrs["result"]])


def _of_units(of_layer: dict[str, StoredArray], of_ablation: dict[str, StoredArray], files: StudyFiles) -> dict[str, LazyArray]:
    """A layer's variables of the units that were ablated: there may be other ablations, of more of its units."""
    known, units = of_layer.get("unit"), of_ablation.get("unit")
    if known is None or units is None or known.shape == units.shape:
        return dict(of_layer)
    rows = np.flatnonzero(np.isin(known.whole(), units.whole()))
    if not np.array_equal(known.whole()[rows], units.whole()):
        raise UnitlabError(f"{files.where} is not a study: it has an ablation of units that their layer does not have")
    return {
        name: SelectedRows(array, rows) if VARIABLES[name].dims[:1] == ("unit",) else array for name, array in of_layer.items()
    }


def open_group(path: str | Path, key: str) -> xr.Dataset:
    """One group of a store alone: ``""``, ``"<layer>"`` or ``"<layer>/<ablation>"``."""
    files = _study_files(path)
    return _opened(*_stored_group(files, *_metadata(files), key), files)


def study_summary(path: str | Path) -> StudySummary:
    """What a store holds, from its metadata alone.

    Raises
    ------
    UnitlabError
        No study at ``path``, or a damaged, cut, foreign or newer one.
    """
    files = _study_files(path)
    return _summary(files, *_metadata(files))


def check_files(path: str | Path, progress: bool = False) -> None:
    """Compare every byte of a store with its manifest.

    Raises
    ------
    UnitlabError
        A file is missing, cut or changed; the message names it.
    """
    _study_files(path).check(progress)


def is_address(path: str | Path) -> bool:
    """Whether a store is given by an address, such as "https://…" or "s3://…"."""
    return isinstance(path, str) and "://" in path


def _opened(
    arrays: Mapping[str, LazyArray],
    attrs: Mapping[str, Any],
    files: StudyFiles,
    table: Mapping[str, Variable] = VARIABLES,
) -> xr.Dataset:
    values = {name: array.whole() if table[name].coordinate else lazy(array) for name, array in arrays.items()}
    ds = _dataset(values, attrs, table)
    ds.encoding["source"] = files.where
    return ds


def _study_files(path: str | Path) -> StudyFiles:
    """The files of a store; in a folder, all of them are there, and those with metadata are as they were written."""
    files = _remote_files(str(path)) if is_address(path) else _local_files(Path(os.path.abspath(path)))
    if files.manifest.schema > SCHEMA_VERSION:
        raise UnitlabError(
            f"{files.where} was written by a newer unitlab (schema {files.manifest.schema}, this one reads up to "
            f"{SCHEMA_VERSION}); install a newer unitlab"
        )
    if isinstance(files, LocalFiles):
        files.check_presence()
        for name in files.manifest.files:
            if name.endswith("zarr.json"):
                files.whole(name)
    return files


def _remote_files(address: str) -> StudyFiles:
    try:
        from unitlab.store.remote import RemoteFiles
    except ImportError as error:
        raise UnitlabError(f"a study at an address needs {error.name}; install unitlab with its extra 'remote'") from error
    return RemoteFiles(address.rstrip("/"))


def _local_files(folder: Path) -> LocalFiles:
    if not os.path.lexists(folder):
        _recover(folder)
    try:
        _refuse_what_is_no_study(folder)
        return LocalFiles(folder)
    except OSError as error:
        raise UnitlabError(f"{folder} cannot be read: {error.strerror} ({error.filename})") from error


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
    if ours and (folder / "prediction" / "zarr.json").exists():
        # a study has no variables beside its groups that depend on a layer
        raise UnitlabError(
            f"{folder} was written by xarray, not by unitlab: it has no manifest to compare its files with. Open it with "
            f"ds = xarray.open_zarr({str(folder)!r}) and give the dataset: unitlab.damage(ds), unitlab.explore(ds) …"
        )
    if ours:
        raise UnitlabError(f"{folder} is not whole: the file manifest.json is missing")
    raise UnitlabError(f"{folder} is a zarr store, but no study of unitlab (no attribute 'unitlab_schema')")


def _metadata(files: StudyFiles) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes of the root, and the metadata of everything below it (path → metadata), as the root holds it."""
    if "zarr.json" not in files.manifest.files:
        raise UnitlabError(f"{files.where} is not a study: it has no zarr.json")
    with as_unitlab_error(f"{files.where} is not a study: zarr.json has another layout"):
        content = json.loads(files.read("zarr.json"))
        attrs, members = content["attributes"], content["consolidated_metadata"]["metadata"]
        if not isinstance(attrs, dict) or not all(isinstance(member, dict) for member in members.values()):
            raise TypeError("attributes and members are expected as JSON objects")
    return attrs, members


def _summary(files: StudyFiles, attrs: dict[str, Any], members: Mapping[str, Any]) -> StudySummary:
    if attrs.get("unitlab_schema") != files.manifest.schema:
        raise UnitlabError(f"{files.where} is not a study: its attributes lack 'unitlab_schema'")
    layers: dict[str, list[str]] = {}
    for layer in attrs.get("layers", []):
        kinds = [name.split("/")[1] for name, member in members.items() if _is_group(member) and name.startswith(f"{layer}/")]
        layers[str(layer)] = sorted(kinds, key=lambda kind: (kind != "zero", kind))
    sizes = {}
    for name in ("category", "image"):
        if name not in members:
            raise UnitlabError(f"{files.where} lacks the variable '{name}'")
        sizes[name] = StoredArray(members[name], name, files).shape[0]
    return StudySummary(
        str(attrs.get("name", PurePosixPath(files.where).stem)), str(attrs.get("network", "")), str(attrs.get("images", "")),
        layers, sizes["category"], sizes["image"], attrs,
    )  # fmt: skip


def _is_group(member: Mapping[str, Any]) -> bool:
    return member.get("node_type") == "group"


def _stored_group(
    files: StudyFiles, attrs: dict[str, Any], members: Mapping[str, Any], key: str
) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    """Arrays and attributes of a group."""
    if key:
        if key not in members or not isinstance(members[key].get("attributes"), dict):
            raise UnitlabError(f"{files.where} is not a study: it has no group {key!r}")
        attrs = members[key]["attributes"]
    paths = [path for path, member in members.items() if path.rpartition("/")[0] == key and not _is_group(member)]
    arrays = {path.rpartition("/")[2]: StoredArray(members[path], path, files, attrs.get("result", "")) for path in paths}
    return arrays, {name: value for name, value in attrs.items() if name != "coordinates"}
