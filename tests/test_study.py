"""Stores that were cut, changed, swapped or made by somebody else: the right data, or an error that names the file."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from simulated_study import LAYER, simulated_groups, simulated_study

import unitlab
from unitlab import UnitlabError
from unitlab.store.files import MANIFEST, LocalFiles, read_manifest, write_manifest
from unitlab.store.study import assemble, check_files, open_study, study_summary
from unitlab.store.writing import write_study

OPTIONS = {"n_units": 6, "n_categories": 4, "n_images": 40}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "study.zarr"
    write_study(path, simulated_groups(**OPTIONS))
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study.zarr"))


def read_everything(path: Path) -> xr.Dataset:
    return open_study(path).load()


def test_what_is_written_is_read(store: Path) -> None:
    expected = simulated_study(**OPTIONS)
    found = read_everything(store)
    for name in expected.variables:
        np.testing.assert_array_equal(found[name].values, expected[name].values)
        assert found[name].attrs == expected[name].attrs
    assert study_summary(store).layers == {LAYER: ["zero"]}


def test_any_part_is_read_as_from_memory(store: Path) -> None:
    expected, found = simulated_study(**OPTIONS), open_study(store)
    random = np.random.default_rng(0)
    for _ in range(20):
        units, images = random.permutation(6)[: random.integers(1, 6)], np.sort(random.permutation(40)[:7])
        for part in ({"unit": units, "image": images}, {"unit": slice(4, None, -2)}, {"unit": -1, "image": slice(3, 30, 4)}):
            for name in ("prediction", "activation_max"):
                np.testing.assert_array_equal(found[name].isel(part).values, expected[name].isel(part).values)


def test_rows_of_arrays_in_many_chunks_and_files(tmp_path: Path) -> None:
    groups, random = simulated_groups(70, 5, 3000), np.random.default_rng(0)
    pictures = groups[""][0]["thumbnails"] = random.integers(0, 256, (3000, 64, 64, 3), dtype=np.uint8)
    prediction = groups[f"{LAYER}/zero"][0]["prediction"]
    write_study(tmp_path / "study.zarr", groups)
    assert len(list((tmp_path / "study.zarr" / "thumbnails" / "c").iterdir())) == 2
    found = open_study(tmp_path / "study.zarr")
    for numbers in (random.integers(0, 3000, 30), np.array([2999, 17, 2500, 17]), slice(2720, 2740), -1, slice(None, 5, -100)):
        np.testing.assert_array_equal(found.thumbnails[numbers].values, pictures[numbers])
        units = numbers if isinstance(numbers, slice | int) else numbers % 70
        np.testing.assert_array_equal(found.prediction[units].values, prediction[units])


def test_a_lazy_dataset_is_pickled_copied_and_assigned_to(store: Path) -> None:
    ds = open_study(store)
    xr.testing.assert_identical(pickle.loads(pickle.dumps(ds)).load(), read_everything(store))
    copied = ds.copy()
    copied.prediction[0] = -1
    assert (copied.prediction[0] == -1).all() and not (read_everything(store).prediction[0] == -1).any()


def test_xarray_reads_the_same_files_by_itself(store: Path) -> None:
    """Whoever hands the files to xarray's own backend for zarr has the same comparison with the manifest."""
    options = {"group": f"{LAYER}/zero", "chunks": None, "consolidated": True}
    ds, whole = xr.open_zarr(LocalFiles(store), **options), read_everything(store)  # type: ignore[arg-type]
    for name in ds.data_vars:
        np.testing.assert_array_equal(ds[name].values, whole[name].values)
    ds = xr.open_zarr(LocalFiles(store), **options)  # type: ignore[arg-type]
    flip(store / LAYER / "zero/prediction/c/0/0")
    (store / LAYER / "zero/n_fixed/c/0/0").unlink()
    with pytest.raises(UnitlabError, match="the bytes of the file conv5_3/zero/prediction/c/0/0 are not those"):
        ds.prediction.load()
    with pytest.raises(UnitlabError, match="the file conv5_3/zero/n_fixed/c/0/0 is missing"):
        ds.n_fixed.load()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_file_is_compared_again_once_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "study.zarr"
    write_study(path, simulated_groups(300, 5, 3000, thumbnails=False))
    file, ds = path / f"{LAYER}/zero/label_margin_drop/c/0/0", open_study(path)
    expected = ds.label_margin_drop[[3, 290]].values
    before = file.read_bytes()
    flip(file)
    with pytest.raises(UnitlabError, match="the bytes of the file conv5_3/zero/label_margin_drop/c/0/0 are not those"):
        ds.label_margin_drop[290].load()
    file.unlink()
    with pytest.raises(UnitlabError, match="label_margin_drop/c/0/0 is missing"):
        ds.label_margin_drop[290].load()
    (tmp_path / "aside").write_bytes(before)
    file.symlink_to(tmp_path / "aside")
    with pytest.raises(UnitlabError, match="symbolic link"):
        ds.label_margin_drop[290].load()
    file.unlink()
    file.write_bytes(before)
    np.testing.assert_array_equal(ds.label_margin_drop[[3, 290]].values, expected)


