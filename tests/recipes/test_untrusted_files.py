"""Files of strangers: nothing in them runs, nothing is written outside, and every refusal says why."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import python2_checkpoint
from torch import nn

from unitlab import UnitlabError
from unitlab.compute.files.archives import unpacked
from unitlab.compute.files.checkpoints import load_parameters, read_state_dict


class Malicious:
    """Writes a file when it is unpickled by plain pickle."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"import pathlib; pathlib.Path({str(self.target)!r}).touch()",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["alone", "value", "key", "beside"])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, legacy: bool, place: str) -> None:
    witness, path = tmp_path / "witness", tmp_path / "weights.pth"
    bad = Malicious(witness)
    content = {
        "alone": bad,
        "value": {"conv1.weight": torch.zeros(2), "x": bad},
        "key": {(1, bad): torch.zeros(2)},
        "beside": {"state_dict": {"conv1.weight": torch.zeros(2)}, "optimizer": bad},
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnitlabError, match="holds code to run") as told:
        read_state_dict(path)
    assert "exec" in str(told.value) and "Nothing of it was run" in str(told.value)
    assert not witness.exists()
    # the file is no dud: whoever loads it without care runs it
    torch.load(path, weights_only=False)
    assert witness.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Malicious(witness)))
    with pytest.raises(UnitlabError):
        read_state_dict(path)
    assert not witness.exists()


def test_a_whole_model_and_other_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content, message in (
        (nn.Linear(2, 2), "holds code to run"),
        ([torch.zeros(2)], "not parameters by name"),
        ({}, "not parameters by name"),
        ({"a": 1}, "is no state dict"),
        ({3: torch.zeros(2)}, "is no state dict"),
    ):
        torch.save(content, path)
        with pytest.raises(UnitlabError, match=message):
            read_state_dict(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(UnitlabError, match=r"key 'state_dict'; it holds \['weights'\]"):
        read_state_dict(path, "state_dict")


def test_cut_and_changed_checkpoints(tmp_path: Path) -> None:
    network = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 5)))
    state = OrderedDict((f"module.{name}", value) for name, value in network.state_dict().items())
    modern = io.BytesIO()
    torch.save(state, modern)
    for content in (python2_checkpoint({"state_dict": state}), modern.getvalue()):
        within = "state_dict" if content[:2] != b"PK" else ""
        path = tmp_path / "weights.pth"
        for length in {0, 1, 10, 100, len(content) // 2, len(content) - 100, len(content) - 1}:
            path.write_bytes(content[:length])
            with pytest.raises(UnitlabError, match=r"weights\.pth"):
                read_state_dict(path, within)
        random = torch.Generator().manual_seed(0)
        for _ in range(150):
            place = int(torch.randint(len(content), (), generator=random))
            changed = bytearray(content)
            changed[place] ^= 1 << int(torch.randint(8, (), generator=random))
            path.write_bytes(changed)
            try:
                load_parameters(network, read_state_dict(path, within), path, 5)
            except UnitlabError as error:
                assert "weights.pth" in str(error)


def test_parameters_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    network = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), fc=nn.Linear(8, 5)))
    good = {name: value.clone() for name, value in network.state_dict().items()}

    def told(changes: dict[str, torch.Tensor | None]) -> str:
        state = {name: value for name, value in {**good, **changes}.items() if value is not None}
        with pytest.raises(UnitlabError) as error:
            load_parameters(network, state, path, 5)
        return str(error.value)

    assert "it lacks conv.weight; it has, and the network has not, conv1.weight" in told(
        {"conv.weight": None, "conv1.weight": good["conv.weight"]}
    )
    assert "tells 7 classes apart, the recipe's images have 5" in told(
        {"fc.weight": torch.zeros(7, 8), "fc.bias": torch.zeros(7)}
    )
    assert "conv.weight is (8, 3, 5, 5), expected (8, 3, 3, 3)" in told({"conv.weight": torch.zeros(8, 3, 5, 5)})
    assert "NaN or infinite" in told({"conv.bias": torch.full((8,), float("nan"))})
    assert "int64" in told({"conv.bias": torch.zeros(8, dtype=torch.int64)})
    assert "complex" in told({"conv.bias": torch.zeros(8, dtype=torch.complex64)})
    assert "sparse" in told({"conv.bias": torch.zeros(8).to_sparse()})
    many = told({f"extra{index}.weight": torch.zeros(1) for index in range(9)})
    assert "extra3.weight … (9 in all)" in many and "extra4" not in many
    # half precision, and counts of batches that an old file has not, are no fault
    half = {name: value.half() if value.is_floating_point() else value for name, value in good.items()}
    half.pop("norm.num_batches_tracked")
    assert not load_parameters(network, half, path, 5).training and network.conv.weight.dtype == torch.float32


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    path, packed = tmp_path / "weights.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as deflated:
        for entry in stored.infolist():
            deflated.writestr(entry.filename, stored.read(entry))
    with pytest.raises(UnitlabError, match="compressed zip"):
        read_state_dict(packed)


