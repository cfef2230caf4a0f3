"""The Jupyter kernel that shows what is drawn."""

from __future__ import annotations

from typing import Any

__all__ = ["running_kernel"]


def running_kernel() -> Any:
    """The Jupyter kernel that this runs in, or None."""
    try:
        from IPython import get_ipython
    except ModuleNotFoundError:
        return None
    return getattr(get_ipython(), "kernel", None)