def test_another_layer_and_ablation_are_added(store: Path) -> None:
    before = read_everything(store)
    write_study(store, simulated_groups(**OPTIONS, ablation="mean"))
    write_study(store, simulated_groups(**OPTIONS, layer="conv4_3"))
    assert study_summary(store).layers == {LAYER: ["zero", "mean"], "conv4_3": ["zero"]}
    np.testing.assert_array_equal(read_everything(store).prediction, before.prediction)
    check_files(store)
    with pytest.raises(UnitlabError, match="no layer 'conv9'"):
        open_study(store, "conv9")
    with pytest.raises(UnitlabError, match="no ablation 'resample'"):
        open_study(store, ablation="resample")


def test_a_study_of_something_else_is_refused(store: Path) -> None:
    with pytest.raises(UnitlabError, match="study of other images"):
        write_study(store, simulated_groups(**OPTIONS, seed=1))
    other = simulated_groups(**OPTIONS)
    other[""][0]["baseline_prediction"] = (other[""][0]["baseline_prediction"] + 1) % 4
    with pytest.raises(UnitlabError, match="'baseline_prediction' differs"):
        write_study(store, other)
    read_everything(store)


@pytest.mark.parametrize("byte", [0.0, 0.5, 0.999])
def test_a_flipped_byte_in_any_file_is_an_error_that_names_it(whole: Path, tmp_path: Path, byte: float) -> None:
    for name in sorted(read_manifest(whole).files):
        store = Path(shutil.copytree(whole, tmp_path / "study.zarr"))
        content = bytearray((store / name).read_bytes())
        content[int(byte * len(content))] ^= 0xFF
        (store / name).write_bytes(bytes(content))
        with pytest.raises(UnitlabError, match=name):
            check_files(store)
        try:
            found = read_everything(store)
        except UnitlabError:
            pass
        else:
            # a byte that no read touches: what is read is right all the same
            xr.testing.assert_identical(found, read_everything(whole))
        shutil.rmtree(store)


