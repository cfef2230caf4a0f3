"""The shards of a sweep that is not finished: each a file, of safetensors, that is there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from unitlab.errors import UnitlabError, before_and_now, write_failure
from unitlab.files import write_whole

FINGERPRINT = "fingerprint.json"
PARTIAL = ".partial"
REPLACEMENTS = "replacements.safetensors"
RULES = "screen-{}.safetensors"
# in the place of a file's SHA-256 while that is taken
UNKNOWN = b"0" * 64

log = logging.getLogger("unitlab")


def shard_folder(store: str | Path) -> Path:
    """Where the shards of a store are while it is computed: ``STORE.partial/``."""
    target = Path(os.path.abspath(store))
    return target.with_name(f"{target.name}{PARTIAL}")


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
        self._whole: set[int] = set()
        self.check_fingerprint()

    def check_fingerprint(self) -> None:
        """Raise where the folder is not this sweep's, or not any more."""
        path = self.folder / FINGERPRINT
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UnitlabError(
                f"the folder {self.folder} of the sweep is not there for the worker on {socket.gethostname()}: the sweep has "
                "ended, or they share no file system; give a store on one that all of them see under the same path"
            ) from error
        except (OSError, ValueError) as error:
            raise UnitlabError(f"{path} cannot be read; remove {self.folder} and start again") from error
        field = differing_field(there, self.fingerprint)
        if field is not None:
            values = before_and_now(there.get(field), self.fingerprint.get(field))
            raise UnitlabError(
                f"{self.folder} holds an unfinished sweep with other {field}{values}; finish that one, remove the folder, or "
                "give another store"
            )

    def finished(self) -> list[int]:
        """Numbers of the shards that are there whole; a torn or changed one is removed."""
        found = []
        for index in _indices(self.folder):
            try:
                self.has(index)
                found.append(index)
            except UnitlabError:
                _path(self.folder, index).unlink()
        return found

    def has(self, index: int) -> bool:
        """Whether a shard is there, and whole."""
        if index not in self._whole and _path(self.folder, index).exists():
            read_shard(_path(self.folder, index), check=True)
            self._whole.add(index)
        return index in self._whole

    def write(self, index: int, arrays: Mapping[str, Any]) -> None:
        """Write a shard; not where the sweep has ended or changed meanwhile."""
        self.check_fingerprint()
        write_shard(_path(self.folder, index), arrays, self.check_fingerprint)
        self._whole.add(index)

    def read(self, index: int) -> dict[str, ShardArray]:
        """Arrays of a shard: what is not used is not read."""
        return read_shard(_path(self.folder, index), check=index not in self._whole)

    def write_replacements(self, arrays: Mapping[str, Any]) -> None:
        """Keep what units are replaced by, so that every shard is computed with the same."""
        write_shard(self.folder / REPLACEMENTS, arrays)

    def read_replacements(self) -> dict[str, ShardArray] | None:
        """What `write_replacements` wrote; None where there is nothing yet."""
        path = self.folder / REPLACEMENTS
        return read_shard(path, check=True) if path.exists() else None

    def write_rules(self, attempt: int, arrays: Mapping[str, Any]) -> None:
        """Keep which pairs an attempt of a screened sweep evaluates, so that every shard is computed by the same rules."""
        write_shard(self.folder / RULES.format(attempt), arrays)

    def read_rules(self, attempt: int) -> dict[str, ShardArray] | None:
        """What `write_rules` wrote; None where there is nothing yet."""
        path = self.folder / RULES.format(attempt)
        return read_shard(path, check=True) if path.exists() else None


