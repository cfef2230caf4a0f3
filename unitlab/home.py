"""Where unitlab keeps what it computes and downloads."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["home"]


def home() -> Path:
    """Folder of what is computed here: ``$UNITLAB_HOME``, or unitlab's folder in the user's data folder."""
    given = os.environ.get("UNITLAB_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir("unitlab"))
