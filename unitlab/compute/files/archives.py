"""Zip and tar archives of images, unpacked into a folder of their own and nowhere else."""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from unitlab.errors import UnitlabError, write_failure

MOST_FILES = 5_000_000


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def unpacked(archive: Path, folder: Path, arrange: Callable[[Path], None] = lambda folder: None) -> Path:
    """The contents of an archive in ``folder``, as ``arrange`` puts them there: all of them, or no folder.

    Raises
    ------
    UnitlabError
        An archive that is damaged, that holds links, devices or paths that leave the folder, or more than fits on the disk.
    """
    if folder.is_dir():
        return folder
    building = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
        if archive.name.lower().endswith(".zip"):
            _unzip(archive, building)
        else:
            _untar(archive, building)
        arrange(building)
        building.rename(folder)
        building = None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, UnitlabError):
            raise
        raise UnitlabError(f"the archive {archive} is damaged or cut ({error}); get it again") from error
    except OSError as error:
        if type(error).__module__ == "zlib" or error.errno is None:
            raise UnitlabError(f"the archive {archive} is damaged or cut ({error}); get it again") from error
        raise write_failure(error, folder) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return folder


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        for entry in entries:
            mode = entry.external_attr >> 16
            _check_name(archive, entry.orig_filename)
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnitlabError(f"the archive {archive} is refused: {entry.filename!r} is a link or device, not a file")
        _check_size(archive, folder, len(entries), sum(entry.file_size for entry in entries))
        opened.extractall(folder)


def _untar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
        for member in members:
            _check_name(archive, member.name)
            if not (member.isreg() or member.isdir()):
                raise UnitlabError(f"the archive {archive} is refused: {member.name!r} is a link or device, not a file")
        _check_size(archive, folder, len(members), sum(member.size for member in members))
        opened.extractall(folder, members=members, filter="data")


def _check_name(archive: Path, name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if not name or name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise UnitlabError(f"the archive {archive} is refused: its entry {name!r} would leave the folder it is unpacked into")


def _check_size(archive: Path, folder: Path, files: int, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if files > MOST_FILES or size > free:
        raise UnitlabError(
            f"the archive {archive} is refused: it unpacks to {files:,} files of {size / 1e9:,.1f} GB, "
            f"and {free / 1e9:,.1f} GB are free"
        )
