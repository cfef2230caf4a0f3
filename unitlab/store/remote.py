"""A study at an address (http, https, or what else fsspec opens): what is looked at travels, every file is compared."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote

import aiohttp
from fsspec.core import url_to_fs
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.abc.store import ByteRequest
from zarr.storage import FsspecStore

from unitlab.errors import UnitlabError, what_it_says
from unitlab.store.files import MANIFEST, Manifest, StudyFiles, part_of

SILENT_SECONDS = 60.0
LARGEST_ANSWER = 256 << 20  # unitlab writes no file that is larger
KEPT_BYTES = 256 << 20


class RemoteFiles(StudyFiles):
    """Files at an address, each fetched and compared as a whole; the last ones are kept, since a row is a small part of one."""

    remedy = "if another study has taken its place, load it again"

    def __init__(self, address: str) -> None:
        self.where = address
        scheme = address.rpartition("::")[2].partition("://")[0]
        self._http = scheme in ("http", "https")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
        client = {"timeout": timeout, "trust_env": True, "response_class": _Answer}
        try:
            self._system, self._root = url_to_fs(address, **({scheme: {"client_kwargs": client}} if self._http else {}))
        except (ImportError, ValueError) as error:
            raise UnitlabError(f"{address} cannot be read here: {what_it_says(error)}") from error
        text = self._fetched(MANIFEST)
        try:
            manifest = Manifest.parse(text, address)
        except UnitlabError as error:
            raise UnitlabError(
                f"{address} holds no study: what it answers for {MANIFEST} is not one (a web page of a proxy or log-in?)"
            ) from error
        system = AsyncFileSystemWrapper(self._system, asynchronous=True)
        super().__init__(FsspecStore(system, read_only=True, path=self._root), address, manifest)
        self._kept: dict[str, bytes] = {}

    def read(self, name: str, part: ByteRequest | None = None) -> bytes:
        content = self._kept.get(name)
        if content is None:
            content = self._kept[name] = self.whole(name)
            while sum(map(len, list(self._kept.values()))) > KEPT_BYTES:
                self._kept.pop(next(iter(list(self._kept)), ""), None)
        return part_of(io.BytesIO(content), part)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def _fetched(self, name: str) -> bytes:
        try:
            return bytes(self._system.cat_file(f"{self._root}/{quote(name) if self._http else name}"))
        except FileNotFoundError as error:
            raise UnitlabError(f"{self.where} holds no study or not all of it: the file {name} is not there") from error
        except Exception as error:
            silent = f"it sends nothing (waited {SILENT_SECONDS:.0f} s)"
            raise UnitlabError(
                f"{self.where}: the file {name} cannot be read: "
                f"{silent if isinstance(error, TimeoutError) else what_it_says(error)}. "
                "Try again, or get the study another way and give its path"
            ) from error


class _Answer(aiohttp.ClientResponse):
    """Ends what a server sends without end."""

    async def read(self) -> bytes:
        content = bytearray()
        async for block in self.content.iter_any():
            content += block
            if len(content) > LARGEST_ANSWER:
                self.close()
                raise ValueError(f"it sends more than {LARGEST_ANSWER:,} bytes")
        return bytes(content)
