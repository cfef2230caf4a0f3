"""Sweeps on Dask workers: the same bytes as in one process, and what happens when something is lost."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import torch
from scripted_images import scripted_source
from small_networks import FunctionalReLU
from sweep_process import said_until, sweep_process, wait_for_shards

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.sweep import cluster as clusters
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.cluster import assigned_devices
from unitlab.compute.sweep.fingerprints import SAMPLED_IMAGES
from unitlab.compute.sweep.worker import WorkerFacts
from unitlab.store.shards import JoinedStudy, PartialStudy

# no dashboard, and every port chosen by the system
LOOPBACK: dict[str, Any] = {
    "host": "127.0.0.1",
    "dashboard_address": None,
    "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL, **LOOPBACK) as found:
        yield found


@pytest.fixture
def client(cluster: distributed.LocalCluster) -> Iterator[distributed.Client]:
    with distributed.Client(cluster, set_as_default=False) as found:
        found.wait_for_workers(2, timeout=60)
        yield found


@pytest.fixture(autouse=True)
def one_thread_and_small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> torch.nn.Module:
    torch.manual_seed(5)
    return FunctionalReLU().eval()


def ablate(folder: Path, store: Path, layer: Any = "conv2", **options: Any) -> None:
    unitlab.ablate(
        network(), scripted_source(folder), layer,
        store=store, batch_size=4, memory="64 MB", progress=False, device="cpu", **options,
    )  # fmt: skip


def data_files(store: Path) -> dict[str, bytes]:
    """Bytes of all data files: metadata carries the time of writing."""
    paths = sorted(path for path in store.rglob("*") if path.is_file() and path.name not in ("zarr.json", "manifest.json"))
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in paths}


def attributes(store: Path, layer: str, ablation: str) -> dict[str, Any]:
    found = dict(unitlab.load(store, layer, ablation).attrs)
    del found["created"], found["name"]
    return found


@pytest.mark.parametrize(("ablation", "layer"), [("zero", ["conv1", "conv2"]), ("mean", "all"), ("resample", "conv1")])
def test_workers_give_the_bytes_of_one_process(tmp_path: Path, client: Any, ablation: str, layer: Any) -> None:
    ablate(tmp_path, tmp_path / "one.zarr", layer, ablation=ablation)
    ablate(tmp_path, tmp_path / "many.zarr", layer, ablation=ablation, client=client)
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")
    assert attributes(tmp_path / "many.zarr", "conv1", ablation) == attributes(tmp_path / "one.zarr", "conv1", ablation)
    assert not list(tmp_path.glob("*.partial"))
    plugins = client.run(lambda dask_worker: [name for name in dask_worker.plugins if name.startswith("unitlab-")])
    assert list(plugins.values()) == [[], []]


def test_principal_axes_are_worked_out_once_and_sent_to_the_workers(client: distributed.Client, tmp_path: Path) -> None:
    ablate(tmp_path, tmp_path / "alone.zarr", basis="pca")
    ablate(tmp_path, tmp_path / "workers.zarr", basis="pca", client=client)
    assert data_files(tmp_path / "workers.zarr") == data_files(tmp_path / "alone.zarr")


def test_a_killed_worker_costs_its_shard(tmp_path: Path, client: Any, caplog: pytest.LogCaptureFixture) -> None:
    ablate(tmp_path, tmp_path / "one.zarr")
    pids = set(client.run(os.getpid).values())
    (tmp_path / "kill").touch()
    with caplog.at_level(logging.INFO, logger="unitlab"):
        ablate(tmp_path, tmp_path / "many.zarr", client=client)
    lost = [record.getMessage() for record in caplog.records if "is gone" in record.getMessage()]
    assert len(lost) == 1 and "images 104 to 108, is computed again" in lost[0]
    client.wait_for_workers(2, timeout=60)
    assert len(pids - set(client.run(os.getpid).values())) == 1
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_workers_read_the_images_of_their_shards_and_no_others(tmp_path: Path, client: Any) -> None:
    (tmp_path / "readers").mkdir()
    ablate(tmp_path, tmp_path / "many.zarr", client=client)
    one, other = ((tmp_path / "readers" / str(pid)).read_text().split() for pid in client.run(os.getpid).values())
    # both look at the first image for the shapes, and at those of the fingerprint
    sampled = {str(position) for position in np.linspace(0, 127, SAMPLED_IMAGES).astype(int)}
    assert set(one) & set(other) <= sampled and set(one) | set(other) == {str(position) for position in range(128)}
    reads = Counter(one + other)
    assert all(count == (3 if position in sampled else 1) for position, count in reads.items())


def test_processes_of_a_loader_are_threads_in_a_worker(tmp_path: Path, client: Any) -> None:
    source = scripted_source(tmp_path, loader={"num_workers": 2, "batch_size": 2})
    for store, options in ("one", {}), ("many", {"client": client}):
        unitlab.ablate(
            network(), source, "conv2",
            store=tmp_path / store, batch_size=4, memory="64 MB", progress=False, device="cpu", **options,
        )  # fmt: skip
    assert data_files(tmp_path / "many") == data_files(tmp_path / "one")


SWEEP = """
import logging, sys
sys.path[:0] = {paths!r}
import distributed
from pathlib import Path
import test_cluster
logging.basicConfig(level=logging.INFO, format="%(message)s")
test_cluster.planning.SHARD_IMAGES = 4
with distributed.Client({address!r}, set_as_default=False) as client:
    test_cluster.ablate(Path({folder!r}), Path({folder!r}) / "many.zarr", client=client)
