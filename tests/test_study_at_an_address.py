"""Studies at an address: the right data, kept here, or an error that says what is wrong, and nothing half-copied."""

from __future__ import annotations

import gc
import json
import shutil
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import xarray as xr
from local_server import Server
from simulated_study import simulated_groups, simulated_study

import unitlab
from unitlab import UnitlabError
from unitlab.cli import main
from unitlab.store import remote as study_download
from unitlab.store.files import MANIFEST, read_manifest
from unitlab.store.writing import write_study

OPTIONS = {"n_units": 6, "n_categories": 4, "n_images": 40}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write_study(tmp_path / "served" / "birds.zarr", simulated_groups(**OPTIONS))
    found = Server(tmp_path / "served")
    yield found
    found.close()


def kept(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file()]


def test_it_is_copied_once_and_read(server: Server, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"{server.url}/birds.zarr"
    ds = unitlab.load(address).load()
    for name, expected in simulated_study(**OPTIONS).variables.items():
        xr.testing.assert_equal(ds[name].variable, expected)
    files = {f"birds.zarr/{name}" for name in read_manifest(server.folder / "birds.zarr").files}
    assert sorted(server.asked) == sorted({f"birds.zarr/{MANIFEST}", *files})
    server.asked.clear()
    assert unitlab.load(f"{address}/").sizes == ds.sizes and main(["info", address]) == 0
    assert server.asked == [f"birds.zarr/{MANIFEST}"] * 2
    assert "no sample was compared" in capsys.readouterr().out
    # another study at the same address
    shutil.rmtree(server.folder / "birds.zarr")
    write_study(server.folder / "birds.zarr", simulated_groups(**OPTIONS, seed=3))
    assert unitlab.load(address).attrs["fingerprint_images"] == "images 3"


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
    address, data = f"{server.url}/birds.zarr", "birds.zarr/conv5_3/zero/prediction/c/0/0"
    with pytest.raises(UnitlabError, match=r"holds no study: .*answers with 404"):
        unitlab.load(f"{server.url}/fish.zarr")
    for name, answer, message in (
        (MANIFEST, page, "a web page of a proxy"),
        (MANIFEST, cut_short, "only in part"),
        (data, page, "damaged: the file conv5_3/zero/prediction/c/0/0"),
        (data, cut_short, "only in part"),
        (data, endless, "damaged: the file conv5_3/zero/prediction/c/0/0"),
        (data, lambda handler: handler.send_error(403), "answers with 403"),
    ):
        server.answers = {name if "/" in name else f"birds.zarr/{name}": answer}
        with pytest.raises(UnitlabError, match=message):
            unitlab.load(address)
        assert kept(own_home) == []
        gc.collect()  # a connection left open is a warning, and so an error
    server.answers.clear()
    assert unitlab.load(address).sizes["unit"] == 6


def test_manifests_of_somebody_who_means_harm(server: Server, own_home: Path) -> None:
    path = server.folder / "birds.zarr" / MANIFEST
    content = json.loads(path.read_text())
    for name, size, message in (("../../outside", 3, "holds no study"), ("x", 1 << 60, r"GB are free"), ("x", -1, "refused")):
        changed = {**content, "files": {**content["files"], name: [size, "0" * 64]}}
        changed["digest"] = study_download_digest(changed)
        path.write_text(json.dumps(changed))
        with pytest.raises(UnitlabError, match=message):
            unitlab.load(f"{server.url}/birds.zarr")
        assert kept(own_home) == []


def test_what_a_terminal_obeys_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = simulated_groups(**OPTIONS)
    groups[""][1]["images"] = "birds\x1b]0;owned\x07"
    write_study(tmp_path / "strange.zarr", groups)
    assert main(["info", str(tmp_path / "strange.zarr")]) == 0
    shown = capsys.readouterr().out
    assert r"birds\x1b]0;owned\x07" in shown and "\x1b" not in shown and "\x07" not in shown


def study_download_digest(content: dict) -> str:
    from unitlab.store.files import _digest

    return _digest({key: value for key, value in content.items() if key != "digest"})


def test_nobody_there(own_home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}/x.zarr", "https://host.invalid/x.zarr"):
        with pytest.raises(UnitlabError, match="no connection to"):
            unitlab.load(address)
    monkeypatch.setattr(study_download, "SILENT_SECONDS", 0.2)
    server.answers[f"birds.zarr/{MANIFEST}"] = lambda _: server.released.wait(20) and None
    with pytest.raises(UnitlabError, match="sends nothing"):
        unitlab.load(f"{server.url}/birds.zarr")
    assert kept(own_home) == []