def test_a_missing_or_cut_file_is_an_error_that_names_it(whole: Path, tmp_path: Path) -> None:
    for name in sorted(read_manifest(whole).files):
        for change in (Path.unlink, lambda path: os.truncate(path, path.stat().st_size // 2)):
            store = Path(shutil.copytree(whole, tmp_path / "study.zarr"))
            change(store / name)
            with pytest.raises(UnitlabError, match=name):
                open_study(store)
            shutil.rmtree(store)


def break_manifest(store: Path) -> None:
    (store / MANIFEST).write_text("{")


def change_manifest(store: Path) -> None:
    content = json.loads((store / MANIFEST).read_text())
    content["unitlab_schema"] = 99
    (store / MANIFEST).write_text(json.dumps(content))


def newer(store: Path) -> None:
    (store / MANIFEST).unlink()
    write_manifest(store, 99)


def link_out(store: Path) -> None:
    name = next(name for name in read_manifest(store).files if "/c/" in name)
    outside = store.parent / "outside"
    shutil.move(store / name, outside)
    (store / name).symlink_to(outside)


def escape(store: Path) -> None:
    (store.parent / "secret").write_text("secret")
    (store / MANIFEST).unlink()
    write_manifest(store, 1)
    content = json.loads((store / MANIFEST).read_text())
    content["files"]["../secret"] = [6, "0" * 64]
    content.pop("digest")
    from unitlab.store.files import _digest

    content["digest"] = _digest(content)
    (store / MANIFEST).write_text(json.dumps(content))


def foreign(store: Path) -> None:
    shutil.rmtree(store)
    zarr.open_group(store, mode="w")["x"] = np.arange(3)


def format_two(store: Path) -> None:
    shutil.rmtree(store)
    zarr.open_group(store, mode="w", zarr_format=2)


def a_file(store: Path) -> None:
    shutil.rmtree(store)
    store.write_text("x")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (break_manifest, "manifest.json cannot be read"),
        (change_manifest, "manifest.json is not what was written"),
        (newer, "newer unitlab"),
        (link_out, "symbolic link"),
        (escape, "outside of the store"),
        (foreign, "no study of unitlab"),
        (format_two, "format 2"),
        (a_file, "it is a file"),
        (lambda store: (store / MANIFEST).unlink(), "manifest.json is missing"),
        (shutil.rmtree, "no study at"),
    ],
)
def test_what_is_no_study_is_said_so(store: Path, change: Callable[[Path], None], match: str) -> None:
    change(store)
    with pytest.raises(UnitlabError, match=match):
        open_study(store)
    with pytest.raises(UnitlabError, match=match):
        study_summary(store)


def with_metadata(store: Path, name: str, change: Callable[[dict], None]) -> None:
    """Change an array's metadata, its group's copies too, and make the manifest fit: as somebody who means harm would."""
    for path in store.rglob("zarr.json"):
        content = json.loads(path.read_text())
        members = content.get("consolidated_metadata", {}) or {}
        found = [member for key, member in members.get("metadata", {}).items() if key.rpartition("/")[2] == name]
        for member in found + ([content] if path.parent.name == name else []):
            change(member)
        path.write_text(json.dumps(content))
    (store / MANIFEST).unlink()
    write_manifest(store, 1)


def pickles(member: dict) -> None:
    member["codecs"] = [{"name": "pickle", "configuration": {}}]


def absurd(member: dict) -> None:
    member["shape"] = [1 << 40, 1 << 40]