def _zip(path: Path, *entries: tuple[str, int]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.external_attr = mode << 16
            archive.writestr(info, "/etc/passwd")
    return path


def _tar(path: Path, *members: tuple[str, bytes, str]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"text") if kind == tarfile.REGTYPE else None)
    return path


OUTSIDE = ["../outside.jpg", "a/../../outside.jpg", "/tmp/outside.jpg", "..\\outside.jpg", "C:\\outside.jpg"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_archives_that_leave_their_folder(tmp_path: Path, name: str) -> None:
    target = tmp_path / "images" / "set"
    for archive in (
        _zip(tmp_path / "a.zip", ("fine/picture.jpg", 0o100644), (name, 0o100644)),
        _tar(tmp_path / "a.tar", ("fine/picture.jpg", tarfile.REGTYPE, ""), (name, tarfile.REGTYPE, "")),
    ):
        with pytest.raises(UnitlabError, match="would leave the folder"):
            unpacked(archive, target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "a.zip", "images"]


def test_archives_with_links_and_devices(tmp_path: Path) -> None:
    target = tmp_path / "images" / "set"
    archives = [_zip(tmp_path / "link.zip", ("link", 0o120777)), _zip(tmp_path / "fifo.zip", ("fifo", 0o010644))]
    for number, (kind, link) in enumerate(
        [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, "../x"), (tarfile.LNKTYPE, "fine"), (tarfile.CHRTYPE, ""),
         (tarfile.FIFOTYPE, "")]
    ):  # fmt: skip
        archives.append(_tar(tmp_path / f"{number}.tar.gz", ("fine", tarfile.REGTYPE, ""), ("entry", kind, link)))
    for archive in archives:
        with pytest.raises(UnitlabError, match="link or device"):
            unpacked(archive, target)
    assert not any((tmp_path / "images").iterdir())


def test_damaged_archives(tmp_path: Path) -> None:
    target = tmp_path / "images" / "set"
    whole = [_zip(tmp_path / "a.zip", ("c/p.jpg", 0o100644)), _tar(tmp_path / "a.tar.gz", ("c/p.jpg", tarfile.REGTYPE, ""))]
    for archive in whole:
        content = archive.read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"no archive at all", content[:-30]):
            archive.write_bytes(damaged)
            with pytest.raises(UnitlabError, match="damaged or cut"):
                unpacked(archive, target)
        archive.write_bytes(content)
    assert not any((tmp_path / "images").iterdir())
    assert (unpacked(whole[1], target) / "c" / "p.jpg").read_text() == "text"


def test_a_zip_archive_with_changed_bytes(tmp_path: Path) -> None:
    path, target = tmp_path / "a.zip", tmp_path / "images" / "set"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/p.jpg", bytes(np.random.default_rng(0).integers(0, 9, 20_000, np.uint8)))
    content = path.read_bytes()
    for place in range(60, len(content) - 200, 997):
        path.write_bytes(content[:place] + bytes(8) + content[place + 8 :])
        with pytest.raises(UnitlabError, match="damaged or cut"):
            unpacked(path, target)
    assert not any((tmp_path / "images").iterdir())


def test_an_archive_larger_than_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros.jpg", bytes(10_000_000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9_000_000))
    with pytest.raises(UnitlabError, match=r"0\.0 GB are free"):
        unpacked(archive, tmp_path / "set")
    assert not (tmp_path / "set").exists()
