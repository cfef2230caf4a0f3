"""Stores whose small files unpack to gigabytes, under a manifest that fits: refused before memory is filled."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from bounded_memory import bounded_memory
from numcodecs.zstd import Zstd

from unitlab import UnitlabError, catalog, load
from unitlab.store.files import MANIFEST, write_manifest
from unitlab.store.study import open_study

GIGABYTES = 8 << 30
ROOM = 1 << 30
NUMBERS = "conv3_2/zero/accuracy_drop"  # one chunk
SHARDED = "conv3_2/activation_max"  # 11 chunks in a file
TEXT = "conv3_2/zero/category"


def zeros(size: int, told: int | None = None, first: bytes = b"") -> bytes:
    """A zstd frame of ``first`` and then zeros, as long as ``size``, that tells the size ``told`` (-1: none)."""
    told = size if told is None else told
    header = struct.pack("<IBB", 0xFD2FB528, 0x00, 0x50) if told < 0 else struct.pack("<IBBQ", 0xFD2FB528, 0xC0, 0x50, told)
    blocks = [struct.pack("<I", len(first) << 3)[:3] + first] if first else []
    rest = size - len(first)
    while rest:
        block = min(rest, 1 << 17)
        rest -= block
        blocks.append(struct.pack("<I", block << 3 | 1 << 1 | (not rest))[:3] + b"\0")
    return header + b"".join(blocks)


def summed(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))


def skippable(size: int) -> bytes:
    """A frame that decoders step over."""
    return struct.pack("<II", 0x184D2A50, size) + bytes(size)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(catalog.path_of("vgg_fashion"), tmp_path / "study.zarr"))


def seal(store: Path) -> None:
    (store / MANIFEST).unlink()
    write_manifest(store, 1)


def put(store: Path, variable: str, content: bytes) -> None:
    (file,) = (path for path in (store / variable / "c").rglob("*") if path.is_file())
    file.write_bytes(content)
    seal(store)


def shard(store: Path, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The file of the sharded variable with other chunks."""
    content = next(path for path in (store / SHARDED / "c").rglob("*") if path.is_file()).read_bytes()
    numbers = struct.unpack("<22Q", content[-180:-4])
    chunks = change([content[start : start + size] for start, size in zip(numbers[::2], numbers[1::2], strict=True)])
    places, start = [], 0
    for chunk in chunks:
        places += [start, len(chunk)]
        start += len(chunk)
    return b"".join(chunks) + summed(struct.pack("<22Q", *places))


def test_the_frames_are_such_as_decoders_take() -> None:
    for told in (None, -1):
        assert Zstd().decode(zeros(20_000_000, told, b"head")) == b"head" + bytes(20_000_000 - 4)


def test_the_bomb_is_none_of_paper(store: Path) -> None:
    put(store, NUMBERS, summed(zeros(GIGABYTES)))
    assert sum(path.stat().st_size for path in (store / NUMBERS / "c").rglob("*") if path.is_file()) < 300_000
    with bounded_memory(ROOM), pytest.raises(MemoryError):
        zarr.open_array(store, path=NUMBERS, mode="r")[:]


