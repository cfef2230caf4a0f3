"""The shards of a sweep that is not finished: each a file that is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import filelock
import numpy as np

from unitlab.errors import UnitlabError
from unitlab.manifest import write_failure

__all__ = ["PartialStudy"]

FINGERPRINT = "fingerprint.json"
ALIGNMENT = 64


class PartialStudy:
    """Shards beside a store, in ``STORE.partial/``.

    Parameters
    ----------
    path
        The store that the shards are for.
    fingerprint
        Everything that the shards depend on. Shards of another fingerprint are refused.

    Raises
    ------
    UnitlabError
        Shards of another sweep are there (the message names what differs); another process works on them; the folder
        cannot be written.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, str]) -> None:
        self.target = Path(os.path.abspath(path))
        self.folder = self.target.with_name(f"{self.target.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.folder / ".lock")
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout as error:
                raise UnitlabError(f"another process is computing {self.target}; wait for it or give another store") from error
            self._check(dict(fingerprint))
        except OSError as error:
            raise write_failure(error, self.target) from error
        self._whole: dict[int, bool] = {}

    def _check(self, fingerprint: dict[str, str]) -> None:
        path = self.folder / FINGERPRINT
        if path.exists():
            try:
                there = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UnitlabError(f"{path} cannot be read; remove {self.folder} and start again") from error
            for field in sorted({*there, *fingerprint}):
                if there.get(field) != fingerprint.get(field):
                    self._lock.release()
                    raise UnitlabError(
                        f"{self.folder} holds an unfinished sweep with other {field} ({str(there.get(field))[:24]}, now "
                        f"{str(fingerprint.get(field))[:24]}); finish that one, remove the folder, or give another store"
                    )
        else:
            self._write(path, json.dumps(fingerprint, sort_keys=True).encode())

    def finished(self) -> list[int]:
        """Numbers of the shards that are there whole; a torn or changed one is removed."""
        found = []
        for path in sorted(self.folder.glob("shard-*.bin")):
            index = int(path.stem.partition("-")[2])
            if index not in self._whole:
                try:
                    self._header(path, check=True)
                    self._whole[index] = True
                except UnitlabError:
                    path.unlink()
                    continue
            found.append(index)
        return found

    def write(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard: to another name first, then renamed."""
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
        self._write(self._path(index), line + payload)
        self._whole[index] = True

    def read(self, index: int) -> dict[str, np.ndarray]:
        """Arrays of a shard, mapped from the file: what is not used is not read."""
        path = self._path(index)
        start, entries = self._header(path, check=index not in self._whole)
        arrays = {}
        for name, (dtype, shape, offset) in entries.items():
            kind = np.dtype(dtype)
            if int(np.prod(shape)) == 0:
                arrays[name] = np.empty(shape, kind)
            else:
                arrays[name] = np.memmap(path, kind, "r", start + offset, tuple(shape))
        return arrays

    def remove(self) -> None:
        """Remove the shards: the study is finished."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let another process go on with the shards."""
        self._lock.release()

    def _path(self, index: int) -> Path:
        return self.folder / f"shard-{index:06d}.bin"

    def _header(self, path: Path, *, check: bool) -> tuple[int, dict[str, tuple[str, list[int], int]]]:
        """Where the payload begins and what is in it."""
        try:
            with open(path, "rb") as file:
                line = file.readline()
                header = json.loads(line)
                if check:
                    payload = file.read()
                    if len(payload) != header["bytes"] or hashlib.sha256(payload).hexdigest() != header["sha256"]:
                        raise ValueError("it is cut or changed")
            return len(line), header["arrays"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnitlabError(f"the shard {path} is damaged ({error}); remove it and run the same again") from error

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise write_failure(error, self.target) from error
