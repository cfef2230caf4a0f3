"""A finished store takes the place of an older one, one process at a time; what a killed process left is ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unitlab.errors import UnitlabError
from unitlab.store.files import LocalFiles

SWAP_SECONDS = 30.0


@contextmanager
def swap_lock(target: Path) -> Iterator[None]:
    """One process at a time puts a store in place; a killed one's lock is free at once."""
    import filelock  # here: who only reads waits for nothing

    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=SWAP_SECONDS)
    except filelock.Timeout as error:
        raise UnitlabError(f"another process is writing {target}; wait until it is done") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def swap(building: Path, target: Path) -> None:
    previous = target.with_name(f"{target.name}.previous")
    if target.exists():
        target.rename(previous)
    building.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def finish_swap(target: Path) -> None:
    """End what a process that died between the two renames of `swap` has begun."""
    building, previous = (target.with_name(f"{target.name}.{kind}") for kind in ("building", "previous"))
    if not previous.exists():
        return
    if not target.exists():
        try:
            LocalFiles(building).check()
            building.rename(target)
        except (UnitlabError, FileNotFoundError):
            previous.rename(target)
            return
    shutil.rmtree(previous, ignore_errors=True)
