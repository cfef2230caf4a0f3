"""Binder's files agree with what the package asks for."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

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
