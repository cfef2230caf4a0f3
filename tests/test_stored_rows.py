"""Rows read straight from the files of a store, against zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from simulated_study import simulated_groups

from unitlab.errors import UnitlabError
from unitlab.store.files import check_chunks
from unitlab.store.study import StoredRows, open_study
from unitlab.store.writing import write_study


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thumbnails in two files of many chunks, predictions in one of several."""
    groups = simulated_groups(70, 5, 3000, seed=0)
    root = groups[""][0]
    root["thumbnails"] = np.random.default_rng(0).integers(0, 256, (3000, 64, 64, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("rows") / "study.zarr"
    write_study(path, groups)
    return path


@pytest.mark.parametrize("name", ["thumbnails", "conv5_3/zero/prediction", "conv5_3/zero/label_margin_drop"])
def test_rows_are_those_of_zarr(store: Path, name: str) -> None:
    array = zarr.open_group(store, mode="r", zarr_format=3)[name]
    assert isinstance(array, zarr.Array)
    reader, random = StoredRows(array, store / name), np.random.default_rng(1)
    n, rest = array.shape[0], (slice(None),) * (array.ndim - 1)
    last = array.chunks[0] * ((n - 1) // array.chunks[0])
    for numbers in (random.integers(0, n, 30), np.array([n - 1, 0, 0, last]), np.array([3]), 5, n - 1):
        assert reader.can_read((numbers, *rest))
        expected = array[numbers] if np.ndim(numbers) == 0 else array.oindex[numbers]
        np.testing.assert_array_equal(reader.rows(numbers), expected)
    for numbers in (np.array([-1]), np.array([n]), np.empty(0, int), slice(0, 3)):
        assert not reader.can_read((numbers, *rest))
    assert not reader.can_read((np.array([1]), slice(1, 2), *rest[1:]))


def test_a_dataset_reads_them(store: Path) -> None:
    pixels, images = open_study(store)["thumbnails"], np.array([2999, 17, 2500, 17])
    expected = zarr.open_group(store, mode="r", zarr_format=3)["thumbnails"][:][images]
    np.testing.assert_array_equal(pixels[images].values, expected)
    np.testing.assert_array_equal(pixels[-1].values, expected[0])


def test_a_file_that_is_not_full_is_read_and_holds_no_more(store: Path) -> None:
    study = open_study(store)
    last = store / "thumbnails/c/1/0/0/0"
    assert study["thumbnails"][2730:].shape == (270, 64, 64, 3) and study["thumbnails"][2730:].values.any()
    check_chunks(last, chunk_bytes=122_880, exactly=True, inner_chunks=273, held=27)
    for held in (26, 28, None):
        with pytest.raises(UnitlabError, match=r"more than the 26|missing or lies within"):
            check_chunks(last, chunk_bytes=122_880, exactly=True, inner_chunks=273, held=held)


def test_other_layouts_are_left_to_zarr(tmp_path: Path) -> None:
    for name, options in {
        "plain": {"chunks": (2, 3)},
        "columns": {"chunks": (2, 1), "shards": (4, 3)},
        "codec": {"chunks": (2, 3), "shards": (4, 3), "compressors": None},
    }.items():
        array = zarr.create_array(tmp_path / name, shape=(8, 3), dtype="i4", zarr_format=3, **options)
        assert not StoredRows(array, tmp_path / name).supported


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    groups = simulated_groups(70, 5, 3000, seed=0)
    path = tmp_path / "study.zarr"
    write_study(path, groups)
    study = open_study(path)
    file = path / "conv5_3/zero/prediction/c/0/0"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UnitlabError, match="the bytes of the file conv5_3/zero/prediction/c/0/0 are not those"):
        study["prediction"][np.arange(70)].load()
