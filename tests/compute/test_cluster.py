"""Sweeps on Dask workers: the same bytes as in one process, and what happens when something is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import dask
import distributed
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from scripted_images import scripted_source
from small_networks import CLASSES, FunctionalReLU
from sweep_process import said_until, sweep_process, wait_for_shards
from torch import nn

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep import baseline, passes
from unitlab.compute.sweep import cluster as clusters
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep import worker as workers
from unitlab.compute.sweep.fingerprints import SAMPLED_IMAGES
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.screening import Rule
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
    monkeypatch.setattr(baseline, "BASELINE_IMAGES", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> torch.nn.Module:
    torch.manual_seed(5)
    return FunctionalReLU().eval()


def ablate(folder: Path, store: Path, layer: Any = "conv2", at: int = 106, device: str | None = "cpu", **options: Any) -> None:
    unitlab.ablate(
        network(), scripted_source(folder, at=at), layer,
        store=store, batch_size=4, memory="64 MB", progress=False, device=device, **options,
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


def test_workers_compute_an_outcome_that_refers_to_numbers_here(tmp_path: Path, client: Any) -> None:
    weight = torch.linspace(0, 1, 2)
    options = {"outcome": ("weighted", lambda logits, label: (logits[:, :2] * weight).sum(1)), "top_k": 2}
    ablate(tmp_path, tmp_path / "one.zarr", **options)
    ablate(tmp_path, tmp_path / "many.zarr", client=client, **options)
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")
    assert "conv2/zero/outcome_drop/c/0/0" in data_files(tmp_path / "many.zarr")


def test_workers_screen_as_one_process_does(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pilot, first attempt and second one, which a rule that leaves out too much asks for."""
    bad = Rule(threshold=230, probability=0.3)
    monkeypatch.setattr(passes, "calibrated_rules", lambda counts, *_: dict.fromkeys(counts, bad))
    torch.manual_seed(3)
    pictures = torch.utils.data.TensorDataset(torch.randn(400, 3, 17, 17), torch.arange(400) % 7)
    images = unitlab.images(pictures, categories=[f"class {k}" for k in range(7)])
    options = {"screen": 0.15, "batch_size": 80, "memory": "64 MB", "progress": False, "device": "cpu"}
    for name, by in (("one", None), ("many", client)):
        ds = unitlab.ablate(close_calls(), images, "conv1", store=tmp_path / f"{name}.zarr", client=by, **options)
        assert ds.attrs["screen_attempts"] == 2
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")
    assert attributes(tmp_path / "many.zarr", "conv1", "zero") == attributes(tmp_path / "one.zarr", "conv1", "zero")


def close_calls() -> torch.nn.Module:
    """A network that many ablations change the predictions of."""
    model = network()
    with torch.no_grad():
        model.fc2.bias.zero_()
    return model


def test_workers_read_the_network_as_it_was_given(tmp_path: Path, client: Any) -> None:
    """In half precision, in a wrapper, with a hook that cannot be pickled, and with another output."""
    model = torch.nn.DataParallel(network().bfloat16())
    model.module.conv1.register_forward_hook(lambda *_: None)
    options = {"batch_size": 4, "memory": "64 MB", "progress": False, "device": "cpu", "output": torch.neg}
    images = scripted_source(tmp_path)
    found = unitlab.ablate(model, images, "conv2", store=tmp_path / "many.zarr", client=client, **options).load()
    expected = unitlab.ablate(model, images, "conv2", **options)
    xr.testing.assert_equal(found, expected)
    assert found.attrs["prepared"] == expected.attrs["prepared"] == "DataParallel unwrapped, bfloat16 converted to float32"
    assert found.attrs["output"] == expected.attrs["output"] and "neg" in found.attrs["output"]


def test_principal_axes_are_worked_out_once_and_sent_to_the_workers(client: distributed.Client, tmp_path: Path) -> None:
    ablate(tmp_path, tmp_path / "alone.zarr", basis="pca")
    ablate(tmp_path, tmp_path / "workers.zarr", basis="pca", client=client)
    assert data_files(tmp_path / "workers.zarr") == data_files(tmp_path / "alone.zarr")


# both workers look at the first image for the shapes, and at those of the fingerprint
SAMPLED = {int(position) for position in np.linspace(0, 127, SAMPLED_IMAGES)}


def reads(folder: Path) -> dict[int, list[int]]:
    """The positions that each worker has read, by its process."""
    notes = {int(path.name): path.read_text().split() for path in (folder / "readers").iterdir()}
    return {pid: [int(position) for position in positions] for pid, positions in notes.items() if pid != os.getpid()}


