"""Folders of labelled pictures as Places365 and ImageNet come: which file belongs to which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from unitlab.compute.images.datasets import SUFFIXES
from unitlab.errors import UnitlabError, nearest_names

MOST_LEVELS = 4
PLACES_CATEGORIES, PLACES_LABELS, PLACES_PICTURES = "categories_places365.txt", "places365_val.txt", ("val_256", "val_large")


@dataclass(frozen=True)
class LabelledFiles:
    """Picture files, the label of each, and the names of the classes' folders."""

    root: Path
    files: list[Path]
    labels: list[int]
    folders: list[str]


def labelled_files(folder: Path, *, folders: Sequence[str] | str, count: int, name: str) -> LabelledFiles:
    """Pictures below a folder, by class.

    Parameters
    ----------
    folder
        A folder per class, perhaps some levels down where there is nothing else; torchvision's ``Places365``
        folder.
    folders
        Names of the classes' folders in the order of the logits; "wnids": ImageNet's; "": whichever are there, sorted.
    count
        How many classes are expected; 0 where any number will do.
    name
        Of the images, for messages.

    Raises
    ------
    UnitlabError
        No pictures, another number of classes, a folder that is no class, a label that is none.
    """
    if not folder.is_dir():
        raise UnitlabError(f"{folder} is not a folder; give the folder of {name}")
    if (folder / PLACES_CATEGORIES).is_file() and (folder / PLACES_LABELS).is_file():
        return _places_files(folder, count)
    root = _class_level(folder)
    found = _subfolders(root)
    names = [path.name for path in found]
    if folders == "wnids":
        wanted = resources.files("unitlab.recipes").joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split()
    else:
        wanted = list(folders) or names
    if not folders and count and len(names) != count:
        raise UnitlabError(
            f"{root} has {len(names)} folders, {name} has {count} classes and a folder for each: the folders' order gives the "
            "classes their numbers, so all must be there (they may be empty)"
        )
    number = {wanted_name: place for place, wanted_name in enumerate(wanted)}
    unknown = [folder_name for folder_name in names if folder_name not in number]
    if unknown:
        raise UnitlabError(
            f"{root} has a folder {unknown[0]!r} that is no class of {name}. {nearest_names(unknown[0], wanted)}"
        )
    files: list[Path] = []
    labels: list[int] = []
    for path in found:
        pictures = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        files += pictures
        labels += [number[path.name]] * len(pictures)
    if not files:
        raise UnitlabError(f"{folder} holds no pictures; expected {folder}/CLASS/PICTURE with one of {sorted(SUFFIXES)}")
    return LabelledFiles(root, files, labels, wanted)


def _subfolders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._"), key=lambda path: path.name)


def _class_level(folder: Path) -> Path:
    """The folder whose subfolders are the classes: through ``val`` and folders that hold one folder alone."""
    for _ in range(MOST_LEVELS):
        inner = _subfolders(folder)
        if (folder / "val").is_dir():
            folder = folder / "val"
        elif len(inner) == 1 and _subfolders(inner[0]):
            folder = inner[0]
        else:
            break
    return folder


def _places_files(folder: Path, count: int) -> LabelledFiles:
    """torchvision's layout: pictures side by side, a list with the label of each, a list of the classes."""
    pictures = next((folder / name for name in PLACES_PICTURES if (folder / name).is_dir()), None)
    if pictures is None:
        raise UnitlabError(f"{folder} has {PLACES_LABELS}, but none of the folders {PLACES_PICTURES} with the pictures")
    names: dict[int, str] = {}
    files: list[Path] = []
    labels: list[int] = []
    try:
        for line in (folder / PLACES_CATEGORIES).read_text(encoding="utf-8").split("\n"):
            if line.strip():
                place, index = line.split()
                # "/a/apartment_building/outdoor": the first letter only sorts
                names[int(index)] = "-".join(place.strip("/").split("/")[1:]) or place
        if sorted(names) != list(range(len(names))) or (count and len(names) != count):
            raise UnitlabError(f"{folder / PLACES_CATEGORIES} has {len(names)} classes, expected {count}, numbered from 0")
        for line in (folder / PLACES_LABELS).read_text(encoding="utf-8").split("\n"):
            if line.strip():
                picture, index = line.split()
                path = pictures / picture.lstrip("/")
                if ".." in path.parts or not path.is_file():
                    raise UnitlabError(f"{folder / PLACES_LABELS} names {picture!r}, which is not in {pictures}")
                files.append(path)
                labels.append(int(index))
    except ValueError as error:
        if isinstance(error, UnitlabError):
            raise
        raise UnitlabError(f"a list of Places365 in {folder} has another layout ({error})") from error
    return LabelledFiles(pictures, files, labels, [names[index] for index in range(len(names))])
