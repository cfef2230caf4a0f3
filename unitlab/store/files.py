"""The manifest of a store: size and SHA-256 of every file, and a digest of the list itself."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from unitlab.errors import UnitlabError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a store consists of: file (path inside the store) → size in bytes and SHA-256."""

    folder: Path
    schema: int
    files: dict[str, tuple[int, str]]
    digest: str
    identity: tuple[int, int, int]
    compared: dict[str, tuple[int, int, int]] = field(default_factory=dict, compare=False)

    def check_presence(self, files: Iterable[str] | None = None) -> None:
        """Raise where a file is missing, cut, or no plain file inside the store."""
        folders: set[str] = set()
        for name in self.files if files is None else files:
            parent = name.rpartition("/")[0]
            while parent and parent not in folders:
                folders.add(parent)
                self._refuse_link(parent, os.path.islink(f"{self.folder}/{parent}"))
                parent = parent.rpartition("/")[0]
            try:
                found = os.lstat(f"{self.folder}/{name}")
            except OSError as error:
                raise UnitlabError(f"{self.folder} is not whole: the file {name} is missing ({error.strerror})") from error
            self._refuse_link(name, stat.S_ISLNK(found.st_mode))
            if not stat.S_ISREG(found.st_mode):
                raise UnitlabError(f"{self.folder} is not a study: {name} is no plain file")
            size = self.files[name][0]
            if found.st_size != size:
                raise UnitlabError(
                    f"{self.folder} is not whole: the file {name} has {found.st_size} bytes, {size} were written; "
                    "copy the study again, or compute it again"
                )

    def check_bytes(self, files: Iterable[str] | None = None) -> None:
        """Raise where a file is not what was written."""
        for name in self.files if files is None else files:
            self.check_presence([name])
            try:
                found = file_sha256(self.folder / name)
            except OSError as error:
                raise UnitlabError(f"{self.folder}: the file {name} cannot be read ({error.strerror})") from error
            if found != self.files[name][1]:
                raise UnitlabError(
                    f"{self.folder} is damaged: the bytes of the file {name} are not those that were written; "
                    "copy the study again, or compute it again"
                )

    def check_bytes_once(self, files: Iterable[str]) -> None:
        """`check_bytes` of the files that were not compared before, or that have changed since."""
        for name in files:
            self.check_presence([name])
            now = file_identity(self.folder / name)
            if self.compared.get(name) != now:
                self.check_bytes([name])
                self.compared[name] = now

    def below(self, folder: str) -> list[str]:
        """Files under a folder of the store."""
        return [name for name in self.files if name.startswith(f"{folder}/")]

    def check_same_store(self) -> None:
        """Raise where another study was put in this one's place since the manifest was read."""
        try:
            same = file_identity(self.folder / MANIFEST) == self.identity
            same = same or read_manifest(self.folder).digest == self.digest
        except OSError as error:
            raise UnitlabError(f"{self.folder} is gone or cannot be read any more ({error.strerror})") from error
        if not same:
            raise UnitlabError(f"{self.folder} was written anew since it was opened; load it again")

    def _refuse_link(self, name: str, is_link: bool) -> None:
        if is_link:
            raise UnitlabError(f"{self.folder} is refused: {name} is a symbolic link, which a study never holds")