def worker_that_reads(folder: Path, position: int) -> int:
    """The process of a worker that comes to an image."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for pid, positions in reads(folder).items():
            if position in positions:
                return pid
        time.sleep(0.01)
    raise AssertionError(f"no worker has read image {position}")


@contextmanager
def when_it_reads(folder: Path, position: int, then: Callable[[int], object]) -> Iterator[None]:
    """Hold the worker that comes to an image until something was done with its process."""
    (folder / "readers").mkdir()
    (folder / "hold").touch()

    def wait() -> None:
        try:
            then(worker_that_reads(folder, position))
        finally:
            (folder / "hold").unlink()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(wait)
        yield
    done.result()


def test_a_killed_worker_costs_its_shard(tmp_path: Path, client: Any) -> None:
    ablate(tmp_path, tmp_path / "one.zarr")
    pids = set(client.run(os.getpid).values())
    (tmp_path / "kill").touch()
    (tmp_path / "readers").mkdir()
    ablate(tmp_path, tmp_path / "many.zarr", client=client)
    counts = Counter(chain.from_iterable(reads(tmp_path).values()))
    again = {position for position, count in counts.items() if count > 1} - SAMPLED
    assert 106 in again and again <= set(range(104, 108)) and counts[106] == 2
    client.wait_for_workers(2, timeout=60)
    assert len(pids - set(client.run(os.getpid).values())) == 1
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_workers_read_the_images_of_their_shards_and_no_others(tmp_path: Path, client: Any) -> None:
    (tmp_path / "readers").mkdir()
    ablate(tmp_path, tmp_path / "many.zarr", client=client)
    one, other = reads(tmp_path).values()
    assert set(one) & set(other) <= SAMPLED and set(one) | set(other) == set(range(128))
    assert all(count == (3 if position in SAMPLED else 1) for position, count in Counter(one + other).items())


def test_the_workers_of_a_machine_share_its_processors(tmp_path: Path, client: Any) -> None:
    for position in range(64):
        path = tmp_path / "pictures" / f"class {position % CLASSES}" / f"{position}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((17, 17, 3), position, np.uint8)).save(path)

    def transform(picture: Any) -> torch.Tensor:
        readers = sum(thread.name == "unitlab reader" for thread in threading.enumerate())
        (folder / f"{os.getpid()} {readers}").touch()
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255

    def see(processors: int, dask_worker: Any) -> None:
        dask_worker.__dict__.setdefault("test_processors", contextlib.ExitStack()).close()
        if processors:
            dask_worker.test_processors.enter_context(patch.object(os, "sched_getaffinity", lambda _: range(processors)))

    folder = tmp_path / "read by"
    folder.mkdir()
    source = unitlab.images(tmp_path / "pictures", transform=transform)
    given = {"batch_size": 4, "progress": False, "device": "cpu"}
    client.run(see, 6)
    try:
        unitlab.ablate(network(), source, "conv2", store=tmp_path / "many.zarr", client=client, **given)
    finally:
        client.run(see, 0)
    most = Counter[int]()
    for pid, readers in (map(int, path.name.split()) for path in folder.iterdir()):
        most[pid] = max(most[pid], readers)
    del most[os.getpid()]
    assert list(most.values()) == [3, 3]
    unitlab.ablate(network(), source, "conv2", store=tmp_path / "one.zarr", **given)
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


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
test_cluster.baseline.BASELINE_IMAGES = 8
with distributed.Client({address!r}, set_as_default=False) as client:
    test_cluster.ablate(Path({folder!r}), Path({folder!r}) / "many.zarr", client=client)
"""


def sweep_command(client: distributed.Client, folder: Path) -> list[str]:
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    return [sys.executable, "-c", SWEEP.format(paths=paths, address=client.scheduler_info()["address"], folder=str(folder))]


def test_ctrl_c_ends_with_the_current_shards_and_the_sweep_resumes(tmp_path: Path, client: Any) -> None:
    (tmp_path / "hold").touch()
    with sweep_process(sweep_command(client, tmp_path)) as process:
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


def left_on(dask_worker: Any) -> list[str]:
    """What is left of sweeps on a worker: plugins, and tasks."""
    return [name for name in [*dask_worker.plugins, *dask_worker.state.tasks] if name.startswith("unitlab-")]


def test_a_second_ctrl_c_stops_at_once_and_leaves_nothing_on_the_cluster(tmp_path: Path, client: Any) -> None:
    (tmp_path / "hold").touch()
    with sweep_process(sweep_command(client, tmp_path)) as process:
        wait_for_shards(process, tmp_path, 28)
        process.send_signal(signal.SIGINT)
        said_until(process, "Ctrl-C again stops at once")
        process.send_signal(signal.SIGINT)
        process.wait(30)
    (tmp_path / "hold").unlink()
    until = time.monotonic() + 30
    while any(client.run(left_on).values()):
        assert time.monotonic() < until, client.run(left_on)
        time.sleep(0.1)
    assert not list((tmp_path / "many.zarr.partial").glob("shard-000026*")) and not (tmp_path / "many.zarr").exists()
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
    with pytest.raises(UnitlabError, match="precision='tf32' on the device 'cpu', which has no TF32"):
        ablate(tmp_path, tmp_path / "c.zarr", client=client, precision="tf32")


