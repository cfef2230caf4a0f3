"""Binder's files agree with what the package asks for, and repo2docker makes of them the image that is meant."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_THE_BASE_IMAGE = {"jupyterlab", "ipykernel"}


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "binder" / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert not any(line.startswith(("-", ".", "/")) for line in lines), "a local line installs everything anew on each commit"
    split = [line.split("==") for line in lines]
    return {name: version for name, version in split}


def test_every_dependency_of_looking_is_pinned_within_its_limits() -> None:
    pinned = pins()
    wanted = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["notebook"]]
    for requirement in wanted:
        if requirement.name not in OF_THE_BASE_IMAGE:
            assert requirement.name in pinned, f"{requirement.name} is missing in binder/requirements.txt"
            assert pinned[requirement.name] in requirement.specifier, requirement
    assert not {"torch", "torchvision"} & set(pinned), "the image is to stay small"


def test_python_and_the_build_script() -> None:
    python = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK) and "--no-deps ." in script.read_text()
    assert script.read_text().startswith("#!/bin/bash\n")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # repo2docker's own
def test_what_repo2docker_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from repo2docker.app import Repo2Docker
    from repo2docker.buildpacks import PythonBuildPack

    app = Repo2Docker(platform="linux/amd64")
    monkeypatch.chdir(ROOT)
    # the first that detects its files builds the image
    packs = (kind(base_image=app.base_image) for kind in app.buildpacks)
    pack = next(found for found in packs if found.detect())
    assert isinstance(pack, PythonBuildPack) and pack.binder_dir == "binder"
    python = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert pack.python_version == python
    pack.platform = app.platform
    image = pack.render({"NB_USER": "jovyan"}).splitlines()
    steps = (
        '/pip install --no-cache-dir -r "binder/requirements.txt"',
        " src/ ${REPO_DIR}/",
        "RUN ./binder/postBuild",
    )
    places = [next(place for place, line in enumerate(image) if step in line) for step in steps]
    assert places == sorted(places), "what a commit does not change is installed before the repository is copied"
