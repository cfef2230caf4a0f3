"""Folders of labelled pictures, one per class or as Places365 and ImageNet come: which file belongs to which class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from PIL import Image
from torchvision.models import ResNet18_Weights

from unitlab.errors import UnitlabError, nearest_names

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
# read where this Pillow can; studies without reading rules of their own are without them
FURTHER_SUFFIXES = {".jfif", ".jpe", ".avif"}
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
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
        wanted = _wnids()
    elif folders:
        wanted = list(folders)
    elif count and len(found) != count:
        raise UnitlabError(
            f"{root} has {len(found)} folders, {name} has {count} classes and a folder for each: the folders' order gives the "
            "classes their numbers, so all must be there (they may be empty)"
        )
    files, labels, skipped = pictures_by_class(found, wanted, f"class of {name}")
    if not files:
        raise UnitlabError(f"{folder} holds no pictures; expected {folder}/CLASS/PICTURE with one of {sorted(SUFFIXES)}")
    return LabelledFiles(root, files, labels, wanted, ([] if folders else notes) + skipped)


def in_order(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of folders in the order of the classes, numbers as numbers, and a note where text would sort otherwise."""
    by_text = sorted(names)
    found = sorted(by_text, key=int) if all(name.isdecimal() for name in by_text) else by_text
    return found, [] if found == by_text else [f"classes in the order of their numbers ({', '.join(found[:3])}, …)"]


def subfolders(folder: Path, hidden: str = ".") -> list[Path]:
    """Folders in a folder by name, but those whose names begin with one of ``hidden``, and what macOS leaves in archives."""
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[0] not in hidden and path.name not in JUNK)
    return sorted(found, key=lambda path: path.name)


def refuse_parts(folder: Path, found: Sequence[Path], categories: Sequence[str] | None) -> None:
    """Refuse a folder whose folders are the parts of a data set, and not classes."""
    parts = [path for path in found if path.name.casefold() in PARTS and subfolders(path)]
    if parts and (len(parts) > 1 or len(found) == 1) and not {path.name for path in parts} & set(categories or ()):
        meant = next((path for path in parts if path.name.casefold().startswith("val")), parts[-1])
        raise UnitlabError(
            f"{folder} holds {' and '.join(path.name for path in parts)}, which look like parts of a data set and not like "
            f"classes; give the part that is meant, such as unitlab.images({str(meant)!r})"
        )


def pictures_by_class(folders: Iterable[Path], classes: Sequence[str], what: str) -> tuple[list[Path], list[int], list[str]]:
    """The pictures in some folders, at any depth, the label of each, and a note of the files that are none.

    The label is the place of the folder's name in ``classes``; of a WordNet id of ImageNet, also of torchvision's name for it.
    """
    folders, number = list(folders), {name: place for place, name in enumerate(classes)}
    if any(folder.name not in number and re.fullmatch(r"n\d{8}", folder.name) for folder in folders):
        names = zip(_wnids(), ResNet18_Weights.IMAGENET1K_V1.meta["categories"], strict=True)
        number = {**{wnid: number[name] for wnid, name in names if name in number}, **number}
    readable = SUFFIXES | (FURTHER_SUFFIXES & set(Image.registered_extensions()))
    files: list[Path] = []
    labels: list[int] = []
    skipped: Counter[str] = Counter()
    for folder in folders:
        if folder.name not in number:
            near = nearest_names(folder.name, classes)
            raise UnitlabError(f"{folder.parent} has a folder {folder.name!r} that is no {what}. {near}")
        pictures = []
        for path in _files_below(folder):
            if path.name.startswith("._") or path.name in JUNK:
                skipped["._*" if path.name.startswith("._") else path.name] += 1
            elif path.suffix.lower() in readable:
                pictures.append(path)
            else:
                skipped[path.suffix.lower() or path.name] += 1
        files += sorted(pictures)
        labels += [number[folder.name]] * len(pictures)
    kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common())
    return files, labels, [f"{skipped.total()} file{'s' * (skipped.total() > 1)} skipped ({kinds})"] if skipped else []


def _wnids() -> list[str]:
    """WordNet ids of ImageNet's classes, in the order of the logits."""
    return resources.files("unitlab.recipes").joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split()


def _files_below(folder: Path) -> Iterator[Path]:
    """Files at any depth, through links to folders, each folder once."""
    seen = set()
    for here, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if name not in JUNK)
        yield from (path for name in names if (path := Path(here, name)).is_file())


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
