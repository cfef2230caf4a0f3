"""The arrays of a store: what their metadata may say, and reads that end in data or in a `UnitlabError`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from unitlab.errors import UnitlabError
from unitlab.manifest import Manifest, file_identity
from unitlab.schema import VARIABLES
from unitlab.stored_chunks import check_chunks
from unitlab.stored_rows import StoredRows

__all__ = ["StoredArray", "check_metadata"]

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
