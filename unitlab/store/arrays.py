"""The variables of a study as arrays that are read when they are looked at, in no encoding but unitlab's own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from numcodecs.zstd import Zstd
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, VLenUTF8Codec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer

from unitlab.errors import UnitlabError, what_it_says
from unitlab.schema import RESULTS, VARIABLES, Variable
from unitlab.store.files import StudyFiles

CACHED_BYTES = 4 << 20  # a variable up to this size is kept once it was read
# far above what unitlab writes (128 kB a chunk), and what a reader's memory bears
LARGEST_CHUNK = 1 << 28
LARGEST_COORDINATE = 1 << 27
LONGEST_TEXT = 1 << 16


@contextmanager
def as_unitlab_error(what: str) -> Iterator[None]:
    """Whatever else goes wrong, at zarr or in what somebody made of a file, is told as a `UnitlabError`."""
    try:
        yield
    except UnitlabError:
        raise
    except Exception as error:
        raise UnitlabError(f"{what} ({what_it_says(error)})") from error


class LazyArray(BackendArray):
    """What xarray reads when it is looked at, by the interface that its guide for backends describes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self.read)

    def read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        """The part that an outer index selects, one number, list of numbers or slice a dimension."""
        raise NotImplementedError

    def whole(self) -> np.ndarray[Any, Any]:
        """All of it."""
        return self.read((slice(None),) * len(self.shape))


def lazy(array: LazyArray) -> Any:
    """Data of a variable: copied before it is assigned to, and kept once it was read, where it is small."""
    read_late: Any = indexing.LazilyIndexedArray(array)
    data = indexing.CopyOnWriteArray(read_late)
    small = array.dtype.itemsize * math.prod(array.shape) <= CACHED_BYTES
    return indexing.MemoryCachedArray(data) if small else data


class StoredArray(LazyArray):
    """One variable of a study, or of a ``result`` such as "groups", read by zarr; what goes wrong is a `UnitlabError`."""

    def __init__(self, metadata: dict[str, Any], path: str, files: StudyFiles, result: str = "") -> None:
        self.metadata, self.path, self.files, self.result = metadata, path, files, result
        with as_unitlab_error(f"{files.where}: the variable '{path}' cannot be opened"):
            accepted: Any = _zarr_metadata(metadata, path, files, RESULTS.get(result, VARIABLES))
            self.array = zarr.Array(zarr.AsyncArray(accepted, zarr.storage.StorePath(files, path)))
        self.shape = self.array.shape
        self.dtype = np.dtype(object) if metadata["data_type"] == "string" else np.dtype(self.array.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        # zarr would take its own codecs in the place of those here
        return StoredArray, (self.metadata, self.path, self.files, self.result)

    def read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        with as_unitlab_error(f"{self.files.where}: the variable '{self.path}' cannot be read"):
            return np.asarray(self.array.oindex[key]).astype(self.dtype, copy=False)


class SelectedRows(LazyArray):
    """Some rows of a variable: a layer keeps those of all its units, an ablation may have been done to some of them."""

    def __init__(self, array: StoredArray, rows: np.ndarray[Any, Any]) -> None:
        self.array, self.rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        return self.array.read((self.rows[key[0]], *key[1:]))


class BoundedZstd(ZstdCodec):
    """Decodes into the room that the chunk has: zarr's own decodes whatever a small file unpacks to."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        dtype, items = chunk_spec.dtype.to_native_dtype(), math.prod(chunk_spec.shape)
        text = dtype.kind not in "iufb"
        room = np.zeros(min(items * LONGEST_TEXT, LARGEST_CHUNK) if text else items * dtype.itemsize, np.uint8)
        await asyncio.to_thread(Zstd().decode, chunk_bytes.as_numpy_array(), room)
        return chunk_spec.prototype.buffer.from_array_like(room)


def _zarr_metadata(metadata: dict[str, Any], path: str, files: StudyFiles, table: Mapping[str, Variable]) -> dict[str, Any]:
    """Metadata of an array, with the codecs that unitlab writes; refused where unitlab cannot have written it.

    Parameters
    ----------
    metadata
        The array's zarr metadata.
    path
        Of the array inside the store.
    files
        Of the store.
    table
        The variables that there may be.

    Raises
    ------
    UnitlabError
        Another codec than unitlab's (objects, pickles), a shape that the store's files cannot hold, other dimensions.
    """
    where = f"{files.where}: the variable '{path}'"
    row = table.get(path.rpartition("/")[2])
    if row is None:
        raise UnitlabError(f"{where} is unknown to this version of unitlab")
    shape, outer, kind = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"], metadata["data_type"]
    dims, codecs, inner = tuple(metadata["dimension_names"]), metadata["codecs"], outer
    sharded = [codec["name"] for codec in codecs] == ["sharding_indexed"]
    if sharded:
        inner, codecs = codecs[0]["configuration"]["chunk_shape"], codecs[0]["configuration"]["codecs"]
    names = [str(codec["name"]) for codec in codecs]
    text = "T" in row.kind and (row.kind == "T" or kind == "string")
    expected = ["vlen-utf8" if text else "bytes", "zstd", "crc32c"]
    if names != expected:
        raise UnitlabError(f"{where} is refused: it is encoded with {', '.join(names)}; unitlab reads {', '.join(expected)}")
    if not isinstance(kind, str) or (kind == "string") != text:
        raise UnitlabError(f"{where} holds {kind!r:.60}, which is not what unitlab writes there")
    if dims != row.dims or not len(shape) == len(dims) == len(outer) == len(inner):
        raise UnitlabError(f"{where} has the dimensions {dims}, expected {row.dims}")
    # in blocks of rows, none longer than the array, in files that hold at least the places of their chunks
    there = {name: size for name, (size, _) in files.manifest.files.items() if name.startswith(f"{path}/c/")}
    rows, row_shape = max(shape[0], 1), [max(size, 1) for size in shape[1:]]
    blocks = inner[1:] == outer[1:] == row_shape and 0 < inner[0] <= rows and inner[0] <= outer[0] < rows + inner[0]
    large = math.prod(inner) * (1 if text else np.dtype(kind).itemsize) > LARGEST_CHUNK
    large = large or (row.coordinate and math.prod(shape) > LARGEST_COORDINATE)
    if not blocks or large or (sharded and 16 * outer[0] // inner[0] > min(there.values(), default=0)):
        raise UnitlabError(f"{where} is refused: its shape {tuple(shape)} in chunks of {tuple(inner)} is absurd")
    count = -(-shape[0] // outer[0]) if math.prod(shape) else 0
    if len(there) != count or set(there) != {f"{path}/c/{number}{'/0' * len(row_shape)}" for number in range(count)}:
        raise UnitlabError(
            f"{where} of shape {tuple(shape)} needs {count} files; the store has {len(there)}, or calls them otherwise"
        )
    own = [VLenUTF8Codec() if text else BytesCodec.from_dict(codecs[0]), BoundedZstd(), Crc32cCodec()]
    return {**metadata, "codecs": [ShardingCodec(chunk_shape=tuple(inner), codecs=own)] if sharded else own}
