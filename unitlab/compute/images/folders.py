"""Folders of labelled pictures, one per class or as Places365 and ImageNet come: which file belongs to which class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from unitlab.errors import UnitlabError, nearest_names

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
MOST_LEVELS = 4
PLACES_CATEGORIES, PLACES_LABELS, PLACES_PICTURES = "categories_places365.txt", "places365_val.txt", ("val_256", "val_large")


@dataclass(frozen=True)
class LabelledFiles:
    """Picture files, the label of each, and the names of the classes' folders."""

    root: Path
    files: list[Path]
    labels: list[int]
    folders: list[str]
    notes: list[str] = field(default_factory=list)


def labelled_files(folder: Path, *, folders: Sequence[str] | str, count: int, name: str) -> LabelledFiles:
    """Pictures below a folder, by class.

    Parameters
    ----------
    folder
        A folder per class, perhaps some levels down where there is nothing else; torchvision's ``Places365``
        folder.
    folders
        Names of the classes' folders in the order of the logits; "wnids": ImageNet's; "": whichever are there, sorted as
        `in_order` does.
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
    found = subfolders(root, "._")
    wanted, notes = in_order(path.name for path in found)
    if folders == "wnids":
        wanted = resources.files("unitlab.recipes").joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split()
    elif folders:
        wanted = list(folders)
    elif count and len(found) != count:
        raise UnitlabError(
            f"{root} has {len(found)} folders, {name} has {count} classes and a folder for each: the folders' order gives the "
            "classes their numbers, so all must be there (they may be empty)"
        )
    files, labels = pictures_by_class(found, wanted, f"class of {name}")
    if not files:
        raise UnitlabError(f"{folder} holds no pictures; expected {folder}/CLASS/PICTURE with one of {sorted(SUFFIXES)}")
    return LabelledFiles(root, files, labels, wanted, [] if folders else notes)


def in_order(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of folders as the classes' order takes them, numbers as numbers, and a note where that is another than the text's."""
    by_text = sorted(names)
    found = sorted(by_text, key=int) if all(name.isdecimal() for name in by_text) else by_text
    return found, [] if found == by_text else [f"classes in the order of their numbers ({', '.join(found[:3])}, …)"]


def subfolders(folder: Path, hidden: str = ".") -> list[Path]:
    """Folders in a folder by name, but those whose names begin with one of ``hidden``."""
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[0] not in hidden)
    return sorted(found, key=lambda path: path.name)


def pictures_by_class(folders: Iterable[Path], classes: Sequence[str], what: str) -> tuple[list[Path], list[int]]:
    """The pictures in some folders, at any depth, and the label of each: the place of the folder's name in ``classes``."""
    number = {name: place for place, name in enumerate(classes)}
    files: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        if folder.name not in number:
            near = nearest_names(folder.name, classes)
            raise UnitlabError(f"{folder.parent} has a folder {folder.name!r} that is no {what}. {near}")
        pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        files += pictures
        labels += [number[folder.name]] * len(pictures)
    return files, labels


def _class_level(folder: Path) -> Path:
    """The folder whose subfolders are the classes: through ``val`` and folders that hold one folder alone."""
    for _ in range(MOST_LEVELS):
        inner = subfolders(folder, "._")
        if (folder / "val").is_dir():
            folder = folder / "val"
        elif len(inner) == 1 and subfolders(inner[0], "._"):
            folder = inner[0]
        else:
            break
    return folder


def _places_files(folder: Path, count: int) -> LabelledFiles:
    """torchvision's layout: pictures side by side, a list with the label of each, a list of the classes."""
    pictures = next((folder / name for name in PLACES_PICTURES if (folder / name).is_dir()), None)
    if pictures is None:
        raise UnitlabError(f"{folder} has {PLACES_LABELS}, but none of the folders {PLACES_PICTURES} with the pictures")
    files: list[Path] = []
    labels: list[int] = []
    try:
        # "/a/apartment_building/outdoor": the first letter only sorts
        places = {int(index): place for place, index in _rows(folder / PLACES_CATEGORIES)}
        names = {index: "-".join(place.strip("/").split("/")[1:]) or place for index, place in places.items()}
        if sorted(names) != list(range(len(names))) or (count and len(names) != count):
            raise UnitlabError(f"{folder / PLACES_CATEGORIES} has {len(names)} classes, expected {count}, numbered from 0")
        for picture, index in _rows(folder / PLACES_LABELS):
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


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
