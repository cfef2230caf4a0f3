"""The notebooks in a folder of the user's, and JupyterLab opened there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unitlab.errors import UnitlabError
from unitlab.files import write_whole

RECORD = ".unitlab.json"
START = "start.ipynb"


@dataclass
class Copied:
    """What `copy_notebooks` did, as paths relative to the folder."""

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def default_folder() -> Path:
    """Where `copy_notebooks` is asked to copy to when nothing else is said."""
    return Path.home() / "unitlab-notebooks"


def _source() -> Path:
    inside = Path(__file__).parent / "notebooks"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "notebooks"


def copy_notebooks(folder: Path) -> Copied:
    """Copy the notebooks and their pictures, except over files that the user has changed.

    Parameters
    ----------
    folder
        Made where it is missing. ``.unitlab.json`` in it keeps the SHA-256 of every file as it was copied: a file that still
        has that hash is brought up to date, any other is kept.

    Returns
    -------
    Copied
        Files that were written, and files that differ from today's version and were kept.

    Raises
    ------
    UnitlabError
        The folder is a file, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from unitlab.lab import copy_notebooks
    >>> "damage_of_a_unit.ipynb" in copy_notebooks(Path(tempfile.mkdtemp())).written
    True
    """
    source, done = _source(), Copied()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        copied = _read_record(folder)
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            if not path.is_file() or any(part.startswith(".") for part in relative.parts):
                continue
            name, target, content = relative.as_posix(), folder / relative, path.read_bytes()
            new = hashlib.sha256(content).hexdigest()
            old = hashlib.sha256(target.read_bytes()).hexdigest() if target.exists() else None
            if old != new:
                if old is not None and old != copied.get(name):
                    done.kept.append(name)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, content)
                done.written.append(name)
            copied[name] = new
        write_whole(folder / RECORD, json.dumps(copied, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise UnitlabError(
            f"the notebooks cannot be copied to {folder} ({error}); give another folder: unitlab lab FOLDER"
        ) from error
    return done


def _read_record(folder: Path) -> dict[str, str]:
    path = folder / RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        # nothing is known of the files then, and they are kept
        return {}
    return found if isinstance(found, dict) else {}


def open_lab(folder: Path, options: Sequence[str] = ()) -> None:
    """Run JupyterLab in a folder, open on its start page, until it is stopped.

    Raises
    ------
    UnitlabError
        JupyterLab is not installed.
    """
    try:
        from jupyterlab.labapp import LabApp
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise UnitlabError(
            f"the notebooks are in {folder}, but {missing} is not installed; install unitlab with its extra 'notebook', "
            "in a checkout: pip install '.[notebook]'"
        ) from error
    start = [f"--LabApp.default_url=/lab/tree/{START}"] if (folder / START).exists() else []
    LabApp.launch_instance([f"--ServerApp.root_dir={folder.resolve()}", *start, *options])