class PartialStudy(JoinedStudy):
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
        folder = shard_folder(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(folder / ".lock")
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UnitlabError(f"another process is computing {self.target}; wait for it or give another store") from error
        except OSError as error:
            raise write_failure(error, self.target) from error
        try:
            if not (folder / FINGERPRINT).exists():
                write_file(folder / FINGERPRINT, json.dumps(dict(fingerprint), sort_keys=True).encode())
            super().__init__(folder, fingerprint)
            self._leave_out_older_shards()
        except BaseException:
            self._lock.release()
            raise

    def _leave_out_older_shards(self) -> None:
        """Older versions wrote shards, and what units are replaced by, in a format of their own."""
        older = list(self.folder.glob("*.bin"))
        for path in older:
            path.unlink()
        if older:
            log.warning(
                "shards of an older version of unitlab are removed from %s: the sweep that was cut off starts again",
                self.folder,
            )

    def remove(self) -> None:
        """Remove the shards: the study is finished."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let another process go on with the shards."""
        self._lock.release()


class HeldShards:
    """Shards of a sweep without a store, in memory; as `PartialStudy` has them on disk."""

    def __init__(self) -> None:
        self.held: dict[int, dict[str, Any]] = {}
        self.replacements: dict[str, Any] | None = None
        self.rules: dict[int, dict[str, Any]] = {}

    def finished(self) -> list[int]:
        return sorted(self.held)

    def write(self, index: int, arrays: dict[str, Any]) -> None:
        self.held[index] = arrays

    def read(self, index: int) -> dict[str, Any]:
        return self.held[index]

    def write_replacements(self, arrays: dict[str, Any]) -> None:
        self.replacements = arrays

    def read_replacements(self) -> dict[str, Any] | None:
        return self.replacements

    def write_rules(self, attempt: int, arrays: dict[str, Any]) -> None:
        self.rules[attempt] = arrays

    def read_rules(self, attempt: int) -> dict[str, Any] | None:
        return self.rules.get(attempt)


Shards = JoinedStudy | HeldShards


def finished_shards(store: str | Path, fingerprint: Mapping[str, str]) -> list[int]:
    """Numbers of the shards that an interrupted sweep of this fingerprint has left; their bytes are not checked."""
    try:
        return _indices(JoinedStudy(shard_folder(store), fingerprint).folder)
    except UnitlabError:
        return []


def unfinished_images(store: str | Path) -> tuple[int, int]:
    """How many images the unfinished sweep beside a store has done, and of how many."""
    known = unfinished_fingerprint(store)
    count, shard = (int(known.get(field, 0)) for field in ("count", "shard"))
    return min(count, len(_indices(shard_folder(store))) * shard), count


def unfinished_fingerprint(store: str | Path) -> dict[str, Any]:
    """Of the sweep whose shards are beside a store; empty where there is none that can be read."""
    try:
        return dict(json.loads((shard_folder(store) / FINGERPRINT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


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
    return folder / f"shard-{index:06d}.safetensors"


def _indices(folder: Path) -> list[int]:
    return sorted(int(path.stem.partition("-")[2]) for path in folder.glob("shard-*.safetensors"))


class ShardArray:
    """An array in a file, read when it is indexed by rows or taken by numpy.

    No file stays open or mapped between reads: a long sweep has more shards than a process may have open files.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype

    def __getitem__(self, rows: slice) -> np.ndarray[Any, Any]:
        first, last, step = rows.indices(self.shape[0])
        if step != 1 or first >= last:
            return np.asarray(self)[rows]
        with _opened(self.path) as file:
            return file.get_slice(self.name)[first:last]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        with _opened(self.path) as file:
            values = file.get_tensor(self.name)
        return values if dtype is None else values.astype(dtype)


def write_shard(path: Path, arrays: Mapping[str, Any], confirm: Callable[[], None] = lambda: None) -> None:
    """Write arrays to a file; ``confirm`` is called before the file gets its name and may refuse."""
    from safetensors.numpy import save  # here: who only reads studies may have none

    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, {"sha256": UNKNOWN.decode()})
    digest = hashlib.sha256(content).hexdigest().encode()
    write_file(path, content.replace(UNKNOWN, digest, 1), confirm)


def read_shard(path: Path, *, check: bool) -> dict[str, ShardArray]:
    """Arrays of a file, read when they are used; with ``check`` the whole file is compared with its checksum first."""
    with _opened(path) as file:
        if check:
            content, digest = path.read_bytes(), str((file.metadata() or {}).get("sha256")).encode()
            if hashlib.sha256(content.replace(digest, UNKNOWN, 1)).hexdigest().encode() != digest:
                raise _damaged(path, "it is cut or changed")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: ShardArray(path, name, tuple(found.get_shape()), _dtype(found.get_dtype())) for name, found in slices.items()
        }


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise UnitlabError(f"the shard {path} cannot be read ({error.strerror or error})") from error


def _damaged(path: Path, why: object) -> UnitlabError:
    return UnitlabError(f"the shard {path} is damaged ({why}); remove it and run the same again")


def _dtype(name: str) -> np.dtype[Any]:
    """numpy's name of a type that safetensors calls "F16", "I32", "BOOL" …"""
    return np.dtype("?" if name == "BOOL" else f"{name[0].lower()}{int(name[1:]) // 8}")


def write_file(path: Path, content: bytes, confirm: Callable[[], None] = lambda: None) -> None:
    """Write a file under another name, through to the disk, then rename it: several machines may try at once."""
    try:
        write_whole(path, content, confirm)
    except OSError as error:
        raise write_failure(error, path) from error
