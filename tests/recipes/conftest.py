"""A web server on this machine, and the images of the stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from local_server import Server
from stand_ins import write_pictures, zipped


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    found = Server(folder)
    yield found
    found.close()


@pytest.fixture(scope="session")
def places_classes() -> list[str]:
    return sorted(["ski_resort", "airfield", "apartment_building-outdoor", *(f"place_{index:03d}" for index in range(362))])


@pytest.fixture(scope="session")
def places_zip(tmp_path_factory: pytest.TempPathFactory, places_classes: list[str]) -> Path:
    """Places365's validation part: a folder per class, some levels down."""
    folder = tmp_path_factory.mktemp("places")
    pictures = {"airfield": 2, "ski_resort": 1}
    write_pictures(folder / "inside" / "places" / "val", places_classes, pictures)
    zipped(folder / "inside", folder / "places_val.zip")
    return folder / "places_val.zip"


@pytest.fixture(scope="session")
def imagenet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's validation part: a folder per wnid inside val."""
    folder = tmp_path_factory.mktemp("imagenet")
    wnids = resources.files("unitlab.recipes").joinpath("imagenet_wnids.txt").read_text().split()
    write_pictures(folder / "val", wnids, {"n01440764": 1, "n02108422": 1, "n15075141": 1})
    return folder
