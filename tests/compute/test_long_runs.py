"""Sweeps with more shards than a process may have open files, resumed and stopped ones, seen from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import tqdm.std
from scripted_images import HELD_SECONDS, scripted_source
from small_networks import FunctionalReLU
from sweep_process import said_until, sweep_process, wait_for_shards

import unitlab
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.progress import images_bar

FOLDERS = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

SWEEP = """
import logging, resource, sys
sys.path[:0] = {folders!r}
from pathlib import Path
import torch
from scripted_images import scripted_source
from small_networks import FunctionalReLU
import unitlab
from unitlab.compute.sweep import baseline, plan
torch.manual_seed(5)
plan.SHARD_IMAGES = 4
baseline.BASELINE_IMAGES = 8
logging.basicConfig(level=logging.INFO, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
folder = Path({folder!r})
source = scripted_source(folder, count={count}, loader={loader!r})
unitlab.ablate(
    FunctionalReLU().eval(), source, "conv2", units=[0, 1], store=folder / "study.zarr",
    batch_size=4, device="cpu", progress=False,
)
"""


def command(folder: Path, count: int = 128, loader: dict[str, int] | None = None) -> list[str]:
    return [sys.executable, "-c", SWEEP.format(folders=FOLDERS, folder=str(folder), count=count, loader=loader)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_more_shards_than_open_files(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, 600), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert unitlab.load(tmp_path / "study.zarr").sizes["image"] == 600


def test_ctrl_c_finishes_the_shard_says_so_and_the_same_call_goes_on(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()  # the sweep waits in the middle of shard 27
    with sweep_process(command(tmp_path), environment()) as process:
        wait_for_shards(process, tmp_path, 26)
        process.send_signal(signal.SIGINT)
        said = said_until(process, "Ctrl-C again stops at once")
        (tmp_path / "hold").unlink()
        assert process.stderr is not None
        said += list(process.stderr)
    assert process.returncode == -signal.SIGINT and any("finished and kept" in line for line in said), said
    assert len(list(tmp_path.glob("*.partial/shard-*.safetensors"))) == 27 and not (tmp_path / "study.zarr").exists()
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and "going on: 108 of 128 images" in done.stderr, done.stderr
    assert not list(tmp_path.glob("*.partial"))


def test_ctrl_c_in_a_terminal_reaches_the_processes_that_read_too(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    sweep = command(tmp_path, loader={"num_workers": 2, "batch_size": 2})
    with sweep_process(sweep, environment()) as process:
        wait_for_shards(process, tmp_path, 26)
        readers = psutil.Process(process.pid).children()
        for reader in readers:
            reader.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        said = said_until(process, "Ctrl-C again stops at once")
        (tmp_path / "hold").unlink()
        assert process.stderr is not None
        said += list(process.stderr)
    assert process.returncode == -signal.SIGINT and len(readers) == 2, said
    assert len(list(tmp_path.glob("*.partial/shard-*.safetensors"))) == 27
    assert not psutil.wait_procs(readers, timeout=60)[1]


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with sweep_process(command(tmp_path), environment()) as process:
        wait_for_shards(process, tmp_path, 26)
        process.send_signal(signal.SIGINT)
        said_until(process, "Ctrl-C again stops at once")
        process.send_signal(signal.SIGINT)
        process.wait(HELD_SECONDS / 2)  # not until the read that hangs gives up
    assert process.returncode == -signal.SIGINT
    assert len(list(tmp_path.glob("*.partial/shard-*.safetensors"))) == 26


def test_ctrl_c_is_the_programs_own_again_after_a_sweep(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    unitlab.ablate(FunctionalReLU().eval(), scripted_source(tmp_path), "conv2", store=tmp_path / "a.zarr", progress=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_rate_and_time_left_are_those_of_this_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr(tqdm.std, "time", lambda: now)
    with images_bar(1_000_000, finished=900_000, description="a resumed sweep", shown=True) as bar:
        for seconds, images in ((100.0, 5_000), (0.1, 5_000), (99.9, 10_000)):  # two workers end almost together
            now += seconds
            bar.update(images)
        bar.refresh()
        shown = str(bar)
    assert bar.n == 920_000
    # 20,000 images in 200 s: 100 images/s, 800 s for the 80,000 that are left
    assert "100.00 images/s" in shown and "03:20<13:20" in shown and "920000/1000000" in shown
    capsys.readouterr()


def test_what_was_chosen_and_what_is_there_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 8)
    with caplog.at_level("INFO", logger="unitlab"):
        unitlab.ablate(
            FunctionalReLU().eval(), scripted_source(tmp_path), ["conv1", "fc2"],
            batch_size=8, device="cpu", store=tmp_path / "a.zarr", progress=False,
        )  # fmt: skip
    said = caplog.text
    assert "conv1 (conv1), 8 units: 8 units along dimension 1 of (image, unit, row 17, column 17); 1 operations by" in said
    assert "fc2 (fc2), 7 units: 7 units along dimension 1 of (image, unit); the layer's channels reach the logits apart" in said
    assert "on cpu, float32; 16 shards of 8 images, 8 at a time within 2.0 GB" in said
