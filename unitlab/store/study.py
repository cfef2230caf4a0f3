"""A study: put together in memory, opened from disk, and checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xarray as xr
import zarr
from numcodecs.zstd import Zstd
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from unitlab import schema
from unitlab.errors import UnitlabError, nearest_names, write_failure
from unitlab.schema import SCHEMA_VERSION, VARIABLES, variable_attrs
from unitlab.store.files import Manifest, check_chunks, file_identity, read_manifest
from unitlab.store.swap import finish_swap, swap_lock

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


CODECS = {"text": ["vlen-utf8", "zstd", "crc32c"], "numbers": ["bytes", "zstd", "crc32c"], "index": ["bytes", "crc32c"]}
CHUNK_KEYS: dict[str, Any] = {"name": "default", "configuration": {"separator": "/"}}
LARGEST_CHUNK = 1 << 28
LARGEST_COORDINATE = 1 << 27
LONGEST_TEXT = 1 << 16


class StoredArray(BackendArray):
    """One variable of a store, read when asked; whatever goes wrong on the way is a `UnitlabError`."""

    def __init__(self, array: zarr.Array[Any], path: str, manifest: Manifest) -> None:
        self.array, self.path, self.manifest = array, path, manifest
        self.rows = StoredRows(array, manifest.folder / path)
        self.shape: tuple[int, ...] = array.shape
        text = VARIABLES[path.rpartition("/")[2]].kind == "T"
        self.dtype = np.dtype(object) if text else np.dtype(array.dtype)
        items = math.prod(array.chunks)
        self.chunk_bytes = min(items * LONGEST_TEXT, LARGEST_CHUNK) if text else items * self.dtype.itemsize
        self.inner_chunks = math.prod(array.shards) // items if array.shards else 0
        self.bounded: dict[str, tuple[int, int, int]] = {}

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        forward = tuple(_without_negative_step(part, size) for part, size in zip(key, self.shape, strict=True))
        files = self._files(forward[0] if forward else slice(None))
        try:
            self._bound(files)
            if forward and self.rows.can_read(forward):
                values = self.rows.rows(forward[0])
            else:
                values = np.asarray(self.array.oindex[forward])
        except Exception as error:
            self.manifest.check_same_store()
            self.manifest.check_bytes(files)
            if isinstance(error, UnitlabError):
                raise
            raise UnitlabError(
                f"{self.manifest.folder}: the variable '{self.path}' cannot be read ({type(error).__name__}: {error})"
            ) from error
        # zarr reads a chunk that is missing as the fill value, and one that belongs elsewhere without a word
        self.manifest.check_same_store()
        try:
            self.manifest.check_bytes_once(files)
        except OSError as error:
            raise UnitlabError(f"{self.manifest.folder} cannot be read any more ({error.strerror})") from error
        return values.astype(self.dtype, copy=False)

    def _bound(self, files: list[str]) -> None:
        """zarr decodes whatever a chunk unpacks to: refuse what is larger than a chunk before it does."""
        for name in files:
            path = self.manifest.folder / name
            now = file_identity(path)
            if self.bounded.get(name) != now:
                exactly = self.dtype != object
                check_chunks(
                    path, chunk_bytes=self.chunk_bytes, exactly=exactly, inner_chunks=self.inner_chunks, held=self._held(name)
                )
                self.bounded[name] = now

    def _held(self, name: str) -> int:
        """Chunks that a file holds: the last one has room for more."""
        if not self.array.shards:
            return 0
        rows, chunk_rows = self.array.shards[0], self.array.chunks[0]
        left = self.shape[0] - rows * int(name.removeprefix(f"{self.path}/c/").partition("/")[0])
        return min(rows, left + chunk_rows - 1) // chunk_rows

    def _files(self, rows: Any) -> list[str]:
        """Files that hold some of the rows; a variable is split into files along its first dimension."""
        prefix = f"{self.path}/c"
        files = self.manifest.below(prefix)
        if not self.shape or len(files) <= 1:
            return files
        outer = self.array.shards or self.array.chunks
        touched = {int(block) for block in np.unique(np.arange(self.shape[0])[rows] // outer[0])}
        return [name for name in files if int(name.removeprefix(f"{prefix}/").partition("/")[0]) in touched]


def _without_negative_step(part: Any, size: int) -> Any:
    """zarr takes no slices that run backwards."""
    if isinstance(part, slice) and (part.step or 1) < 0:
        return np.arange(size)[part]
    return part


def check_metadata(metadata: dict[str, Any], path: str, manifest: Manifest) -> None:
    """Refuse an array that unitlab cannot have written: codecs, shapes and dimensions.

    Parameters
    ----------
    metadata
        The array's zarr metadata.
    path
        Of the array inside the store.
    manifest
        Of the store.

    Raises
    ------
    UnitlabError
        Another codec than unitlab's (objects, pickles), a shape that the store's files cannot hold, other dimensions.
    """
    where = f"{manifest.folder}: the variable '{path}'"
    row = VARIABLES.get(path.rpartition("/")[2])
    if row is None:
        raise UnitlabError(f"{where} is unknown to this version of unitlab")
    try:
        shape = [int(size) for size in metadata["shape"]]
        outer = [int(size) for size in metadata["chunk_grid"]["configuration"]["chunk_shape"]]
        codecs, inner, index, at_end = metadata["codecs"], outer, CODECS["index"], True
        if [codec["name"] for codec in codecs] == ["sharding_indexed"]:
            sharding = codecs[0]["configuration"]
            inner = [int(size) for size in sharding["chunk_shape"]]
            codecs, index = sharding["codecs"], [codec["name"] for codec in sharding["index_codecs"]]
            at_end = sharding.get("index_location", "end") == "end"
        names = [codec["name"] for codec in codecs]
        dims, kind = tuple(metadata["dimension_names"]), metadata["data_type"]
        whole = (
            metadata["zarr_format"] == 3
            and metadata["chunk_grid"]["name"] == "regular"
            and metadata["chunk_key_encoding"] == CHUNK_KEYS
            and not metadata.get("storage_transformers")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnitlabError(f"{where} has metadata of another layout") from error
    if not isinstance(kind, str) or not whole:
        raise UnitlabError(f"{where} is stored in a way that unitlab does not read ({kind!r:.60})")
    expected_names = CODECS["text" if row.kind == "T" else "numbers"]
    if names != expected_names or index != CODECS["index"] or not at_end:
        raise UnitlabError(
            f"{where} is refused: it is encoded with {', '.join(map(str, names))}; unitlab reads {', '.join(expected_names)}"
        )
    if (kind == "string") != (row.kind == "T"):
        raise UnitlabError(f"{where} holds {kind!r}, which is not what unitlab writes there")
    if dims != row.dims or len(shape) != len(dims) or len(outer) != len(dims) or len(inner) != len(dims):
        raise UnitlabError(f"{where} has the dimensions {dims}, expected {row.dims}")
    items = math.prod(shape)
    if min([*shape, *inner, *outer, 1]) < 0 or 0 in outer or 0 in inner or items > 1 << 45:
        raise UnitlabError(f"{where} is refused: its shape {tuple(shape)} cannot be")
    width = 1 if kind == "string" else _width(kind, where)
    # in blocks of rows, none longer than the array
    rows = max(shape[0], 1)
    blocks = inner[1:] == outer[1:] == [max(size, 1) for size in shape[1:]] and inner[0] <= rows and outer[0] < rows + inner[0]
    large = math.prod(inner) * width > LARGEST_CHUNK or (row.coordinate and items > LARGEST_COORDINATE)
    if not blocks or outer[0] % inner[0] or large:
        raise UnitlabError(f"{where} is refused: its shape {tuple(shape)} in chunks of {tuple(inner)} is absurd")
    expected = -(-shape[0] // outer[0]) if items else 0
    there = manifest.below(f"{path}/c")
    if expected != len(there):
        raise UnitlabError(f"{where} of shape {tuple(shape)} needs {expected} files, the store has {len(there)}")
    if set(there) != {f"{path}/c/{number}{'/0' * (len(shape) - 1)}" for number in range(expected)}:
        raise UnitlabError(f"{where} is refused: its files are called otherwise than unitlab calls them")


def _width(kind: str, where: str) -> int:
    try:
        return np.dtype(kind).itemsize
    except TypeError as error:
        raise UnitlabError(f"{where} holds {kind!r}, which unitlab does not read") from error


Array = np.ndarray[Any, Any]

CHECKSUM = 4  # bytes
MISSING = np.iinfo(np.uint64).max
MOST_CHUNKS = 64  # zarr decodes many at once


class StoredRows:
    """``rows(numbers)`` of an array that is split along its first dimension alone and encoded as unitlab encodes."""

    def __init__(self, array: zarr.Array[Any], folder: Path) -> None:
        self.array, self.folder = array, folder
        sharded = array.metadata.codecs if array.metadata.zarr_format == 3 else ()
        self.supported = bool(
            array.shards
            and array.chunks[1:] == array.shards[1:] == array.shape[1:]
            and len(sharded) == 1
            and isinstance(sharded[0], ShardingCodec)
            and _kinds(sharded[0].codecs) == [BytesCodec, ZstdCodec, Crc32cCodec]
            and _kinds(sharded[0].index_codecs) == [BytesCodec, Crc32cCodec]
            and sharded[0].index_location.value == "end"
            and all(codec.endian is None or codec.endian.value == "little" for codec in _bytes_codecs(sharded[0]))
        )

    def can_read(self, key: tuple[Any, ...]) -> bool:
        """Whether the selection is of few numbered rows, each as a whole."""
        if not self.supported or isinstance(key[0], slice):
            return False
        numbers = np.asarray(key[0])
        if not numbers.size or numbers.min() < 0 or numbers.max() >= self.array.shape[0]:
            return False
        whole = all(
            isinstance(part, slice) and part.indices(size) == (0, size, 1)
            for part, size in zip(key[1:], self.array.shape[1:], strict=True)
        )
        return whole and len(np.unique(numbers // self.array.chunks[0])) <= MOST_CHUNKS

    def rows(self, numbers: Any) -> Array:
        """The row of a number, or those of several."""
        wanted = np.atleast_1d(np.asarray(numbers))
        chunk_rows = self.array.chunks[0]
        assert self.array.shards is not None
        per_shard = self.array.shards[0] // chunk_rows
        found = np.empty((len(wanted), *self.array.shape[1:]), self.array.dtype)
        chunks = wanted // chunk_rows
        for shard in np.unique(chunks // per_shard):
            inner = "/".join("0" * (self.array.ndim - 1))
            with open(self.folder / f"c/{shard}{inner and '/' + inner}", "rb") as file:
                index = _index(file, per_shard)
                for chunk in np.unique(chunks[chunks // per_shard == shard]):
                    here = chunks == chunk
                    found[here] = self._chunk(file, *index[chunk - shard * per_shard])[wanted[here] - chunk * chunk_rows]
        return found if np.ndim(numbers) else found[0]

    def _chunk(self, file: Any, offset: int, size: int) -> Array:
        if offset == MISSING:
            return np.full(self.array.chunks, self.array.fill_value, self.array.dtype)
        file.seek(int(offset))
        values = np.empty(self.array.chunks, self.array.dtype)
        Zstd().decode(_checked(file.read(int(size))), out=values.view(np.uint8))
        return values


def _index(file: Any, per_shard: int) -> Array:
    """(chunk, 2): where each chunk of a shard begins, and its bytes."""
    size = 16 * per_shard + CHECKSUM
    file.seek(-size, 2)
    return np.frombuffer(_checked(file.read(size)), "<u8").reshape(per_shard, 2)


def _checked(stored: bytes) -> bytes:
    content, checksum = stored[:-CHECKSUM], stored[-CHECKSUM:]
    if google_crc32c.value(content) != int.from_bytes(checksum, "little"):
        raise ValueError("a checksum does not match")
    return content


def _kinds(codecs: Any) -> list[type]:
    return [type(codec) for codec in codecs]


def _bytes_codecs(sharding: ShardingCodec) -> list[BytesCodec]:
    return [codec for codec in (*sharding.codecs, *sharding.index_codecs) if isinstance(codec, BytesCodec)]
