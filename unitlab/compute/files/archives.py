"""Zip and tar archives of images, unpacked into a folder of their own and nowhere else."""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from unitlab.errors import UnitlabError, write_failure
from unitlab.files import folder_whole

MOST_FILES = 5_000_000
PLAIN = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: packed where files have no kinds


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
    try:
        with folder_whole(folder) as building:
            _extract(archive, building)
            arrange(building)
    except UnitlabError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise write_failure(error, folder) from error
        raise UnitlabError(f"the archive {archive} is damaged or cut ({error}); get it again") from error
    return folder


def _extract(archive: Path, folder: Path) -> None:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            entries = [
                (entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16) in PLAIN, entry.file_size)
                for entry in opened.infolist()
            ]
            _refuse(archive, folder, entries)
            opened.extractall(folder)
    else:
        with tarfile.open(archive) as opened_tar:
            members = opened_tar.getmembers()
            entries = [(member.name, member.isreg() or member.isdir(), member.size) for member in members]
            _refuse(archive, folder, entries)
            opened_tar.extractall(folder, members, filter="data")


def _refuse(archive: Path, folder: Path, entries: Sequence[tuple[str, bool, int]]) -> None:
    """Refuse an archive by the name of its entries, whether each is a plain file or folder, and its size."""
    for name, plain, _ in entries:
        if not name or name[0] in "/\\" or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise UnitlabError(
                f"the archive {archive} is refused: its entry {name!r} would leave the folder it is unpacked into"
            )
        if not plain:
            raise UnitlabError(f"the archive {archive} is refused: {name!r} is a link or device, not a file")
    size, free = sum(size for _, _, size in entries), shutil.disk_usage(folder).free
    if len(entries) > MOST_FILES or size > free:
        raise UnitlabError(
            f"the archive {archive} is refused: it unpacks to {len(entries):,} files of {size / 1e9:,.1f} GB, "
            f"and {free / 1e9:,.1f} GB are free"
        )
