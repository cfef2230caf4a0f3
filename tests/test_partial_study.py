"""Shards of an unfinished sweep: whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from unitlab import UnitlabError
from unitlab.store.shards import PartialStudy

FINGERPRINT = {"weights": "a", "images": "b"}
ARRAYS = {
    "prediction": np.arange(12, dtype=np.int16).reshape(3, 4),
    "margin": np.linspace(0, 1, 5).astype(np.float16),
    "none": np.empty((0, 3), np.float32),
    "scalar": np.float64(2.5),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.zarr"


def test_shards_are_read_as_they_were_written(path: Path) -> None:
    partial = PartialStudy(path, FINGERPRINT)
    partial.write(3, ARRAYS)
    partial.close()
    again = PartialStudy(path, FINGERPRINT)
    assert again.finished() == [3]
    found = again.read(3)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype and found[name].shape == np.shape(array)
    for rows in (slice(1, 3), slice(1), slice(2, 2), slice(None, None, 2), slice(1, 9)):
        np.testing.assert_array_equal(found["prediction"][rows], ARRAYS["prediction"][rows])
    again.remove()
    assert not again.folder.exists()


@pytest.mark.parametrize("place", [5, -1, 700])
def test_a_torn_or_changed_shard_is_not_finished(path: Path, place: int) -> None:
    partial = PartialStudy(path, FINGERPRINT)
    partial.write(0, ARRAYS)
    partial.write(1, {"x": np.arange(1000)})
    partial.close()
    file = partial.folder / "shard-000001.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))
    (partial.folder / "shard-000002.tmp").write_bytes(b"torn")
    again = PartialStudy(path, FINGERPRINT)
    assert again.finished() == [0]
    again.close()


def test_a_file_that_changes_while_it_is_read_is_damaged(path: Path) -> None:
    partial = PartialStudy(path, FINGERPRINT)
    partial.write(0, {"x": np.arange(1000)})
    found, file = partial.read(0)["x"], partial.folder / "shard-000000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UnitlabError, match=r"the shard .*shard-000000.* is damaged .*remove it"):
        found[:3]
    file.unlink()
    with pytest.raises(UnitlabError, match=r"the shard .* cannot be read"):
        found[:3]
    partial.close()


def test_shards_of_an_older_version_start_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    partial = PartialStudy(path, FINGERPRINT)
    partial.write(0, ARRAYS)
    partial.close()
    for name in ("shard-000001.bin", "replacements.bin"):
        (partial.folder / name).write_bytes(b'{"arrays": {}}')
    again = PartialStudy(path, FINGERPRINT)
    assert "older version of unitlab" in caplog.text and "starts again" in caplog.text
    assert again.finished() == [0] and again.read_replacements() is None and not list(again.folder.glob("*.bin"))
    again.close()


def test_other_settings_are_refused_and_named(path: Path) -> None:
    PartialStudy(path, FINGERPRINT).close()
    with pytest.raises(UnitlabError, match="other weights"):
        PartialStudy(path, {**FINGERPRINT, "weights": "c"})
    PartialStudy(path, FINGERPRINT).close()


def test_two_processes_at_once_are_refused(path: Path) -> None:
    first = PartialStudy(path, FINGERPRINT)
    with pytest.raises(UnitlabError, match="another process"):
        PartialStudy(path, FINGERPRINT)
    first.close()


def test_a_full_disk_leaves_the_shards_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = PartialStudy(path, FINGERPRINT)
    partial.write(0, ARRAYS)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnitlabError, match="no space left"):
        partial.write(1, ARRAYS)
    monkeypatch.undo()
    assert partial.finished() == [0] and not list(partial.folder.glob("*.tmp"))
    partial.write(1, ARRAYS)
    assert partial.finished() == [0, 1]
    partial.close()


def test_an_unreadable_fingerprint_says_what_to_remove(path: Path) -> None:
    partial = PartialStudy(path, FINGERPRINT)
    partial.close()
    (partial.folder / "fingerprint.json").write_text("{")
    with pytest.raises(UnitlabError, match="remove"):
        PartialStudy(path, FINGERPRINT)
