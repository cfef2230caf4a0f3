"""ImageNet's official archives: the validation images in one, which class each belongs to in the other."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from scipy.io import loadmat

from unitlab.compute.files.archives import unpacked
from unitlab.compute.files.downloads import check_digest
from unitlab.errors import UnitlabError

IMAGES, IMAGES_DIGEST = "ILSVRC2012_img_val.tar", "md5:29b22e2961454d5413ddabcf34fc5622"
DEVKIT, DEVKIT_DIGEST = "ILSVRC2012_devkit_t12.tar.gz", "md5:fa75699e90414af021442c21a62c3abf"
META, TRUTH = (f"ILSVRC2012_devkit_t12/data/{name}" for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"))
LARGEST_TABLE = 64 << 20


def is_imagenet(folder: Path) -> bool:
    """Whether a folder holds the archive of images and nobody has unpacked it there."""
    return (folder / IMAGES).is_file() and not (folder / "val").is_dir()


def unpacked_imagenet(folder: Path, target: Path) -> Path:
    """The validation images of the archives in ``folder``, a folder per class named by its wnid, at ``target``.

    Raises
    ------
    UnitlabError
        An archive that is missing, damaged or not the official one.
    """
    if target.is_dir():
        return target
    devkit = folder / DEVKIT
    if not devkit.is_file():
        raise UnitlabError(f"{folder} holds {IMAGES}, but not {DEVKIT}, which tells the class of each image; put it there, too")
    check_digest(devkit, DEVKIT_DIGEST)
    classes = imagenet_classes(devkit)
    check_digest(folder / IMAGES, IMAGES_DIGEST)

    def arrange(building: Path) -> None:
        pictures = sorted(building.iterdir())
        if len(pictures) != len(classes):
            raise UnitlabError(f"{folder / IMAGES} holds {len(pictures)} images, {devkit} tells the class of {len(classes)}")
        for wnid in set(classes):
            (building / wnid).mkdir()
        for picture, wnid in zip(pictures, classes, strict=True):
            picture.rename(building / wnid / picture.name)

    return unpacked(folder / IMAGES, target, arrange)


def imagenet_classes(devkit: Path) -> list[str]:
    """Wnid of each validation image, in the order of their names.

    Raises
    ------
    UnitlabError
        An archive without the two tables, or with tables of another layout.
    """
    try:
        with tarfile.open(devkit) as opened:
            tables = []
            for name in (META, TRUTH):
                member = opened.getmember(name)
                file = opened.extractfile(member)
                if file is None or member.size > LARGEST_TABLE:
                    raise ValueError(f"{name} is no table")
                tables.append(file.read())
        # numbers of single classes and of the groups above them, which have children
        rows = loadmat(io.BytesIO(tables[0]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
        return [wnids[int(line)] for line in tables[1].decode("ascii").split()]
    except Exception as error:
        raise UnitlabError(
            f"{devkit} does not hold the tables of ImageNet's development kit ({type(error).__name__}: {error}); get it again"
        ) from error
