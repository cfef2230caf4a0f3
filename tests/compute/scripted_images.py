"""Images that do something when one of them is read: wait while a file is there, or kill the process that reads."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import torch
from small_networks import CLASSES
from torch import Tensor
from torch.utils.data import Dataset

import unitlab
from unitlab.compute.images import ImageSource


class ScriptedImages(Dataset):
    """``count`` random images; reading number ``at`` heeds the files "hold", "kill" and "kill always" in ``folder``."""

    def __init__(self, count: int, folder: Path, at: int) -> None:
        self.count, self.folder, self.at = count, folder, at
        self.targets = [position % CLASSES for position in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if position == self.at:
            while (self.folder / "hold").exists():
                time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):
                (self.folder / "kill").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if (self.folder / "kill always").exists():
                os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(position)
        return torch.randn(3, 17, 17, generator=generator), self.targets[position]


def scripted_source(folder: Path, *, count: int = 48, at: int = 26) -> ImageSource:
    """The images as a source."""
    return unitlab.images(ScriptedImages(count, folder, at), categories=[f"class {k}" for k in range(CLASSES)])
