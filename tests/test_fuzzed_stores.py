"""A bundled store with bytes and files flipped, cut, deleted, swapped: the right data or a `UnitlabError`, nothing else.

``UNITLAB_FUZZ=5000 pytest tests/test_fuzzed_stores.py -s`` tries as many mutations of each kind of harm and prints outcomes by
mutation and kind of file; tests/benchmarks/README.md has the last table.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from bounded_memory import bounded_memory

from unitlab import UnitlabError, catalog
from unitlab.store.files import MANIFEST, write_manifest
from unitlab.store.study import check_files, open_study

MUTATIONS = int(os.environ.get("UNITLAB_FUZZ", "240"))
ADDRESS_SPACE = 4 << 30  # no allocation of gigabytes because a file says so


class Store:
    """A copy of a bundled store whose changed files are put back after each mutation."""

    def __init__(self, folder: Path) -> None:
        self.whole = catalog.path_of("vgg_fashion")
        self.path = folder / "study.zarr"
        shutil.copytree(self.whole, self.path)
        self.files = sorted(path.relative_to(self.whole).as_posix() for path in self.whole.rglob("*") if path.is_file())
        self.folders = sorted(path.relative_to(self.whole).as_posix() for path in self.whole.rglob("*") if path.is_dir())
        self.expected = open_study(self.whole).load()
        self.touched: set[str] = set()

    def pick(self, random: np.random.Generator) -> str:
        # most files are small metadata: half of the time one of those that hold data
        data = [name for name in self.files if "/c/" in name]
        names = data if random.random() < 0.5 else self.files
        return names[random.integers(len(names))]

    def read(self, name: str) -> bytearray:
        return bytearray((self.whole / name).read_bytes())

    def write(self, name: str, content: bytes) -> None:
        self.touched.add(name)
        (self.path / name).write_bytes(content)

    def restore(self) -> None:
        for name in self.touched:
            path = self.path / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            source = self.whole / name
            if source.is_dir():
                shutil.copytree(source, path)
            elif source.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, path)
        self.touched.clear()


Mutation = Callable[[Store, np.random.Generator], None]


def flip_bit(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    content = store.read(name)
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    store.write(name, content)


def flip_bytes(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    content = store.read(name)
    for place in random.integers(len(content), size=int(random.integers(2, 20))):
        content[place] = int(random.integers(256))
    store.write(name, content)


def zero_block(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    content = store.read(name)
    start, size = int(random.integers(len(content))), int(random.integers(1, 4096))
    content[start : start + size] = bytes(len(content[start : start + size]))
    store.write(name, content)


def cut(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    content = store.read(name)
    store.write(name, content[: random.integers(len(content))])


def grow(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    store.write(name, store.read(name) + random.bytes(int(random.integers(1, 100))))


def remove_bytes(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    content = store.read(name)
    start = int(random.integers(len(content)))
    del content[start : start + int(random.integers(1, 50))]
    store.write(name, content)


def swap_bytes(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    content = store.read(name)
    one, two = random.integers(len(content), size=2)
    content[one], content[two] = content[two], content[one]
    store.write(name, content)


def delete_file(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    store.touched.add(name)
    (store.path / name).unlink()


def delete_folder(store: Store, random: np.random.Generator) -> None:
    name = store.folders[random.integers(len(store.folders))]
    store.touched.add(name)
    shutil.rmtree(store.path / name)


def swap_files(store: Store, random: np.random.Generator) -> None:
    one, two = store.pick(random), store.pick(random)
    store.write(one, store.read(two))
    store.write(two, store.read(one))


def copy_file_over(store: Store, random: np.random.Generator) -> None:
    store.write(store.pick(random), store.read(store.pick(random)))


def add_file(store: Store, random: np.random.Generator) -> None:
    parent = store.folders[random.integers(len(store.folders))]
    store.write(f"{parent}/{random.integers(1000)}", random.bytes(20))


def link(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    store.touched.add(name)
    (store.path / name).unlink()
    (store.path / name).symlink_to(store.whole / name)


def folder_for_file(store: Store, random: np.random.Generator) -> None:
    name = store.pick(random)
    store.touched.add(name)
    (store.path / name).unlink()
    (store.path / name).mkdir()


ACCIDENTS: list[Mutation] = [
    flip_bit, flip_bytes, zero_block, cut, grow, remove_bytes, swap_bytes, delete_file, delete_folder, swap_files,
    copy_file_over, add_file, link, folder_for_file,
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 1, 2, 1 << 31, 1 << 62, 1 << 80, -(1 << 70), 0.5, float("nan"), "", "x", "float64", "../../etc", "\0",
    [], {}, [1], [-1, 5], [1 << 40, 1 << 40], {"name": "pickle"}, [{"name": "pickle", "configuration": {}}],
    [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}],
    {"name": "regular", "configuration": {"chunk_shape": [0]}},
]  # fmt: skip


def harm(store: Store, random: np.random.Generator) -> None:
    """Other values in the metadata that readers use, or in a copy, under a manifest that fits: as somebody who means harm."""
    # readers use what the root holds of everything
    copies = [name for name in store.files if name.endswith("zarr.json")]
    name = "zarr.json" if random.random() < 0.9 else copies[random.integers(len(copies))]
    content = json.loads(store.read(name))
    node, places = content, []
    if name == "zarr.json" and random.random() < 0.7:
        members = content["consolidated_metadata"]["metadata"]
        node = members[list(members)[random.integers(len(members))]]
    while isinstance(node, dict | list) and node:
        key = list(node)[random.integers(len(node))] if isinstance(node, dict) else int(random.integers(len(node)))
        places.append((node, key))
        if len(places) > 3 and random.random() < 0.2:
            break
        node = node[key]
    parent, key = places[-1]
    if random.random() < 0.2:
        del parent[key]
    else:
        parent[key] = VALUES[random.integers(len(VALUES))]
    store.write(name, json.dumps(content).encode())
    store.touched.add(MANIFEST)
    (store.path / MANIFEST).unlink()
    write_manifest(store.path, 1)


def read_whole(path: Path) -> xr.Dataset:
    check_files(path)
    return open_study(path).load()


def kind_of_file(store: Store) -> str:
    """What the last mutation changed: data, metadata, the manifest, or several of these."""
    kinds = {
        "data"
        if "/c/" in name or "/c/" in f"{name}/"
        else "manifest"
        if name == MANIFEST
        else "metadata"
        if name.endswith("zarr.json")
        else "a folder"
        if name in store.folders
        else "a new file"
        for name in store.touched
    }
    return kinds.pop() if len(kinds) == 1 else "several"


def tell(title: str, outcomes: Counter[tuple[str, str, str]]) -> None:
    print(f"\n{title}: {sum(outcomes.values())} mutations")
    for key in sorted({key[:2] for key in outcomes}):
        counts = {outcome: count for (*which, outcome), count in outcomes.items() if tuple(which) == key}
        print(f"  {key[0]:<16} {key[1]:<10} " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("fuzzed"))


@pytest.mark.parametrize("reading", ["lazily", "wholly"])
def test_accidents(store: Store, reading: str) -> None:
    """Read as `load` does, or with every byte checked first, as `verify` does."""
    random = np.random.default_rng([1, reading == "wholly"])
    outcomes: Counter[tuple[str, str, str]] = Counter()
    with bounded_memory(ADDRESS_SPACE):
        for number in range(MUTATIONS):
            harmed = ACCIDENTS[number % len(ACCIDENTS)]
            harmed(store, random)
            try:
                found = read_whole(store.path) if reading == "wholly" else open_study(store.path).load()
                xr.testing.assert_identical(found, store.expected)
                outcome = "right data"
            except UnitlabError as error:
                assert str(store.path) in str(error)
                outcome = "UnitlabError"
            outcomes[harmed.__name__, kind_of_file(store), outcome] += 1
            store.restore()
    tell(f"accidents, read {reading}", outcomes)
    xr.testing.assert_identical(read_whole(store.path), store.expected)
    found: Counter[tuple[str, str]] = Counter()
    for (mutation, _, outcome), count in outcomes.items():
        found[mutation, outcome] += count
    for name in ("cut", "grow", "delete_file", "delete_folder", "link", "folder_for_file"):
        assert not found[name, "right data"], name
    assert found["add_file", "UnitlabError"] == 0
    assert found["flip_bit", "UnitlabError"] > 0


def test_harm(store: Store) -> None:
    """Whoever makes the manifest fit may change numbers, but neither crash a reader nor fill its memory."""
    random = np.random.default_rng(2)
    outcomes: Counter[tuple[str, str, str]] = Counter()
    with bounded_memory(ADDRESS_SPACE):
        for _ in range(MUTATIONS):
            harm(store, random)
            try:
                found = read_whole(store.path)
                outcome = "right data" if found.equals(store.expected) else "other data"
            except UnitlabError:
                outcome = "UnitlabError"
            outcomes["harm", "metadata", outcome] += 1
            store.restore()
    tell("harm", outcomes)
    xr.testing.assert_identical(read_whole(store.path), store.expected)
    assert outcomes["harm", "metadata", "UnitlabError"] > MUTATIONS // 4
