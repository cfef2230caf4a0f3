"""The Jupyter kernel that shows what is drawn."""

from __future__ import annotations

from typing import Any


def running_kernel() -> Any:
    """The Jupyter kernel that this runs in, or None."""
    try:
        from IPython import get_ipython
    except ModuleNotFoundError:
        return None
    return getattr(get_ipython(), "kernel", None)