"""


def test_ctrl_c_ends_with_the_current_shards_and_the_sweep_resumes(tmp_path: Path, client: Any) -> None:
    (tmp_path / "hold").touch()
    code = SWEEP.format(
        paths=[str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), str(Path(__file__).parent)],
        address=client.scheduler_info()["address"], folder=str(tmp_path),
    )  # fmt: skip
    with sweep_process([sys.executable, "-c", code]) as process:
        # one worker is held at images 104 to 108, the other one goes on
        wait_for_shards(process, tmp_path, 28)
        process.send_signal(signal.SIGINT)
        said = said_until(process, "Ctrl-C again stops at once")
        (tmp_path / "hold").unlink()
        assert process.stderr is not None
        said += list(process.stderr)
    assert process.returncode == -signal.SIGINT, said
    assert (tmp_path / "many.zarr.partial" / "shard-000026.safetensors").exists() and not (tmp_path / "many.zarr").exists()
    ablate(tmp_path, tmp_path / "many.zarr", client=client)
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_the_command_computes_on_a_scheduler(
    tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 128)
    few = unitlab.images("fashion_mnist").subset(range(384))
    monkeypatch.setattr(RecipeFiles, "images", lambda _: few)
    command = ["compute", "vgg_fashion", "--units", "3", "--device", "cpu", "--store"]
    assert main([*command, str(tmp_path / "many.zarr"), "--scheduler", client.scheduler_info()["address"]]) == 0
    assert "worst class" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "one.zarr")]) == 0
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_what_a_cluster_cannot_do_is_said(tmp_path: Path, client: Any) -> None:
    with pytest.raises(UnitlabError, match="without store="):
        unitlab.ablate(network(), scripted_source(tmp_path), "conv2", client=client)
    with pytest.raises(UnitlabError, match="not a synchronous Dask client"):
        ablate(tmp_path, tmp_path / "a.zarr", client="tcp://127.0.0.1:1")
    source = scripted_source(tmp_path)
    source._lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(UnitlabError, match="pickle refuses them"):
        unitlab.ablate(network(), source, "conv2", store=tmp_path / "b.zarr", client=client, progress=False)
    with pytest.raises(UnitlabError, match="none of 2 Dask workers sees a GPU"):
        clusters.WorkerPool(client, "cuda")


def test_a_network_that_the_workers_do_not_have(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("import small_networks\nclass OnlyHere(small_networks.FunctionalReLU): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    with pytest.raises(UnitlabError, match=r"cannot load network or images .*only_here.*PYTHONPATH"):
        unitlab.ablate(
            only_here.OnlyHere().eval(), scripted_source(tmp_path), "conv2",
            store=tmp_path / "a.zarr", client=client, progress=False,
        )  # fmt: skip


def test_no_scheduler_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(clusters, "NO_WORKER_SECONDS", 0.5)
    assert main(["compute", "vgg_fashion", "--scheduler", f"tcp://127.0.0.1:{port}"]) == 2
    assert "no Dask scheduler answers" in capsys.readouterr().err
    with (
        distributed.LocalCluster(n_workers=0, silence_logs=logging.CRITICAL, **LOOPBACK) as empty,
        distributed.Client(empty, set_as_default=False) as client,
        pytest.raises(UnitlabError, match=r"no Dask worker came.*dask worker tcp://127\.0\.0\.1:\d+ --nthreads 1"),
    ):
        ablate(tmp_path, tmp_path / "a.zarr", client=client)


def test_a_worker_writes_only_into_its_own_sweep(tmp_path: Path) -> None:
    fingerprint = {"weights": "a", "images": "b"}
    study = PartialStudy(tmp_path / "study.zarr", fingerprint)
    worker = JoinedStudy(study.folder, fingerprint)
    worker.write(2, {"x": torch.arange(3).numpy()})
    assert study.finished() == [2] and study.has(2) and not study.has(1)
    with pytest.raises(UnitlabError, match="other weights"):
        JoinedStudy(study.folder, {**fingerprint, "weights": "c"})
    study.remove()
    with pytest.raises(UnitlabError, match="share no file system"):
        worker.write(3, {"x": torch.arange(3).numpy()})


def test_gpus_are_taken_in_turn() -> None:
    def facts(host: str, gpus: int, visible: str = "") -> WorkerFacts:
        return WorkerFacts(host, 1, gpus, visible, unitlab.__version__)

    one_each = {"a": facts("left", 1, "0"), "b": facts("left", 1, "1"), "c": facts("right", 1, "0")}
    assert assigned_devices(one_each, None) == {"a": "cuda:0", "b": "cuda:0", "c": "cuda:0"}
    all_seen = {"a": facts("left", 2), "b": facts("left", 2), "c": facts("right", 2), "d": facts("left", 0)}
    assert assigned_devices(all_seen, None) == {"a": "cuda:0", "b": "cuda:1", "c": "cuda:0"}
    # a worker that comes later takes what is free, and nobody else moves
    later = {"b": all_seen["b"], "c": all_seen["c"], "e": facts("left", 2)}
    before = {"b": "cuda:1", "c": "cuda:0"}
    assert assigned_devices(later, "cuda", before) == {"b": "cuda:1", "c": "cuda:0", "e": "cuda:0"}
    assert assigned_devices(all_seen, "cpu") == dict.fromkeys("abcd", "cpu")
    assert assigned_devices({"d": all_seen["d"]}, None) == {"d": "cpu"} and assigned_devices({"d": all_seen["d"]}, "cuda") == {}


def test_a_shard_that_kills_every_worker_ends_the_sweep_and_the_rest_is_kept(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "LOSSES", 2)  # as many as there are workers: a new one takes seconds
    (tmp_path / "kill always").touch()
    with pytest.raises(UnitlabError, match=r"2 Dask workers in turn were lost while computing images 104 to 108.*memory="):
        ablate(tmp_path, tmp_path / "many.zarr", client=client)
    kept = len(list((tmp_path / "many.zarr.partial").glob("shard-*.safetensors")))
    assert kept >= 26 and not (tmp_path / "many.zarr").exists()
    (tmp_path / "kill always").unlink()
    ablate(tmp_path, tmp_path / "many.zarr")
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def pause_at(share: float, dask_worker: Any) -> None:
    """Let Dask pause a worker once its memory is filled to this share."""
    dask_worker.memory_manager.memory_pause_fraction = share


def wait_for_running(client: distributed.Client, count: int) -> None:
    until = time.monotonic() + 60
    while len(client.sync(client.scheduler.ncores_running)) != count:
        assert time.monotonic() < until, f"{client.sync(client.scheduler.ncores_running)} run, not {count}"
        time.sleep(0.01)


@pytest.fixture
def paused_worker(client: distributed.Client) -> Iterator[str]:
    address = min(client.nthreads())
    client.run(pause_at, 1e-9, workers=[address])
    wait_for_running(client, 1)
    yield address
    client.run(pause_at, 0.8)
    wait_for_running(client, 2)


def test_a_worker_that_dask_has_paused_is_not_waited_for(
    tmp_path: Path, client: Any, paused_worker: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clusters, "NO_WORKER_SECONDS", 1.0)
    meet, met = clusters.WorkerPool._meet_workers, []

    def meet_late(pool: clusters.WorkerPool) -> None:
        """It is paused in the moment in which it is given a shard."""
        meet(pool)
        met.append(paused_worker in pool.paused)
        if len(met) <= 2:
            pool.paused.clear()

    monkeypatch.setattr(clusters.WorkerPool, "_meet_workers", meet_late)
    (tmp_path / "hold").touch()
    threading.Timer(3, (tmp_path / "hold").unlink).start()
    ablate(tmp_path, tmp_path / "many.zarr", client=client)
    assert all(met)
    lost = [record.getMessage() for record in caplog.records if "is computed again" in record.getMessage()]
    assert len(lost) == 1 and f"worker {paused_worker} is paused by Dask" in lost[0]
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")
    client.run(pause_at, 1e-9)
    wait_for_running(client, 0)
    with pytest.raises(UnitlabError, match="no Dask worker for 1 s but 2 that Dask has paused, as their memory is full"):
        ablate(tmp_path, tmp_path / "never.zarr", client=client)


def test_a_frozen_worker_is_not_waited_for_for_ever(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ANSWER_SECONDS", 2.0)
    pid = min(client.run(os.getpid).values())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(UnitlabError, match="Dask does not answer within 2 s: the scheduler or one of its workers hangs"):
            ablate(tmp_path, tmp_path / "a.zarr", client=client)
    finally:
        os.kill(pid, signal.SIGCONT)
