"""Studies at an address: what is looked at travels, and it is the right data or an error that says what is wrong."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from bounded_memory import bounded_memory
from local_server import Server
from simulated_study import LAYER, simulated_groups, simulated_study

import unitlab
from unitlab import UnitlabError, catalog
from unitlab.cli import main
from unitlab.store import remote
from unitlab.store.files import MANIFEST, read_manifest
from unitlab.store.writing import write_study

OPTIONS = {"n_units": 6, "n_categories": 4, "n_images": 40}
OPENED = [MANIFEST, "zarr.json", *(f"{LAYER}/zero/{name}/c/0" for name in ("category", "category_index", "image", "unit"))]
DATA = f"{LAYER}/zero/prediction/c/0/0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write_study(tmp_path / "served" / "birds.zarr", simulated_groups(**OPTIONS))
    found = Server(tmp_path / "served")
    yield found
    found.close()


def files_on_disk(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file()]


def asked(server: Server) -> list[str]:
    names = sorted(name.removeprefix("birds.zarr/") for name in server.asked)
    server.asked.clear()
    return names


def test_only_what_is_looked_at_travels(server: Server, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address, expected = f"{server.url}/birds.zarr", simulated_study(**OPTIONS)
    ds = unitlab.load(address)
    assert asked(server) == sorted(OPENED)
    np.testing.assert_array_equal(ds.prediction[2].values, expected.prediction[2].values)
    assert asked(server) == [DATA]
    np.testing.assert_array_equal(ds.prediction[3:5, ::2].values, expected.prediction[3:5, ::2].values)
    assert asked(server) == []
    for name, variable in ds.load().variables.items():
        xr.testing.assert_identical(variable, expected[name].variable)
    rest = asked(server)
    assert rest and len(rest) == len(set(rest)) and not set(rest) & {*OPENED, DATA}
    assert files_on_disk(own_home) == []
    assert ds.encoding["source"] == address and ds.encoding["ablations"] == {LAYER: ["zero"]}
    assert unitlab.load(f"{address}/").sizes == ds.sizes and main(["info", address]) == 0
    assert "no sample was compared" in capsys.readouterr().out


def test_every_byte_is_compared_by_check(server: Server) -> None:
    address, path = f"{server.url}/birds.zarr", server.folder / "birds.zarr"
    catalog.check(address)
    assert set(asked(server)) == {MANIFEST, *read_manifest(path).files}
    content = bytearray((path / DATA).read_bytes())
    content[len(content) // 2] ^= 1
    (path / DATA).write_bytes(content)
    with pytest.raises(UnitlabError, match=f"damaged: the bytes of the file {DATA}"):
        catalog.check(address)


def test_another_study_at_the_same_address(server: Server) -> None:
    address = f"{server.url}/birds.zarr"
    before = unitlab.load(address)
    shutil.rmtree(server.folder / "birds.zarr")
    write_study(server.folder / "birds.zarr", simulated_groups(**OPTIONS, seed=3))
    with pytest.raises(UnitlabError, match=r"another study has taken its place, load it again"):
        before.prediction.load()
    assert unitlab.load(address).attrs["fingerprint_images"] == "images 3"


def test_layers_whose_names_mean_something_in_addresses(server: Server) -> None:
    for layer in ("layer4.1.relu#2", "a b?c%20", "größer"):
        write_study(server.folder / "odd.zarr", simulated_groups(**OPTIONS, layer=layer))
        found = unitlab.load(f"{server.url}/odd.zarr", layer)
        np.testing.assert_array_equal(found.prediction.values, simulated_study(**OPTIONS, layer=layer).prediction.values)


def test_a_dataset_is_pickled_and_copied(server: Server) -> None:
    ds = unitlab.load(f"{server.url}/birds.zarr")
    expected = ds.prediction.values
    shutil.rmtree(server.folder / "birds.zarr" / LAYER / "zero" / "prediction")
    np.testing.assert_array_equal(ds.copy(deep=True).prediction.values, expected)
    small = pickle.dumps(unitlab.load(f"{server.url}/birds.zarr"))
    with pytest.raises(UnitlabError, match=f"the file {DATA} is not there"):
        pickle.loads(small).prediction.load()


def test_the_explorer_knows_where_such_a_study_is(server: Server) -> None:
    from unitlab.views.explorer.opened_study import OpenedStudy

    address = f"{server.url}/birds.zarr"
    for given in (address, unitlab.load(address)):
        source = OpenedStudy(given)
        assert source.path == address and source.layers == {LAYER: ["zero"]} and source.remedy() == ""
        assert source.at(LAYER, "zero").ds.sizes["unit"] == 6


def page(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<!DOCTYPE html><html>Please log in</html>")


def cut_short(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"{")


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Far more than the manifest says."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(10_000):
            handler.wfile.write(bytes(1 << 20))
    except OSError:
        pass


def test_what_goes_wrong_on_the_way(server: Server, own_home: Path) -> None:
    address = f"{server.url}/birds.zarr"
    with pytest.raises(UnitlabError, match=rf"fish\.zarr holds no study.*{MANIFEST} is not there"):
        unitlab.load(f"{server.url}/fish.zarr")
    for name, answer, message in (
        (MANIFEST, page, "a web page of a proxy"),
        (MANIFEST, cut_short, r"manifest\.json cannot be read: ClientPayloadError"),
        (MANIFEST, lambda handler: handler.send_error(403), "403"),
        (MANIFEST, endless, "more than 268,435,456 bytes"),
        ("zarr.json", page, r"damaged: the bytes of the file zarr\.json"),
        (DATA, page, f"damaged: the bytes of the file {DATA}"),
        (DATA, cut_short, f"the file {DATA} cannot be read: ClientPayloadError"),
        (DATA, endless, f"the file {DATA} cannot be read: .*more than 268,435,456 bytes"),
        (DATA, lambda handler: handler.send_error(403), f"the file {DATA} cannot be read: .*403"),
        (DATA, lambda handler: handler.send_error(404), f"the file {DATA} is not there"),
    ):
        server.answers = {f"birds.zarr/{name}": answer}
        with bounded_memory(1 << 30), pytest.raises(UnitlabError, match=message) as told:
            unitlab.load(address).prediction.load()
        assert address in str(told.value)
        gc.collect()  # a connection left open is a warning, and so an error
    server.answers.clear()
    assert unitlab.load(address).sizes["unit"] == 6
    assert files_on_disk(own_home) == []


def test_redirections_are_followed(server: Server) -> None:
    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{server.url}/birds.zarr/{MANIFEST}")
        handler.end_headers()

    shutil.copytree(server.folder / "birds.zarr", server.folder / "moved.zarr")
    server.answers[f"moved.zarr/{MANIFEST}"] = elsewhere
    assert unitlab.load(f"{server.url}/moved.zarr").sizes["unit"] == 6


@pytest.mark.parametrize("look", [lambda a: a.values, lambda a: a.load(), lambda a: a.compute(), lambda a: a[1] + 1])
def test_a_connection_that_goes(server: Server, look: Callable[[xr.DataArray], object]) -> None:
    ds = unitlab.load(f"{server.url}/birds.zarr")
    server.close()
    assert "prediction" in repr(ds) and "prediction" in repr(ds.prediction)
    with pytest.raises(UnitlabError, match=f"the file {DATA} cannot be read: .*Cannot connect"):
        look(ds.prediction)


def test_manifests_of_somebody_who_means_harm(server: Server) -> None:
    from unitlab.store.files import _digest

    path = server.folder / "birds.zarr" / MANIFEST
    content = json.loads(path.read_text())
    for name, size, message in (("../../outside", 3, "holds no study"), (DATA, 1 << 60, "damaged"), (DATA, -1, "damaged")):
        changed = {**content, "files": {**content["files"], name: [size, "0" * 64]}}
        changed["digest"] = _digest({key: value for key, value in changed.items() if key != "digest"})
        path.write_text(json.dumps(changed))
        with pytest.raises(UnitlabError, match=message):
            unitlab.load(f"{server.url}/birds.zarr").prediction.load()


def test_what_a_terminal_obeys_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = simulated_groups(**OPTIONS)
    groups[""][1]["images"] = "birds\x1b]0;owned\x07"
    write_study(tmp_path / "strange.zarr", groups)
    assert main(["info", str(tmp_path / "strange.zarr")]) == 0
    shown = capsys.readouterr().out
    assert r"birds\x1b]0;owned\x07" in shown and "\x1b" not in shown and "\x07" not in shown


def test_nobody_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}/x.zarr", "https://host.invalid/x.zarr"):
        with pytest.raises(UnitlabError, match="Cannot connect to host"):
            unitlab.load(address)
    monkeypatch.setattr(remote, "SILENT_SECONDS", 0.2)
    server.answers[f"birds.zarr/{MANIFEST}"] = lambda _: server.released.wait(20) and None
    with pytest.raises(UnitlabError, match="sends nothing"):
        unitlab.load(f"{server.url}/birds.zarr")


def test_an_object_store(server: Server) -> None:
    """fsspec's store in memory stands in for one."""
    place = fsspec.filesystem("memory")
    place.put(str(server.folder / "birds.zarr"), "/shelf/birds.zarr", recursive=True)
    try:
        ds = unitlab.load("memory://shelf/birds.zarr")
        np.testing.assert_array_equal(ds.prediction.values, simulated_study(**OPTIONS).prediction.values)
        place.rm(f"/shelf/birds.zarr/{LAYER}/zero/n_fixed/c/0/0")
        with pytest.raises(UnitlabError, match="n_fixed/c/0/0 is not there"):
            ds.n_fixed.load()
    finally:
        place.rm("/shelf", recursive=True)
    assert unitlab.load(f"simplecache::{server.url}/birds.zarr").sizes["unit"] == 6


def test_what_has_to_be_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnitlabError, match=r"nosuch://x\.zarr cannot be read here: .*nosuch"):
        unitlab.load("nosuch://x.zarr")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UnitlabError, match=r"s3://bucket/birds\.zarr cannot be read here: .*[Ii]nstall s3fs"):
        unitlab.load("s3://bucket/birds.zarr")
    monkeypatch.delitem(sys.modules, "unitlab.store.remote")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UnitlabError, match="needs aiohttp; install unitlab with its extra 'remote'"):
        unitlab.load("https://host.invalid/x.zarr")
