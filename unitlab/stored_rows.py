"""Single rows of a sharded array straight from its files: zarr takes a millisecond for every chunk, this a tenth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

__all__ = ["StoredRows"]

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
