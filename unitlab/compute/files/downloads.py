"""Files from the network: whole and verified, or not there at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from unitlab.errors import UnitlabError, write_failure
from unitlab.files import file_whole

CONNECT_SECONDS, SILENT_SECONDS = 15.0, 60.0
BLOCK = 1 << 18
PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


def download(url: str, target: Path, digest: str, *, instead: str) -> Path:
    """A file from the network at ``target``, where it may be already; with a progress bar.

    Parameters
    ----------
    url, target
        From where, to where. The file is put in place when it is whole and verified.
    digest
        ``sha256:…`` or ``md5:…``, all hexadecimal digits or the first; "" where none is known.
    instead
        What to do where it cannot be downloaded; ends the message of an error.

    Raises
    ------
    UnitlabError
        No connection, another answer than the file (an error, a web page), a file that is cut or not the one expected;
        a folder that cannot be written.
    """
    if target.is_file():
        check_digest(target, digest)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_whole(target) as file:
            _fetch(url, file)
            check_digest(Path(file.name), digest, came_from=url)
    except requests.exceptions.HTTPError as error:
        status = "an error" if error.response is None else error.response.status_code
        raise UnitlabError(f"{url} answers with {status}: the file is not there, or not for everybody. {instead}") from error
    except (requests.exceptions.Timeout, requests.exceptions.ConnectionError) as error:
        if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
            what = f"{urlsplit(url).hostname} sends nothing (waited {SILENT_SECONDS:.0f} s)"
        else:
            what = f"no connection to {urlsplit(url).hostname}"
        raise UnitlabError(f"{url} cannot be downloaded: {what}. {instead}") from error
    except requests.exceptions.RequestException as error:
        raise UnitlabError(f"{url} came only in part ({type(error).__name__}); run the same again. {instead}") from error
    except OSError as error:
        raise write_failure(error, target) from error
    return target


def _fetch(url: str, file: BinaryIO) -> None:
    with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, SILENT_SECONDS)) as answer:
        answer.raise_for_status()
        size = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm(total=size, unit="B", unit_scale=True, ncols=79) as bar:
            for block in answer.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
    file.flush()


def check_digest(path: Path, digest: str, *, came_from: str = "") -> str:
    """SHA-256 of a file; refused where it is a web page or its digest is another one.

    Raises
    ------
    UnitlabError
        Says what the digest is and what it should be.
    """
    where = came_from or str(path)
    if looks_like_a_page(path):
        raise UnitlabError(
            f"{where} is a web page instead of the file: a proxy or a log-in page stands in between. Open the address in a "
            "browser, save the file and give it"
        )
    kind, _, expected = digest.partition(":")
    try:
        with open(path, "rb") as file:
            found = {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
            if kind == "md5":
                file.seek(0)
                found["md5"] = hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise UnitlabError(f"{path} cannot be read ({error.strerror})") from error
    if expected and not found[kind].startswith(expected):
        size = path.stat().st_size
        raise UnitlabError(
            f"{where} is not the file expected: its {kind.upper()} begins with {found[kind][: max(len(expected), 16)]}, "
            f"not with {expected} ({size:,} bytes). It is cut, damaged or another one"
        )
    return found["sha256"]


def looks_like_a_page(path: Path) -> bool:
    """Whether a file begins as a web page does."""
    try:
        with open(path, "rb") as file:
            return file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGE_STARTS)
    except OSError as error:
        raise UnitlabError(f"{path} cannot be read ({error.strerror})") from error