BOMBS: dict[str, bytes] = {
    "tells its size": summed(zeros(GIGABYTES)),
    "tells no size": summed(zeros(GIGABYTES, -1)),
    "tells another size": summed(zeros(GIGABYTES, 64 * 10 * 8)),
    "second frame": summed(Zstd(5).encode(bytes(64 * 10 * 8)) + zeros(GIGABYTES)),
    "second frame that tells no size": summed(Zstd(5).encode(bytes(64 * 10 * 8)) + zeros(GIGABYTES, -1)),
    "after a frame to skip": summed(skippable(100) + zeros(GIGABYTES)),
    "one byte too many": summed(zeros(64 * 10 * 8 + 1)),
    "second frame after a checksum": summed(Zstd(5, checksum=True).encode(bytes(64 * 10 * 8)) + zeros(GIGABYTES)),
    "nothing": b"",
    "no frame": summed(bytes(20)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_numbers(store: Path, kind: str) -> None:
    put(store, NUMBERS, BOMBS[kind])
    with bounded_memory(ROOM), pytest.raises(UnitlabError, match=rf"study\.zarr.*({NUMBERS})") as told:
        open_study(store).accuracy_drop.load()
    assert "MemoryError" not in str(told.value)


@pytest.mark.parametrize(
    "bomb",
    [
        zeros(GIGABYTES, first=struct.pack("<I", 10)),
        zeros(GIGABYTES, -1, struct.pack("<I", 10)),
        zeros(100_000, first=struct.pack("<I", 1 << 31)),
        zeros(100_000, first=struct.pack("<II", 10, 1 << 31)),
    ],
)
def test_texts(store: Path, bomb: bytes) -> None:
    """Coordinates are read on opening."""
    put(store, TEXT, summed(bomb))
    with bounded_memory(ROOM), pytest.raises(UnitlabError, match=r"study\.zarr.*category"):
        load(store)


def test_chunks_in_a_shard(store: Path) -> None:
    whole = open_study(store).activation_max.load()
    put(store, SHARDED, shard(store, lambda chunks: chunks))
    np.testing.assert_array_equal(open_study(store).activation_max.values, whole.values)
    for bomb in (zeros(GIGABYTES), zeros(GIGABYTES, -1)):
        put(store, SHARDED, shard(store, lambda chunks, bomb=bomb: [*chunks[:-1], summed(bomb)]))  # type: ignore[misc]
        with bounded_memory(ROOM), pytest.raises(UnitlabError, match=f"{SHARDED}' cannot be read"):
            open_study(store).activation_max.load()


def test_indexes_that_do_not_fit(store: Path) -> None:
    content = shard(store, lambda chunks: chunks)
    numbers = list(struct.unpack("<22Q", content[-180:-4]))
    outside = numbers.copy()
    outside[1] = 1 << 40
    put(store, SHARDED, content[:-180] + summed(struct.pack("<22Q", *outside)))
    with bounded_memory(ROOM), pytest.raises(UnitlabError, match=f"{SHARDED}' cannot be read"):
        open_study(store).activation_max.load()
    put(store, SHARDED, summed(bytes(20)))
    with pytest.raises(UnitlabError, match=f"{SHARDED}.*absurd"):
        open_study(store)


def compressor(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


BYTES, ZSTD, CRC = compressor("bytes", endian="little"), compressor("zstd", level=5, checksum=False), {"name": "crc32c"}
BLOSC = compressor("blosc", cname="zstd", clevel=5, shuffle="noshuffle", typesize=8, blocksize=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codecs": [BYTES, BLOSC, CRC]}, "encoded with bytes, blosc, crc32c"),
        ({"codecs": [BYTES, compressor("gzip", level=5), CRC]}, "encoded with bytes, gzip, crc32c"),
        ({"codecs": [BYTES, compressor("numcodecs.lzma"), CRC]}, r"encoded with bytes, numcodecs\.lzma"),
        ({"codecs": [compressor("numcodecs.pickle"), ZSTD, CRC]}, r"encoded with numcodecs\.pickle"),
        # zstd within zstd: the outer frame tells the truth
        ({"codecs": [BYTES, ZSTD, ZSTD, CRC]}, "encoded with bytes, zstd, zstd, crc32c"),
        ({"codecs": [BYTES, CRC, ZSTD]}, "encoded with bytes, crc32c, zstd"),
        ({"codecs": [compressor("vlen-utf8"), ZSTD, CRC]}, "encoded with vlen-utf8"),
        ({"chunk_grid": compressor("regular", chunk_shape=[1 << 10, 1 << 10])}, "absurd"),
        ({"chunk_grid": compressor("regular", chunk_shape=[64, 1 << 10])}, "absurd"),
        ({"chunk_key_encoding": compressor("default", separator=".")}, r"the file \S+/accuracy_drop/c\.0\.0 is missing"),
        ({"chunk_key_encoding": compressor("v2", separator="/")}, r"the file \S+/accuracy_drop/0/0 is missing"),
        ({"chunk_grid": compressor("rectilinear", chunk_shape=[64, 10])}, "cannot be opened"),
    ],
)
def test_other_encodings(store: Path, changes: dict[str, Any], message: str) -> None:
    for group in ("", "conv3_2", "conv3_2/zero"):
        path = store / group / "zarr.json"
        content = json.loads(path.read_text())
        members = content["consolidated_metadata"]["metadata"]
        for name in members:
            if NUMBERS.endswith(f"/{name}") or name == NUMBERS:
                members[name] |= changes
        path.write_text(json.dumps(content))
    seal(store)
    with pytest.raises(UnitlabError, match=message):
        open_study(store).accuracy_drop.load()


def test_nested_shards_and_files_by_other_names(store: Path) -> None:
    path = store / "zarr.json"
    before = path.read_text()
    content = json.loads(before)
    member = content["consolidated_metadata"]["metadata"][SHARDED]
    sharding = member["codecs"][0]["configuration"]
    inner = compressor("sharding_indexed", **{**sharding, "chunk_shape": [1, 10000]})
    for changes, message in (
        ({"codecs": [inner]}, "encoded with sharding_indexed"),
        ({"chunk_shape": [66, 10000]}, "absurd"),
        ({"chunk_shape": [6, 5000]}, "absurd"),
    ):
        member["codecs"][0]["configuration"] = {**sharding, **changes}
        path.write_text(json.dumps(content))
        seal(store)
        with pytest.raises(UnitlabError, match=message):
            open_study(store)
    path.write_text(before)
    # a file that the manifest does not list is never read
    shutil.copytree(store / SHARDED / "c", store / SHARDED / "c" / "7")
    shutil.rmtree(store / SHARDED / "c" / "0")
    seal(store)
    with pytest.raises(UnitlabError, match="needs 1 files; the store has 1, or calls them otherwise"):
        open_study(store)


def test_every_variable_of_the_bundled_studies_is_in_bounds() -> None:
    """What unitlab writes passes: every byte of every variable is read."""
    for name in ("vgg_emoji", "alexnet_fashion"):
        ds = load(name)
        read = sum(math.prod(ds[variable].load().shape) for variable in ds.variables)
        assert read == sum(math.prod(ds[variable].shape) for variable in ds.variables)
