from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unitlab
from unitlab import UnitlabError, catalog
from unitlab.cli import main


def test_list_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "vgg_emoji" in capsys.readouterr().out
    assert main(["info", "resnet_emoji"]) == 0
    assert "undefined: l1_norm, l2_norm (the layer's output is no filter's own" in capsys.readouterr().out
    assert main(["info", "vgg_fashion"]) == 0
    shown = capsys.readouterr().out
    assert "conv3_2 (default), zero: all 64 units at features.relu3_2" in shown and " 0 different" in shown


def test_compute_verify_and_load(capsys: pytest.CaptureFixture[str], own_home: Path) -> None:
    assert main(["compute", "vgg_fashion", "--units", "3,5,10-12", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "worst class" in shown and "overall drop" in shown and "unitlab.load('vgg_fashion+units')" in shown
    damage = unitlab.damage("vgg_fashion+units")
    rows = {int(line.split()[0]): line.split()[-4:] for line in shown.splitlines() if re.match(r" +\d+  ", line)}
    assert set(rows) == {3, 5, 10, 11, 12} and "cross-fitted" in shown and "p specific" in shown
    for unit, row in rows.items():
        of = damage.sel(unit=unit)
        values = [100 * float(of.max_class_drop), 100 * float(of.max_class_drop_crossfit), float(of.p_specific)]
        assert [*map(float, row)] == pytest.approx([*values, 100 * float(of.overall_drop)], abs=0.051)
    assert damage.attrs["tested"] in shown
    bundled = unitlab.load("vgg_fashion")
    assert bundled.sizes["unit"] == 64, "a trial takes over no name"
    ds = unitlab.load("vgg_fashion+units")
    assert ds.unit.values.tolist() == [3, 5, 10, 11, 12]
    same = ds.prediction.values == bundled.prediction.sel(unit=ds.unit).values
    assert same.mean() > 0.9999  # ties within float noise differ from machine to machine
    store = own_home / "studies" / "vgg_fashion+units.zarr"
    for name in (str(store), "vgg_fashion+units"):
        assert main(["verify", name, "--sample", "200", "--device", "cpu"]) == 0
        assert "0 different" in capsys.readouterr().out
    assert main(["info", "vgg_fashion+units"]) == 0
    assert "5 of 64 units (3, 5, 10-12)" in capsys.readouterr().out


@pytest.fixture
def small_fashion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fashion-MNIST is its first 200 images, so that the command ends soon."""
    from unitlab.compute.files.recipe_files import RecipeFiles

    before = RecipeFiles.images
    monkeypatch.setattr(RecipeFiles, "images", lambda files: before(files).subset(range(200)))


@pytest.mark.usefixtures("small_fashion")
def test_a_trial_leaves_the_name_and_further_layers_do_too(capsys: pytest.CaptureFixture[str]) -> None:
    compute = ["compute", "vgg_fashion", "--device", "cpu"]
    assert main([*compute, "--units", "3,5", "--ablation", "mean"]) == 0
    assert main([*compute, "--units", "7"]) == 0
    assert main([*compute, "--units", "5", "--layer", "conv1_1"]) == 0
    trial = unitlab.load("vgg_fashion+units")
    assert (trial.attrs["ablation"], trial.unit.values.tolist(), trial.sizes["image"]) == ("zero", [7], 200)
    assert unitlab.load("vgg_fashion+units", ablation="mean").unit.values.tolist() == [3, 5]
    assert unitlab.load("vgg_fashion+units", "conv1_1").unit.values.tolist() == [5]
    # the name is the bundled study's still, and says what else there is
    assert unitlab.load("vgg_fashion").sizes["image"] == 10_000
    with pytest.raises(UnitlabError, match=r"'unitlab compute vgg_fashion --ablation mean' computes it.*'vgg_fashion\+units'"):
        unitlab.load("vgg_fashion", ablation="mean")
    # what is computed under the name comes first, layer by layer
    assert main([*compute, "--ablation", "mean"]) == 0
    assert main([*compute, "--layer", "conv1_1"]) == 0
    mean, first, plain = (
        unitlab.load("vgg_fashion", *which) for which in ((None, "mean"), ("conv1_1",), ())
    )  # fmt: skip
    assert [ds.sizes["image"] for ds in (mean, first, plain)] == [200, 200, 10_000]
    assert plain.attrs["layer"] == mean.attrs["layer"] == "conv3_2"
    assert plain.encoding["ablations"] == {"conv3_2": ["zero", "mean"], "conv1_1": ["zero"]}
    capsys.readouterr()
    assert main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "conv3_2, conv1_1" in rows["vgg_fashion"] and "computed" in rows["vgg_fashion"] and "MB" in rows["vgg_fashion"]
    assert "conv3_2: 3 of 64 units (3, 5, 7), conv1_1: 1 of 32 units (5)" in rows["vgg_fashion+units"]
    assert main(["info", "vgg_fashion"]) == 0
    assert capsys.readouterr().out.count("store = ") == 2


@pytest.mark.usefixtures("small_fashion")
def test_unfinished_sweeps_are_listed_and_removed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    bundled = unitlab.studies().loc["vgg_fashion", "size"]
    with monkeypatch.context() as patched:
        patched.setattr("unitlab.compute.sweep.run.write_study", interrupted)
        assert main(["compute", "vgg_fashion", "--ablation", "mean", "--device", "cpu"]) == 130
    row = unitlab.studies().loc["vgg_fashion"]
    assert (row["where"], row["unfinished"]) == ("bundled", "200 of 200 images") and row["size"] > bundled
    partial = own_home / "studies" / "vgg_fashion.zarr.partial"
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["remove", "vgg_fashion"]) == 1
    assert partial.exists() and str(partial) in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["remove", "vgg_fashion"]) == 0
    assert not partial.exists() and "'vgg_fashion' is the bundled study again" in capsys.readouterr().out
    assert main(["remove", "vgg_fashion", "--yes"]) == 2 and "comes with unitlab" in capsys.readouterr().err
    assert main(["compute", "vgg_fashion", "--units", "5", "--device", "cpu"]) == 0
    assert main(["remove", "vgg_fashion+units", "--yes"]) == 0
    assert list((own_home / "studies").iterdir()) == []
    with pytest.raises(UnitlabError, match="no study 'vgg_fashion\\+units'"):
        unitlab.load("vgg_fashion+units")


def test_errors_end_with_2_and_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["info", "vgg_emojis"], ["compute", "vgg17"], ["compute", "vgg_fashion", "--units", "a"]):
        assert main(arguments) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("unitlab: ") and "Traceback" not in shown


@pytest.mark.parametrize(("command", "begins"), [("info vgg_fashion", "vgg_fashion: VGG style"), ("list", "name ")])
def test_who_has_read_enough_sees_no_traceback(command: str, begins: str) -> None:
    # 'true' reads nothing at all
    for reader, shown in (("head -1", begins), ("true", "")):
        piped = f"{sys.executable} -m unitlab {command} | {reader}"
        done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True)
        assert done.stdout.startswith(shown) and not done.stderr


def test_a_flipped_byte_fails_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(catalog.path_of("vgg_fashion"), copy)
    victim = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    assert main(["verify", str(copy)]) == 2
    assert victim.name in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unitlab.compute.sweep.run.compute_shards", interrupted)
    assert main(["compute", "vgg_fashion", "--device", "cpu"]) == 130
    assert "goes on from here" in capsys.readouterr().err