def test_workers_that_have_another_unitlab_or_none(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch_here.py").write_text("def count_gpus(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import torch_here  # type: ignore[import-not-found]

    with (
        monkeypatch.context() as patched,
        pytest.raises(UnitlabError, match=r"worker tcp://.* has no such unitlab .*torch_here.*; install"),
    ):
        patched.setattr(clusters, "count_gpus", torch_here.count_gpus)
        ablate(tmp_path, tmp_path / "a.zarr", client=client)
    monkeypatch.setattr(clusters, "__version__", "0.0.1")
    with pytest.raises(UnitlabError, match=rf"worker tcp://.* has unitlab {unitlab.__version__}, here it is 0\.0\.1"):
        ablate(tmp_path, tmp_path / "a.zarr", client=client)


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


def see_gpus(stack: contextlib.ExitStack, *names: str) -> None:
    """Until the stack is closed, let this process believe that it sees GPUs; what is computed there, it computes as before."""

    def plan_sweep(model: nn.Module, source: ImageSource, request: SweepRequest, device: torch.device) -> planning.SweepPlan:
        plan = planning.plan_sweep(model, source, request, "cpu")
        plan.fingerprint["device"] = device.type
        return plan

    stack.enter_context(patch.object(torch.cuda, "is_available", lambda: bool(names)))
    stack.enter_context(patch.object(torch.cuda, "device_count", lambda: len(names)))
    stack.enter_context(patch.object(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=names[number])))
    stack.enter_context(patch.object(workers, "plan_sweep", plan_sweep))


def see_gpus_there(names: dict[str, list[str]], dask_worker: Any) -> None:
    """As `see_gpus` in a worker, by its address; until this is called again."""
    dask_worker.__dict__.setdefault("test_gpus", contextlib.ExitStack()).close()
    if names:
        see_gpus(dask_worker.test_gpus, *names.get(dask_worker.address, ()))


def test_each_worker_has_a_gpu_of_its_own_while_there_are_enough(tmp_path: Path) -> None:
    def take(*names: str, device: str = "cuda") -> tuple[str, str, contextlib.ExitStack]:
        held = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            see_gpus(stack, *names)
            number, turn = workers.take_gpu(device, tmp_path, held)
        return number, Path(turn.lock_file).name, held

    first, second, third, fourth = (take("a", "b") for _ in range(4))
    assert [worker[0] for worker in (first, second, third, fourth)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert first[1] == third[1] != second[1] == fourth[1]
    # one that comes later has the place of one that went, and numbers say nothing about which GPU it is
    second[2].close()
    assert take("c", "b")[:2] == ("cuda:0", "gpu-c.lock") and take("a", "b")[:2] == ("cuda:1", "gpu-b.lock")
    assert take("b", "a", device="cuda:1")[:2] == ("cuda:1", "gpu-a.lock")
    assert take("d")[:2] == ("cuda:0", "gpu-d.lock")


def test_two_workers_on_the_machine_of_one_gpu_take_turns(tmp_path: Path, client: Any) -> None:
    def count(_: int) -> None:
        for _ in range(2):
            counts.append(len(list((tmp_path / "many.zarr.partial").glob("shard-*"))))
            time.sleep(1)

    counts: list[int] = []
    client.run(see_gpus_there, {address: ["a"] for address in client.nthreads()})
    try:
        with when_it_reads(tmp_path, 42, count):
            ablate(tmp_path, tmp_path / "many.zarr", device="cuda", at=42, client=client)
    finally:
        client.run(see_gpus_there, {})
    assert 0 < counts[0] == counts[1] < 32, "the other one computes while the first one has the GPU"
    assert len(reads(tmp_path)) == 2
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_workers_without_a_gpu_have_no_part_where_others_have_one(tmp_path: Path, client: Any) -> None:
    ablate(tmp_path, tmp_path / "one.zarr")
    pids = client.run(os.getpid)
    client.run(see_gpus_there, {min(pids): ["a"]})
    (tmp_path / "readers").mkdir()
    try:
        ablate(tmp_path, tmp_path / "many.zarr", device=None, client=client)
    finally:
        client.run(see_gpus_there, {})
    assert set(reads(tmp_path)) == {pids[min(pids)]}
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_a_shard_that_kills_every_worker_ends_the_sweep_and_the_rest_is_kept(
    tmp_path: Path, cluster: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 1)  # a new worker takes seconds
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
    tmp_path: Path, client: Any, paused_worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = client.run(os.getpid)
    (tmp_path / "readers").mkdir()
    ablate(tmp_path, tmp_path / "many.zarr", client=client)
    assert pids[paused_worker] not in reads(tmp_path) and len(reads(tmp_path)) == 1
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")
    monkeypatch.setattr(clusters, "NO_WORKER_SECONDS", 1.0)
    client.run(pause_at, 1e-9)
    wait_for_running(client, 0)
    with pytest.raises(UnitlabError, match="no Dask worker came within 1 s but 2 that Dask has paused, as their memory"):
        ablate(tmp_path, tmp_path / "never.zarr", client=client)


def test_a_worker_that_dask_pauses_in_the_middle_ends_its_shard_and_gets_no_more(tmp_path: Path, client: Any) -> None:
    def pause(pid: int) -> None:
        client.run(pause_at, 1e-9, workers=[address for address, its in pids.items() if its == pid])
        wait_for_running(client, 1)
        paused.append(pid)

    pids, paused = client.run(os.getpid), list[int]()
    try:
        with when_it_reads(tmp_path, 42, pause):
            ablate(tmp_path, tmp_path / "many.zarr", at=42, client=client)
    finally:
        client.run(pause_at, 0.8)
        wait_for_running(client, 2)
    assert max(set(reads(tmp_path)[paused[0]]) - SAMPLED) == 43
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


@pytest.fixture(scope="module")
def changing_cluster() -> Iterator[distributed.LocalCluster]:
    """One whose scheduler gives up a worker that it does not hear of for five seconds; workers import before it counts."""
    settings = {"scheduler.worker-ttl": "1 s", "deploy.lost-worker-timeout": "5 minutes", "comm.timeouts.connect": "10 s"}
    with (
        dask.config.set({f"distributed.{name}": value for name, value in settings.items()}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, silence_logs=logging.CRITICAL, preload=["test_cluster"], **LOOPBACK
        ) as found,
    ):
        yield found


@pytest.fixture
def changing_client(changing_cluster: distributed.LocalCluster) -> Iterator[distributed.Client]:
    with distributed.Client(changing_cluster, set_as_default=False) as found:
        yield found


def test_the_only_worker_is_killed_and_comes_back(tmp_path: Path, changing_client: Any) -> None:
    (tmp_path / "kill").touch()
    ablate(tmp_path, tmp_path / "many.zarr", client=changing_client)
    assert not (tmp_path / "kill").exists()
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_a_worker_that_comes_later_joins_in(tmp_path: Path, changing_cluster: Any, changing_client: Any) -> None:
    def scale_up(_: int) -> None:
        changing_cluster.scale(2)
        worker_that_reads(tmp_path, 126)  # while the first one is held

    with when_it_reads(tmp_path, 42, scale_up):
        ablate(tmp_path, tmp_path / "many.zarr", at=42, client=changing_client)
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_a_frozen_worker_is_not_waited_for_for_ever(tmp_path: Path, changing_cluster: Any, changing_client: Any) -> None:
    changing_cluster.scale(2)
    changing_client.wait_for_workers(2, timeout=60)
    frozen = []

    def freeze(pid: int) -> None:
        frozen.append(pid)
        os.kill(pid, signal.SIGSTOP)

    with when_it_reads(tmp_path, 42, freeze):
        ablate(tmp_path, tmp_path / "many.zarr", at=42, client=changing_client)
    assert 42 in set(chain.from_iterable(positions for pid, positions in reads(tmp_path).items() if pid not in frozen))
    ablate(tmp_path, tmp_path / "one.zarr")
    assert data_files(tmp_path / "many.zarr") == data_files(tmp_path / "one.zarr")


def test_a_worker_that_hangs_before_the_sweep_is_waited_for_until_dask_ends_it(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, hangs = client.run, [{"tcp://127.0.0.1:1": OSError("timed out")}]
    monkeypatch.setattr(client, "run", lambda *given, **options: hangs.pop() if hangs else run(*given, **options))
    assert clusters.WorkerPool(client, None).device_type == "cpu" and not hangs
    assert "the Dask worker tcp://127.0.0.1:1 does not answer (OSError: timed out)" in caplog.text


def test_a_scheduler_that_goes_is_said_and_what_is_finished_is_kept(
    tmp_path: Path, changing_cluster: Any, changing_client: Any
) -> None:
    with (
        pytest.raises(UnitlabError, match=r"scheduler does not answer any more \(.*\); run the same again"),
        when_it_reads(tmp_path, 106, lambda _: changing_cluster.close()),
    ):
        ablate(tmp_path, tmp_path / "many.zarr", client=changing_client)
    assert len(list((tmp_path / "many.zarr.partial").glob("shard-*"))) >= 25
