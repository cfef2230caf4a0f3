"""Where unitlab's files are, and how files and folders are written: whole, or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs


def home() -> Path:
    """Folder of what is computed here: ``$UNITLAB_HOME``, or unitlab's folder in the user's data folder."""
    given = os.environ.get("UNITLAB_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir("unitlab"))


def bundled_folder() -> Path:
    """Folder of the bundled data: inside the installed package, or ``data/`` of a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "data"


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder and those below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bytes_text(count: int) -> str:
    """ "1.2 GB"."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} bytes"


def write_whole(path: Path, content: bytes, confirm: Callable[[], None] = lambda: None) -> None:
    """Write a file in a folder that is there; ``confirm`` is called before the file gets its name and may refuse."""
    with file_whole(path, confirm) as file:
        file.write(content)


@contextmanager
def file_whole(path: Path, confirm: Callable[[], None] = lambda: None) -> Iterator[BinaryIO]:
    """A file to write to, which is ``path``, through to the disk, when the block has ended; nothing where it fails."""
    beside = _beside(path)
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        confirm()
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which is ``path`` when the block has ended, unless somebody was quicker; nothing where it fails."""
    building = _beside(path)
    try:
        building.mkdir(parents=True)
        yield building
        try:
            building.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _beside(path: Path) -> Path:
    # several threads, processes and machines may write the same at once
    return path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
