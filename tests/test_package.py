"""The wheel works as the checkout does, bundled studies included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

import unitlab
from unitlab.files import bundled_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("unitlab_ablation-*.whl"))


def environment_with(packages: Iterable[str], folder: Path) -> Path:
    """The Python of a new environment with these packages, installed by this one's pip, which need not compile them all."""
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-compile", *packages], check=True)
    return python


def test_the_wheel_carries_data_and_notebooks(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("images/emoji.zip", "weights/vgg_emoji.safetensors", "studies/vgg_emoji.zarr/manifest.json", "README.md"):
        assert f"unitlab/data/{needed}" in names
    assert {"unitlab/notebooks/damage_of_a_unit.ipynb", "unitlab/views/page/explorer.css", "unitlab/py.typed"} <= set(names)
    assert not any("rebuild" in name or name.startswith("tests") for name in names)


def test_the_wheel_loads_a_study_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    python = environment_with([str(wheel)], tmp_path / "env")
    code = (
        "import unitlab, importlib.util\n"
        "assert importlib.util.find_spec('torch') is None\n"
        "ds = unitlab.load('vgg_emoji')\n"
        "assert ds.thumbnails.isel(image=0).shape == (64, 64, 3)\n"
        "print(unitlab.__file__, sum(unitlab.studies()['where'] == 'bundled'), float(ds.accuracy_drop.max()) > 0)"
    )
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert done.returncode == 0, done.stderr
    where, count, damaging = done.stdout.split()
    assert where.startswith(str(tmp_path)) and int(count) == 5 and damaging == "True"
    listed = subprocess.run([python.with_name("unitlab"), "list"], capture_output=True, text=True, cwd=tmp_path)
    assert listed.returncode == 0 and "resnet_emoji" in listed.stdout


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the oldest numpy has no wheel for it")
def test_the_oldest_xarray_and_zarr_open_a_study_without_a_warning(tmp_path: Path) -> None:
    """The newest ones do in test_catalog.py."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = {name: bound for text in stated for name, bound in re.findall(r"^([a-z]+)>=([\d.]+)", text)}
    wanted = [f"{name}=={oldest[name]}.*" for name in ("numpy", "pandas")]
    wanted += [f"{name}=={oldest[name]}" for name in ("xarray", "zarr")]
    python = environment_with(wanted, tmp_path / "env")
    store = bundled_folder() / "studies" / "vgg_fashion.zarr"
    code = (
        "import sys, xarray\n"
        "for group in ('', 'conv3_2', 'conv3_2/zero'):\n"
        f"    ds = xarray.open_zarr({str(store)!r}, group=group, chunks=None).load()\n"
        "assert 'unitlab' not in sys.modules\n"
        "print(float(ds.accuracy_drop.max()), xarray.__version__)"
    )
    done = subprocess.run([python, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    drop, version = done.stdout.split()
    assert float(drop) == float(unitlab.load("vgg_fashion").accuracy_drop.max()) and version.startswith(oldest["xarray"])


def test_the_readme_cites_this_version() -> None:
    (cited,) = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    entries = dict(re.findall(r"^@\w+\{(\w+),(.*?)^\}$", cited, re.DOTALL | re.MULTILINE))
    assert {"zhou2018revisiting", "unitlab", "xiao2017fashion"} <= set(entries)
    for entry in entries.values():
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) *= \{.*", entry, re.MULTILINE))
        assert entry.count("{") == entry.count("}")
    assert f"version = {{{unitlab.__version__}}}" in entries["unitlab"]


def test_only_public_names_are_listed() -> None:
    assert dir(unitlab) == sorted(unitlab.__all__) and {"ablate", "load", "plots", "recipes"} <= set(dir(unitlab))
    assert all(getattr(unitlab, name) is not None for name in dir(unitlab))
    assert not [name for name in dir(unitlab) if name.startswith("_")]


def test_a_users_script_passes_strict_types(tmp_path: Path) -> None:
    """As checked against the installed package, whose py.typed says that it has types."""
    script = tmp_path / "script.py"
    script.write_text(
        "import unitlab\n"
        "damage = unitlab.damage(unitlab.load('vgg_emoji'))\n"
        "print(damage.sizes['unit'], unitlab.correlations(damage), unitlab.studies().index, unitlab.plots.units(damage))\n"
        "print(unitlab.damage('vgg_emoji', level=0.9).sizes, unitlab.plots.units('vgg_emoji'))\n"
        "print(unitlab.compare('vgg_emoji', 'resnet_emoji').sizes, unitlab.agreement({'a': 'vgg_emoji', 'b': damage}).index)\n"
    )
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import unitlab\nunitlab.load(3.5)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", sys.executable, str(script), str(wrong)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert done.returncode == 1 and said, done.stdout + done.stderr
    assert all(line.startswith("wrong.py:2: ") and "call-overload" in line for line in said), done.stdout
