"""Files and folders are whole or not there, whoever writes at the same time and whatever fails."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from unitlab.files import folder_whole, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second" and names(tmp_path) == ["a.json"]

    def refused() -> None:
        assert path.read_bytes() == b"second"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"third", refused)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"fourth")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "a.json", b"")
    assert path.read_bytes() == b"second" and names(tmp_path) == ["a.json"]


def test_who_writes_at_once_does_not_mix(tmp_path: Path) -> None:
    path, contents = tmp_path / "a.bin", [bytes([number]) * 100_000 for number in range(8)]
    writers = [threading.Thread(target=write_whole, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in contents and names(tmp_path) == ["a.bin"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "set"
    with pytest.raises(KeyboardInterrupt), folder_whole(path) as building:
        (building / "a").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path / "deeper") == []
    with folder_whole(path) as slower, folder_whole(path) as quicker:
        (slower / "a").write_text("slower")
        (quicker / "a").write_text("quicker")
    assert (path / "a").read_text() == "quicker" and names(path.parent) == ["set"]
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError), folder_whole(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["deeper", "file"]
