"""Images that do something when they are read: wait while a file is there, kill the process that reads, tell who reads."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from small_networks import CLASSES
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import unitlab
from unitlab.compute.images.source import ImageSource

HELD_SECONDS = 60  # a test that goes wrong ends, and leaves no worker behind that waits


class ScriptedImages(Dataset):
    """``count`` random images; reading number ``at`` heeds the files "hold", "kill" and "kill always" in ``folder``.

    Where a folder "readers" is there, each process notes in a file of its own what it reads.
    """

    def __init__(self, count: int, folder: Path, at: int) -> None:
        self.count, self.folder, self.at = count, folder, at
        self.targets = [position % CLASSES for position in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if (self.folder / "readers").exists():
            with (self.folder / "readers" / str(os.getpid())).open("a") as notes:
                notes.write(f"{position}\n")
        if position == self.at:
            until = time.monotonic() + HELD_SECONDS
            while (self.folder / "hold").exists():
                if time.monotonic() > until:
                    raise TimeoutError(f"held for {HELD_SECONDS} s")
                time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):
                (self.folder / "kill").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if (self.folder / "kill always").exists():
                os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(position)
        return torch.randn(3, 17, 17, generator=generator), self.targets[position]


def scripted_source(folder: Path, *, count: int = 128, at: int = 106, loader: Mapping[str, Any] | None = None) -> ImageSource:
    """The images as a source, or a `DataLoader` of them; ``at`` is none of those that are read before a sweep begins."""
    scripted = ScriptedImages(count, folder, at)
    source = scripted if loader is None else DataLoader(scripted, **loader)
    return unitlab.images(source, categories=[f"class {k}" for k in range(CLASSES)])
