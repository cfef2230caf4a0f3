"""A study at an http(s) address: copied into unitlab's folder, every file as its manifest says, then read like any other."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

from unitlab.errors import UnitlabError, write_failure
from unitlab.files import home
from unitlab.store.files import MANIFEST, Manifest, read_manifest

SILENT_SECONDS = 60.0
LARGEST_MANIFEST = 64 << 20
CONNECTIONS = 8


def downloaded_study(url: str) -> Path:
    """The local copy of the study at an address; made where there is none of its present state.

    Raises
    ------
    UnitlabError
        No connection, an address that holds no study, files that are not those of its manifest, a full disk.
    """
    url = url.rstrip("/")
    name = urlsplit(url).path.rpartition("/")[2].removesuffix(".zarr") or "study"
    place = home() / "downloads" / f"study-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    building = None
    try:
        place.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(suffix=".part", dir=place))
        (building / MANIFEST).write_bytes(_fetched(f"{url}/{MANIFEST}", LARGEST_MANIFEST, url))
        try:
            manifest = read_manifest(building)
        except UnitlabError as error:
            raise UnitlabError(
                f"{url} holds no study: what it answers for {MANIFEST} is not one (a web page of a proxy or log-in?)"
            ) from error
        target = place / manifest.digest[:16] / f"{name}.zarr"
        if not target.is_dir():
            _copy(url, manifest)
            target.parent.mkdir(exist_ok=True)
            try:
                building.rename(target)
                building = None
            except OSError:
                # another process was quicker: the digest of the manifest is in the name
                if not target.is_dir():
                    raise
        return target
    except OSError as error:
        raise write_failure(error, place) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def _copy(url: str, manifest: Manifest) -> None:
    total, free = sum(size for size, _ in manifest.files.values()), shutil.disk_usage(manifest.folder).free
    if total > free or min((size for size, _ in manifest.files.values()), default=0) < 0:
        raise UnitlabError(f"{url} is refused: its files have {total / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free")

    def copy(name: str) -> None:
        size, digest = manifest.files[name]
        content = _fetched(f"{url}/{quote(name)}", size, url)
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise UnitlabError(f"{url} is damaged: the file {name} that it sends is not the one that was written")
        path = manifest.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for done in [pool.submit(copy, name) for name in manifest.files]:
            try:
                done.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _fetched(address: str, most: int, url: str) -> bytes:
    """The answer of an address, at most so many bytes and one."""
    try:
        with urllib.request.urlopen(address, timeout=SILENT_SECONDS) as answer:
            content = bytes(answer.read(most + 1))
            promised = answer.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        error.close()
        raise UnitlabError(
            f"{url} holds no study: {address} answers with {error.code}; give the address of the store"
        ) from error
    except http.client.HTTPException as error:
        raise UnitlabError(f"{address} answers with what is no answer ({type(error).__name__}); run the same again") from error
    except TimeoutError as error:
        raise UnitlabError(f"{urlsplit(url).hostname} sends nothing (waited {SILENT_SECONDS:.0f} s)") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnitlabError(
            f"{url} cannot be read: no connection to {urlsplit(url).hostname} ({reason}). Get the study another way and give "
            "its path"
        ) from error
    if promised.isdecimal() and len(content) < min(int(promised), most + 1):
        raise UnitlabError(f"{address} came only in part ({len(content):,} of {promised} bytes); run the same again")
    return content