def file_identity(path: Path) -> tuple[int, int, int]:
    """Inode, size and time of the last change: what differs once a file is written anew."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, schema: int) -> None:
    """Write the manifest of all files in ``folder``, through to the disk."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: [(folder / name).stat().st_size, file_sha256(folder / name)] for name in names if name != MANIFEST}
    content: dict[str, Any] = {"unitlab_schema": schema, "files": files}
    content["digest"] = _digest(content)
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=0, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store, itself checked; ``FileNotFoundError`` where there is none."""
    if (folder / MANIFEST).is_symlink():
        raise UnitlabError(f"{folder} is refused: {MANIFEST} is a symbolic link, which a study never holds")
    identity = file_identity(folder / MANIFEST)
    text = (folder / MANIFEST).read_bytes()
    try:
        content = json.loads(text)
        digest = content["digest"]
        whole = digest == _digest({key: value for key, value in content.items() if key != "digest"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnitlabError(f"{folder} is damaged: the file {MANIFEST} cannot be read") from error
    if not whole:
        raise UnitlabError(f"{folder} is damaged: the file {MANIFEST} is not what was written")
    try:
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
        schema = int(content["unitlab_schema"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnitlabError(f"{folder} is no study of unitlab: its {MANIFEST} has another layout") from error
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
            raise UnitlabError(f"{folder} is refused: its {MANIFEST} names {name!r}, which is outside of the store")
    return Manifest(folder, schema, files, str(digest), identity)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


ZSTD_FRAME = 0xFD2FB528
CHECKSUM = 4
ABSENT = (2**64 - 1, 2**64 - 1)


def check_chunks(path: Path, *, chunk_bytes: int, exactly: bool, inner_chunks: int, held: int | None = None) -> None:
    """Refuse a file that decodes to more than its chunks have room for, as a compression bomb does.

    Parameters
    ----------
    path
        The file.
    chunk_bytes
        What a chunk decodes to, or at most decodes to.
    exactly
        Whether it is exactly that.
    inner_chunks
        How many chunks the index at the end of the file has room for; 0 for a file that is one chunk.
    held
        How many of them, from the first, the file must hold: the last file of an array has no others. Default all.

    Raises
    ------
    UnitlabError
        A chunk that is missing, that lies outside of the file or in another one, or that is of another size.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        for start, length in _indexed(file, path, size, inner_chunks, held) if inner_chunks else [(0, size)]:
            file.seek(start)
            found = _content_size(file.read(length)[:-CHECKSUM])
            if found is None or found > chunk_bytes or (exactly and found != chunk_bytes):
                told = "is no single zstd frame that tells its size" if found is None else f"unpacks to {found:,} bytes"
                raise UnitlabError(
                    f"{path} is refused: a chunk of it {told}, {'' if exactly else 'at most '}{chunk_bytes:,} are expected"
                )


def _indexed(file: BinaryIO, path: Path, size: int, count: int, held: int | None) -> Iterator[tuple[int, int]]:
    """Start and length of each chunk of a shard; no two share bytes, or few bytes would unpack to many chunks."""
    index = 16 * count + CHECKSUM
    if size < index:
        raise UnitlabError(f"{path} is refused: it is too short for the index of its {count} chunks")
    file.seek(size - index)
    numbers = struct.unpack(f"<{2 * count}Q", file.read(index - CHECKSUM))
    entries, end = list(zip(numbers[::2], numbers[1::2], strict=True)), 0
    held = count if held is None else held
    if any(entry != ABSENT for entry in entries[held:]):
        raise UnitlabError(f"{path} is refused: its index names more than the {held} chunks that its rows take")
    for start, length in sorted(entries[:held]):
        if start < end or start + length > size - index:
            raise UnitlabError(f"{path} is refused: its index names a chunk that is missing or lies within another one")
        end = start + length
        yield start, length


def _content_size(content: bytes) -> int | None:
    """What a zstd frame says that it decodes to; None where it does not, where it is no frame, or where more follows it.

    A frame that says its size is never decoded to more, but frames that follow it are decoded, too.
    """
    if int.from_bytes(content[:4], "little") != ZSTD_FRAME:
        return None
    descriptor = content[4] if len(content) > 4 else 0
    whole = descriptor >> 5 & 1
    width = (whole, 2, 4, 8)[descriptor >> 6]
    place = 5 + (1 - whole) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(content[place : place + width], "little") + (256 if width == 2 else 0)
    place += width
    last = False
    while not last and place < len(content):
        block = int.from_bytes(content[place : place + 3], "little")
        last = bool(block & 1)
        run_length = block >> 1 & 3 == 1
        place += 3 + (1 if run_length else block >> 3)
    place += CHECKSUM if descriptor & 4 else 0
    return size if width and last and place == len(content) else None
