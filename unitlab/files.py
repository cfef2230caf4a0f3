"""Where unitlab's files are: what comes with it, and what it computes and downloads."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """Folder of what is computed here: ``$UNITLAB_HOME``, or unitlab's folder in the user's data folder."""
    given = os.environ.get("UNITLAB_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir("unitlab"))


def bundled_folder() -> Path:
    """Folder of the bundled data: inside the installed package, or ``data/`` of a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "data"