def huge_chunks(member: dict) -> None:
    member["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 33, 40]


def objects(member: dict) -> None:
    member["data_type"] = {"name": "object", "configuration": {}}


@pytest.mark.parametrize(("change", "match"), [(pickles, "pickle"), (absurd, r"cannot be|absurd|files"), (objects, "'object'")])
def test_arrays_that_unitlab_cannot_have_written_are_refused(store: Path, change: Callable[[dict], None], match: str) -> None:
    with_metadata(store, "prediction", change)
    with pytest.raises(UnitlabError, match=match):
        read_everything(store)


def test_a_study_replaced_while_it_is_open_is_an_error(store: Path) -> None:
    ds = open_study(store)
    shutil.rmtree(store)
    write_study(store, simulated_groups(**OPTIONS, seed=9))
    with pytest.raises(UnitlabError, match=r"load it again|missing|damaged"):
        ds.prediction.load()


def test_a_study_that_vanishes_while_it_is_open_is_an_error(store: Path) -> None:
    ds = open_study(store)
    shutil.rmtree(store)
    with pytest.raises(UnitlabError, match=r"gone|missing"):
        ds.prediction.load()


@pytest.mark.parametrize("allowed", [0, 1, 3, 8])
def test_a_full_disk_leaves_the_old_study(store: Path, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """The disk fills up after some files: the old study stays whole, nothing else is left behind."""
    before = read_everything(store)
    written = 0
    real = zarr.storage.LocalStore.set

    async def filling(self: object, *args: object, **options: object) -> None:
        nonlocal written
        written += 1
        if written > allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(zarr.storage.LocalStore, "set", filling)
    with pytest.raises(UnitlabError, match="no space left"):
        write_study(store, simulated_groups(**OPTIONS, ablation="mean"))
    monkeypatch.undo()
    xr.testing.assert_identical(read_everything(store), before)
    assert study_summary(store).layers == {LAYER: ["zero"]}
    assert [path.name for path in store.parent.iterdir() if path.name != "home"] == ["study.zarr"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):  # root may write everywhere: the system call says what it would say to others

        def refused(*args: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UnitlabError, match="cannot be written"):
        write_study(folder / "study.zarr", simulated_groups(**OPTIONS))
    monkeypatch.undo()
    folder.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("moment", ["after the first rename", "before the first rename"])
def test_a_process_that_dies_while_it_swaps_loses_nothing(store: Path, moment: str) -> None:
    new = store.with_name("new.zarr")
    write_study(new, simulated_groups(**OPTIONS, ablation="mean"))
    if moment == "after the first rename":
        store.rename(store.with_name("study.zarr.previous"))
        new.rename(store.with_name("study.zarr.building"))
        assert study_summary(store).layers == {LAYER: ["mean"]}
    else:
        shutil.copytree(store, store.with_name("study.zarr.previous"))
        assert study_summary(store).layers == {LAYER: ["zero"]}


def test_half_a_building_falls_back_to_the_previous_study(store: Path) -> None:
    store.rename(store.with_name("study.zarr.previous"))
    store.with_name("study.zarr.building").mkdir()
    assert study_summary(store).layers == {LAYER: ["zero"]}


@pytest.mark.parametrize(
    ("group", "change", "match"),
    [
        ("", lambda arrays: arrays.pop("label"), "lacks the variable 'label'"),
        ("", lambda arrays: arrays.update(label=arrays["label"][:-1]), "'label' has 39 along 'image'"),
        ("", lambda arrays: arrays.update(label=arrays["label"] * 0.5), "dtype float64"),
        ("", lambda arrays: arrays.update(secret=arrays["label"]), "does not know"),
        ("", lambda arrays: arrays.update(image=np.array(["same"] * 40, object)), "occur twice"),
        (f"{LAYER}/zero", lambda arrays: arrays.update(unit=arrays["unit"][::-1]), "not those of the layer"),
    ],
)
def test_arrays_that_do_not_fit_the_schema_are_refused(
    tmp_path: Path, group: str, change: Callable[[dict], object], match: str
) -> None:
    groups = simulated_groups(**OPTIONS)
    change(groups[group][0])  # type: ignore[arg-type]
    with pytest.raises(UnitlabError, match=match):
        write_study(tmp_path / "bad.zarr", groups)
    with pytest.raises(UnitlabError, match=match):
        assemble(groups, LAYER, "zero")
    assert not (tmp_path / "bad.zarr").exists()


def test_a_store_that_xarray_wrote_is_named_as_such(tmp_path: Path) -> None:
    ds = unitlab.load("vgg_fashion").isel(unit=[3, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's format 3 has no texts of its own yet
        ds.to_zarr(tmp_path / "mine.zarr")
    with pytest.raises(UnitlabError, match=r"written by xarray.*ds = xarray\.open_zarr"):
        unitlab.load(tmp_path / "mine.zarr")
    with xr.open_zarr(tmp_path / "mine.zarr") as again:
        np.testing.assert_array_equal(unitlab.damage(again).p_value, unitlab.damage(ds).p_value)
