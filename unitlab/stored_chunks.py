"""The chunks in a file of a store: how much each decodes to, known before one is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from unitlab.errors import UnitlabError

__all__ = ["check_chunks"]

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
