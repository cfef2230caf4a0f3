"""Files of named arrays with a checksum: written whole or not at all, read a block of rows at a time."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unitlab.errors import UnitlabError
from unitlab.manifest import write_failure

__all__ = ["ShardArray", "read_shard", "write_file", "write_shard"]

ALIGNMENT = 64


class ShardArray:
    """An array in a file, read when it is indexed by rows or taken by numpy.

    No file stays open or mapped between reads: a long sweep has more shards than a process may have open files.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.offset, self.shape, self.dtype = path, offset, shape, dtype

    def __getitem__(self, rows: int | slice) -> np.ndarray[Any, Any]:
        numbers = range(self.shape[0])[rows]
        if isinstance(numbers, int):
            return self._read(numbers, 1)[0]
        if numbers.step != 1:
            return np.asarray(self)[rows]
        return self._read(numbers.start, len(numbers))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        values = self._read(0, self.shape[0]) if self.shape else self._read(0, 1).reshape(())
        return values if dtype is None else values.astype(dtype)

    def _read(self, first: int, count: int) -> np.ndarray[Any, Any]:
        row = int(np.prod(self.shape[1:], dtype=np.int64))
        start = self.offset + first * row * self.dtype.itemsize
        try:
            values = np.fromfile(self.path, self.dtype, count * row, offset=start)
        except OSError as error:
            raise UnitlabError(f"the shard {self.path} cannot be read ({error.strerror})") from error
        if values.size != count * row:
            raise UnitlabError(f"the shard {self.path} is cut; remove it and run the same again")
        return values.reshape(count, *self.shape[1:])


def write_shard(path: Path, arrays: Mapping[str, Any], confirm: Callable[[], None] = lambda: None) -> None:
    """Write arrays to a file; ``confirm`` is called before the file gets its name and may refuse."""
    entries, parts, offset = {}, [], 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        padding = -offset % ALIGNMENT
        entries[name] = [array.dtype.str, list(np.shape(arrays[name])), offset + padding]
        parts += [bytes(padding), array.tobytes()]
        offset += padding + array.nbytes
    payload = b"".join(parts)
    header = json.dumps({"arrays": entries, "sha256": hashlib.sha256(payload).hexdigest(), "bytes": len(payload)})
    line = header.encode()
    line += b" " * (-(len(line) + 1) % ALIGNMENT) + b"\n"
    write_file(path, line + payload, confirm)


def read_shard(path: Path, *, check: bool) -> dict[str, ShardArray]:
    """Arrays of a file, read when they are used; with ``check`` the whole file is compared with its checksum first."""
    try:
        with open(path, "rb") as file:
            line = file.readline()
            header = json.loads(line)
            if check:
                payload = file.read()
                if len(payload) != header["bytes"] or hashlib.sha256(payload).hexdigest() != header["sha256"]:
                    raise ValueError("it is cut or changed")
        return {
            name: ShardArray(path, len(line) + offset, tuple(shape), np.dtype(dtype))
            for name, (dtype, shape, offset) in header["arrays"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnitlabError(f"the shard {path} is damaged ({error}); remove it and run the same again") from error


def write_file(path: Path, content: bytes, confirm: Callable[[], None] = lambda: None) -> None:
    """Write a file under another name, through to the disk, then rename it: several machines may try at once."""
    temporary = path.with_name(f"{path.stem}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            confirm()
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_failure(error, path) from error
