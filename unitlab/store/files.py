"""A study's files as a zarr store: each is compared with the manifest (size and SHA-256) when it is first read."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from unitlab.errors import UnitlabError
from unitlab.progress import shown_progress

MANIFEST = "manifest.json"
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")  # what zarr looks for, of its formats


@dataclass(frozen=True)
class Manifest:
    """What a study consists of: file (path inside the study) → size in bytes and SHA-256."""

    schema: int
    files: dict[str, tuple[int, str]]
    digest: str

    @classmethod
    def parse(cls, text: bytes, where: str) -> Manifest:
        """The manifest that a file holds, itself checked."""
        try:
            content = json.loads(text)
            digest = content["digest"]
            whole = digest == _digest({key: value for key, value in content.items() if key != "digest"})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnitlabError(f"{where} is damaged: the file {MANIFEST} cannot be read") from error
        if not whole:
            raise UnitlabError(f"{where} is damaged: the file {MANIFEST} is not what was written")
        try:
            files = {str(name): (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
            schema = int(content["unitlab_schema"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnitlabError(f"{where} is no study of unitlab: its {MANIFEST} has another layout") from error
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
                raise UnitlabError(f"{where} is refused: its {MANIFEST} names {name!r}, which is outside of the store")
        return cls(schema, files, str(digest))


class StudyFiles(WrapperStore[Store]):
    """Hands zarr nothing but what the manifest says; whatever goes wrong on the way is a `UnitlabError`.

    Parameters
    ----------
    store
        Zarr's own store of the same files.
    where
        Folder or address, for messages.
    manifest
        Of the study.
    """

    remedy = "copy the study again, or compute it again"

    def __init__(self, store: Store, where: str, manifest: Manifest) -> None:
        super().__init__(store)
        self.where, self.manifest = where, manifest

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key in self.manifest.files:
            return prototype.buffer.from_bytes(await asyncio.to_thread(self.read, key, byte_range))
        if key.rpartition("/")[2] in METADATA:
            return None
        # zarr would go on with the fill value
        raise UnitlabError(f"{self.where} is not whole: the file {key} is missing")

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]) -> Any:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    _get_many = Store._get_many  # through `get`, where the wrapper would ask the store that it wraps

    def read(self, name: str, part: ByteRequest | None = None) -> bytes:
        """A file, or part of it, as it was written."""
        return part_of(io.BytesIO(self.whole(name)), part)

    def whole(self, name: str) -> bytes:
        """A file, compared with the manifest."""
        content = self._fetched(name)
        size, digest = self.manifest.files[name]
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise UnitlabError(
                f"{self.where} is damaged: the bytes of the file {name} are not those that were written; {self.remedy}"
            )
        return content

    def check(self, progress: bool = False) -> None:
        """Compare every byte; raise where a file is not what was written."""
        for name in shown_progress(list(self.manifest.files), "comparing every byte", progress, " files"):
            self.whole(name)

    def _fetched(self, name: str) -> bytes:
        raise NotImplementedError


class LocalFiles(StudyFiles):
    """Files in a folder; compared again once they were written anew."""

    def __init__(self, folder: Path) -> None:
        if (folder / MANIFEST).is_symlink():
            raise _link(str(folder), MANIFEST)
        self._opened = _identity(os.stat(folder / MANIFEST))
        super().__init__(LocalStore(folder, read_only=True), str(folder), read_manifest(folder))
        self._compared: dict[str, tuple[int, int, int]] = {}

    def read(self, name: str, part: ByteRequest | None = None) -> bytes:
        self._check_same_study()
        identity = None
        try:
            with open(f"{self.where}/{name}", "rb") as file:
                identity = _identity(os.fstat(file.fileno()))
                if self._compared.get(name) == identity:
                    return part_of(file, part)
        except OSError:
            pass  # told by what follows
        content = self.whole(name)
        if identity is not None:
            self._compared[name] = identity
        return part_of(io.BytesIO(content), part)

    def check_presence(self, names: Iterable[str] | None = None) -> None:
        """Raise where a file is missing, cut, or no plain file inside the folder."""
        folders: set[str] = set()
        for name in self.manifest.files if names is None else names:
            parent = name.rpartition("/")[0]
            while parent and parent not in folders:
                folders.add(parent)
                if os.path.islink(f"{self.where}/{parent}"):
                    raise _link(self.where, parent)
                parent = parent.rpartition("/")[0]
            try:
                found = os.lstat(f"{self.where}/{name}")
            except OSError as error:
                raise UnitlabError(f"{self.where} is not whole: the file {name} is missing ({error.strerror})") from error
            if stat.S_ISLNK(found.st_mode):
                raise _link(self.where, name)
            if not stat.S_ISREG(found.st_mode):
                raise UnitlabError(f"{self.where} is not a study: {name} is no plain file")
            size = self.manifest.files[name][0]
            if found.st_size != size:
                raise UnitlabError(
                    f"{self.where} is not whole: the file {name} has {found.st_size} bytes, {size} were written; {self.remedy}"
                )

    def _fetched(self, name: str) -> bytes:
        self.check_presence([name])
        try:
            return Path(self.where, name).read_bytes()
        except OSError as error:
            raise UnitlabError(f"{self.where}: the file {name} cannot be read ({error.strerror})") from error

    def _check_same_study(self) -> None:
        """Raise where another study was put in this one's place since the manifest was read."""
        folder = Path(self.where)
        try:
            same = _identity(os.stat(folder / MANIFEST)) == self._opened
            same = same or read_manifest(folder).digest == self.manifest.digest
        except OSError as error:
            raise UnitlabError(f"{folder} is gone or cannot be read any more ({error.strerror})") from error
        if not same:
            raise UnitlabError(f"{folder} was written anew since it was opened; load it again")


def part_of(file: BinaryIO, wanted: ByteRequest | None) -> bytes:
    """What zarr asks of a file."""
    match wanted:
        case RangeByteRequest(start, end):
            file.seek(start)
            return file.read(end - start)
        case OffsetByteRequest(offset):
            file.seek(offset)
        case SuffixByteRequest(suffix):
            file.seek(-suffix, os.SEEK_END)
    return file.read()


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    """Inode, size and time of the last change: what differs once a file is written anew."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def _link(where: str, name: str) -> UnitlabError:
    return UnitlabError(f"{where} is refused: {name} is a symbolic link, which a study never holds")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a study in a folder; ``FileNotFoundError`` where there is none."""
    return Manifest.parse((folder / MANIFEST).read_bytes(), str(folder))


def write_manifest(folder: Path, schema: int) -> None:
    """Write the manifest of all files in ``folder``, through to the disk."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files: dict[str, Any] = {}
    for name in names:
        if name != MANIFEST:
            with open(folder / name, "rb") as file:
                files[name] = [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    content: dict[str, Any] = {"unitlab_schema": schema, "files": files}
    content["digest"] = _digest(content)
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=0, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
