"""The arrays of a store: what their metadata may say, and reads that end in data or in a `UnitlabError`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from unitlab.errors import UnitlabError
from unitlab.manifest import Manifest
from unitlab.schema import VARIABLES

__all__ = ["StoredArray", "check_metadata"]

CODECS = {"bytes", "zstd", "crc32c", "vlen-utf8", "sharding_indexed"}
LARGEST_CHUNK = 1 << 28
LARGEST_COORDINATE = 1 << 27


class StoredArray(BackendArray):
    """One variable of a store, read when asked; whatever goes wrong on the way is a `UnitlabError`."""

    def __init__(self, array: zarr.Array[Any], path: str, manifest: Manifest) -> None:
        self.array, self.path, self.manifest = array, path, manifest
        self.shape: tuple[int, ...] = array.shape
        text = VARIABLES[path.rpartition("/")[2]].kind == "T"
        self.dtype = np.dtype(object) if text else np.dtype(array.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        forward = tuple(_without_negative_step(part, size) for part, size in zip(key, self.shape, strict=True))
        files = self._files(forward[0] if forward else slice(None))
        try:
            values = np.asarray(self.array.oindex[forward])
        except Exception as error:
            self.manifest.check_same_store()
            self.manifest.check_bytes(files)
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
        names = {codec["name"] for codec in metadata["codecs"]}
        inner = outer
        for codec in metadata["codecs"]:
            if codec["name"] == "sharding_indexed":
                inner = [int(size) for size in codec["configuration"]["chunk_shape"]]
                for part in ("codecs", "index_codecs"):
                    names |= {codec["name"] for codec in codec["configuration"][part]}
        dims, kind = tuple(metadata["dimension_names"]), metadata["data_type"]
        whole = metadata["zarr_format"] == 3 and not metadata.get("storage_transformers")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnitlabError(f"{where} has metadata of another layout") from error
    if not isinstance(kind, str) or not whole:
        raise UnitlabError(f"{where} is stored in a way that unitlab does not read ({kind!r:.60})")
    if unknown := names - CODECS:
        raise UnitlabError(
            f"{where} is refused: it is encoded with {sorted(map(str, unknown))}, unitlab reads {sorted(CODECS)}"
        )
    if (kind == "string") != (row.kind == "T"):
        raise UnitlabError(f"{where} holds {kind!r}, which is not what unitlab writes there")
    if dims != row.dims or len(shape) != len(dims) or len(outer) != len(dims) or len(inner) != len(dims):
        raise UnitlabError(f"{where} has the dimensions {dims}, expected {row.dims}")
    items = math.prod(shape)
    if min([*shape, *inner, *outer, 1]) < 0 or 0 in outer or 0 in inner or items > 1 << 45:
        raise UnitlabError(f"{where} is refused: its shape {tuple(shape)} cannot be")
    width = 1 if kind == "string" else _width(kind, where)
    if math.prod(inner) * width > LARGEST_CHUNK or (row.coordinate and items > LARGEST_COORDINATE):
        raise UnitlabError(f"{where} is refused: its shape {tuple(shape)} in chunks of {tuple(inner)} is absurd")
    expected = math.prod(-(-size // chunk) for size, chunk in zip(shape, outer, strict=True))
    there = len(manifest.below(f"{path}/c"))
    if expected != there:
        raise UnitlabError(f"{where} of shape {tuple(shape)} needs {expected} files, the store has {there}")


def _width(kind: str, where: str) -> int:
    try:
        return np.dtype(kind).itemsize
    except TypeError as error:
        raise UnitlabError(f"{where} holds {kind!r}, which unitlab does not read") from error
