"""The shards of a sweep that is not finished: each a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from unitlab.errors import UnitlabError, write_failure
from unitlab.files import write_whole

FINGERPRINT = "fingerprint.json"
REPLACEMENTS = "replacements.bin"


def shard_folder(store: str | Path) -> Path:
    """Where the shards of a store are while it is computed: ``STORE.partial/``."""
    target = Path(os.path.abspath(store))
    return target.with_name(f"{target.name}.partial")


class JoinedStudy:
    """A sweep's folder as a worker sees it, which writes shards there while the sweep's own process holds the lock.

    Parameters
    ----------
    folder
        What `shard_folder` says; on a file system that the workers share.
    fingerprint
        Of the sweep that the worker computes for.

    Raises
    ------
    UnitlabError
        The folder is not there, as seen from here, or belongs to another sweep.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, str]) -> None:
        self.folder, self.fingerprint = folder, dict(fingerprint)
        self.check_fingerprint()

    def check_fingerprint(self) -> None:
        """Raise where the folder is not this sweep's, or not any more."""
        try:
            there = json.loads((self.folder / FINGERPRINT).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UnitlabError(
                f"the folder {self.folder} of the sweep is not there for the worker on {socket.gethostname()}: the sweep has "
                "ended, or they share no file system; give a store on one that all of them see under the same path"
            ) from error
        except (OSError, ValueError) as error:
            raise UnitlabError(f"{self.folder / FINGERPRINT} cannot be read; remove {self.folder} and start again") from error
        differing = differing_field(there, self.fingerprint)
        if differing is not None:
            raise UnitlabError(f"{self.folder} holds an unfinished sweep with other {differing}")

    def write(self, index: int, arrays: Mapping[str, Any]) -> None:
        """Write a shard; not where the sweep has ended or changed meanwhile."""
        self.check_fingerprint()
        write_shard(_path(self.folder, index), arrays, self.check_fingerprint)

    def read_replacements(self) -> dict[str, ShardArray] | None:
        """What `PartialStudy.write_replacements` wrote."""
        return _replacements(self.folder)


class PartialStudy:
    """Shards beside a store, in ``STORE.partial/``, held by one process at a time.

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
        self.folder = shard_folder(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.folder / ".lock")
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout as error:
                raise UnitlabError(f"another process is computing {self.target}; wait for it or give another store") from error
            try:
                self._check(dict(fingerprint))
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise write_failure(error, self.target) from error
        self._whole: set[int] = set()

    def _check(self, fingerprint: dict[str, str]) -> None:
        path = self.folder / FINGERPRINT
        if not path.exists():
            write_file(path, json.dumps(fingerprint, sort_keys=True).encode())
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UnitlabError(f"{path} cannot be read; remove {self.folder} and start again") from error
        field = differing_field(there, fingerprint)
        if field is not None:
            raise UnitlabError(
                f"{self.folder} holds an unfinished sweep with other {field} ({str(there.get(field))[:24]}, now "
                f"{str(fingerprint.get(field))[:24]}); finish that one, remove the folder, or give another store"
            )

    def finished(self) -> list[int]:
        """Numbers of the shards that are there whole; a torn or changed one is removed."""
        found = []
        for path in sorted(self.folder.glob("shard-*.bin")):
            index = int(path.stem.partition("-")[2])
            if index not in self._whole:
                try:
                    read_shard(path, check=True)
                    self._whole.add(index)
                except UnitlabError:
                    path.unlink()
                    continue
            found.append(index)
        return found

    def has(self, index: int) -> bool:
        """Whether a shard is there whole."""
        if index not in self._whole and _path(self.folder, index).exists():
            read_shard(_path(self.folder, index), check=True)
            self._whole.add(index)
        return index in self._whole

    def write(self, index: int, arrays: Mapping[str, Any]) -> None:
        """Write a shard."""
        write_shard(_path(self.folder, index), arrays)
        self._whole.add(index)

    def read(self, index: int) -> dict[str, ShardArray]:
        """Arrays of a shard: what is not used is not read."""
        return read_shard(_path(self.folder, index), check=index not in self._whole)

    def write_replacements(self, arrays: Mapping[str, Any]) -> None:
        """Keep what units are replaced by, so that every shard is computed with the same."""
        write_shard(self.folder / REPLACEMENTS, arrays)

    def read_replacements(self) -> dict[str, ShardArray] | None:
        """What `write_replacements` wrote; None where there is nothing yet."""
        return _replacements(self.folder)

    def remove(self) -> None:
        """Remove the shards: the study is finished."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let another process go on with the shards."""
        self._lock.release()


def finished_shards(store: str | Path, fingerprint: Mapping[str, str]) -> list[int]:
    """Numbers of the shards that an interrupted sweep of this fingerprint has left; their bytes are not checked."""
    folder = shard_folder(store)
    try:
        there = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if differing_field(there, fingerprint) is not None:
        return []
    return sorted(int(path.stem.partition("-")[2]) for path in folder.glob("shard-*.bin"))


def remove_left_shards(store: str | Path, fingerprint: Mapping[str, str]) -> None:
    """Remove the shards of a finished study, where its sweep was killed before it did; those of another sweep stay."""
    if shard_folder(store).exists():
        with contextlib.suppress(UnitlabError):
            PartialStudy(store, fingerprint).remove()


def differing_field(there: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str | None:
    """The first field in which two fingerprints differ."""
    fields = sorted({*there, *fingerprint})
    return next((field for field in fields if there.get(field) != fingerprint.get(field)), None)


def _path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:06d}.bin"


def _replacements(folder: Path) -> dict[str, ShardArray] | None:
    path = folder / REPLACEMENTS
    return read_shard(path, check=True) if path.exists() else None


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
    try:
        write_whole(path, content, confirm)
    except OSError as error:
        raise write_failure(error, path) from error
