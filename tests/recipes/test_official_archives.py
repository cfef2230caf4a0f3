"""ImageNet's and Places365's own files, in miniature, from the command to a verified study."""

from __future__ import annotations

import io
import tarfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from stand_ins import digest, network_of, reduced, write_pictures, write_weights

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.compute.files import imagenet_archives
from unitlab.compute.files.imagenet_archives import DEVKIT, IMAGES, imagenet_classes
from unitlab.recipes import RECIPES

WNIDS = resources.files("unitlab.recipes").joinpath("imagenet_wnids.txt").read_text().split()
# the kit numbers its classes in an order of its own
KIT_NUMBERS = {wnid: 1 + place * 7 % 1000 for place, wnid in enumerate(WNIDS)}
SHOWN = [243, 0, 999, 243]


def meta_mat() -> bytes:
    """The table ``synsets`` with the fields of the official one: a thousand classes, then groups of them."""
    fields = [
        ("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object), ("num_children", object),
        ("children", object), ("wordnet_height", object), ("num_train_images", object),
    ]  # fmt: skip
    rows = [
        (float(number), wnid, f"{wnid}, a class", "a gloss", 0.0, np.zeros((0,)), 0.0, 1300.0)
        for wnid, number in sorted(KIT_NUMBERS.items(), key=lambda item: item[1])
    ]
    rows += [(1001.0, "n00001740", "entity", "a gloss", 2.0, np.array([1.0, 2.0]), 2.0, 0.0)]
    file = io.BytesIO()
    savemat(file, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_devkit(path: Path, truth: list[int], meta: bytes) -> None:
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/readme.txt", b"a kit")
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta)
        lines = "".join(f"{number}\n" for number in truth)
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", lines.encode())


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "official"
    folder.mkdir()
    write_pictures(tmp_path / "pictures", ["x"], {"x": len(SHOWN)})
    with tarfile.open(folder / IMAGES, "w") as archive:
        for number, path in reversed(list(enumerate(sorted((tmp_path / "pictures" / "x").iterdir()), 1))):
            archive.add(path, f"ILSVRC2012_val_{number:08d}.JPEG")
    write_devkit(folder / DEVKIT, [KIT_NUMBERS[WNIDS[label]] for label in SHOWN], meta_mat())
    monkeypatch.setattr(imagenet_archives, "IMAGES_DIGEST", f"md5:{digest(folder / IMAGES, 'md5')}")
    monkeypatch.setattr(imagenet_archives, "DEVKIT_DIGEST", f"md5:{digest(folder / DEVKIT, 'md5')}")
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    write_weights("resnet18_imagenet", network_of(reduced("resnet18_imagenet")), path)
    return path


def command(weights: Path, folder: Path) -> list[str]:
    given = ["--weights", str(weights), "--any-weights", "--images", str(folder)]
    return ["compute", "resnet18_imagenet", "--units", "1,5", "--device", "cpu", *given]


def test_imagenets_archives(
    official: Path, weights: Path, own_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command(weights, official)) == 0, capsys.readouterr().err
    assert main(["verify", "resnet18_imagenet+units", "--sample", "4", "--device", "cpu"]) == 0
    ds = unitlab.load("resnet18_imagenet+units")
    order = [(0, 2), (243, 1), (243, 4), (999, 3)]
    assert ds.image.values.tolist() == [f"{WNIDS[label]}/ILSVRC2012_val_{number:08d}.JPEG" for label, number in order]
    assert ds.label.values.tolist() == [label for label, _ in order]
    assert sorted(path.name for path in official.iterdir()) == [DEVKIT, IMAGES], "the given folder stays as it is"
    # the same as torchvision makes of the same archives
    from torchvision.datasets import ImageNet, imagenet

    meta = {"val": (IMAGES, digest(official / IMAGES, "md5")), "devkit": (DEVKIT, digest(official / DEVKIT, "md5"))}
    monkeypatch.setattr(imagenet, "ARCHIVE_META", meta)
    monkeypatch.setattr(imagenet.ImageFolder, "find_classes", lambda *_: (WNIDS, {name: i for i, name in enumerate(WNIDS)}))
    monkeypatch.setattr(imagenet.ImageFolder, "make_dataset", staticmethod(_files_by_class))
    theirs = ImageNet(official, "val")
    assert [(Path(path).relative_to(official / "val").as_posix(), label) for path, label in theirs.samples] == list(
        zip(ds.image.values.tolist(), ds.label.values.tolist(), strict=True)
    )
    # what torchvision unpacked is taken as it is, and is the same study
    assert main([*command(weights, official), "--store", str(own_home / "again.zarr")]) == 0, capsys.readouterr().err
    again = unitlab.load(own_home / "again.zarr")
    assert again.attrs["fingerprint_images"] == ds.attrs["fingerprint_images"]
    np.testing.assert_array_equal(again.prediction, ds.prediction)


def _files_by_class(folder: str, class_to_idx: dict[str, int], **_: object) -> list[tuple[str, int]]:
    return [(str(path), class_to_idx[path.parent.name]) for path in sorted(Path(folder).rglob("*.JPEG"))]


def test_the_official_digests_are_torchvisions() -> None:
    from torchvision.datasets.imagenet import ARCHIVE_META

    ours = [(IMAGES, imagenet_archives.IMAGES_DIGEST), (DEVKIT, imagenet_archives.DEVKIT_DIGEST)]
    assert ours == [(name, f"md5:{md5}") for name, md5 in (ARCHIVE_META["val"], ARCHIVE_META["devkit"])]


def test_archives_that_are_missing_or_others(
    official: Path, weights: Path, own_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str:
        assert main(command(weights, official)) == 2
        assert not list(own_home.glob("images/*"))
        return capsys.readouterr().err

    whole = (official / IMAGES).read_bytes()
    (official / IMAGES).write_bytes(whole[:-2000])
    assert f"{IMAGES} is not the file expected" in told()
    monkeypatch.setattr(imagenet_archives, "IMAGES_DIGEST", "md5:")
    (official / IMAGES).write_bytes(whole[: len(whole) // 2])
    assert f"{IMAGES} is damaged or cut" in told()
    (official / IMAGES).write_bytes(whole)
    kit = (official / DEVKIT).read_bytes()
    (official / DEVKIT).write_bytes(kit[:-50])
    assert f"{DEVKIT} is not the file expected" in told()
    monkeypatch.setattr(imagenet_archives, "DEVKIT_DIGEST", "md5:")
    write_devkit(official / DEVKIT, [1, 2], meta_mat())
    assert "holds 4 images" in told() and not (official / "val").exists()
    (official / DEVKIT).unlink()
    assert f"not {DEVKIT}" in told()


def test_kits_of_another_layout(tmp_path: Path) -> None:
    path = tmp_path / DEVKIT
    other = io.BytesIO()
    savemat(other, {"something": np.zeros(3)})
    for truth, meta in (([5000], meta_mat()), ([1], b"no table"), ([1], other.getvalue()), ([1], b"")):
        write_devkit(path, truth, meta)
        with pytest.raises(UnitlabError, match="does not hold the tables"):
            imagenet_classes(path)
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/readme.txt", b"a kit")
    with pytest.raises(UnitlabError, match="does not hold the tables"):
        imagenet_classes(path)


def test_places365s_validation_files(tmp_path: Path, places_classes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What val_256.tar and filelist_places365-standard.tar hold, side by side, as torchvision's Places365 unpacks them."""
    folder = tmp_path / "places"
    write_pictures(folder, ["val_256"], {"val_256": 3})
    for number, path in enumerate(sorted((folder / "val_256").iterdir()), 1):
        path.rename(folder / "val_256" / f"Places365_val_{number:08d}.jpg")
    names = [f"/{name[0]}/{name.replace('-', '/')}" for name in places_classes]
    categories = "".join(f"{name} {index}\n" for index, name in enumerate(names))
    (folder / "categories_places365.txt").write_text(categories)
    labels = [364, 0, 2]
    lines = "".join(f"Places365_val_{number:08d}.jpg {label}\n" for number, label in enumerate(labels, 1))
    (folder / "places365_val.txt").write_text(lines)
    for other in ("places365_train_standard.txt", "places365_test.txt", "val_256.tar", "filelist_places365-standard.tar"):
        (folder / other).write_bytes(b"")
    path = tmp_path / "resnet18_places365.pth.tar"
    write_weights("resnet18_places", network_of(RECIPES["resnet18_places"]), path)
    given = ["--weights", str(path), "--images", str(folder)]
    assert main(["compute", "resnet18_places", "--units", "1,5", "--device", "cpu", *given]) == 0, capsys.readouterr().err
    assert main(["verify", "resnet18_places+units", "--sample", "4", "--device", "cpu"]) == 0
    ds = unitlab.load("resnet18_places+units")
    assert ds.label.values.tolist() == labels and ds.category.values.tolist() == places_classes
    assert ds.image.values.tolist() == [f"Places365_val_{number:08d}.jpg" for number in (1, 2, 3)]
