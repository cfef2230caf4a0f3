"""Where explorers are shown: a cell that runs again lets go of those that only it showed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from IPython.display import display

from unitlab.views.kernel import running_kernel

_in_cell: dict[str, tuple[str, WeakSet[Any]]] = {}


def shown_here(explorer: Any, still: Callable[[], str]) -> Any:
    """Show it in the cell that runs, and after it what stands for it where nothing runs, as an output of its own. Whatever an
    earlier run of that cell showed is gone from the page: its model goes, too, and comes back if it is shown again."""
    kernel = running_kernel()
    parent = kernel.get_parent("shell") if kernel is not None else {}
    cell, run = parent.get("metadata", {}).get("cellId"), parent.get("header", {}).get("msg_id", "")
    if cell is not None:
        last, there = _in_cell.get(cell, ("", WeakSet()))
        if last != run:
            for other in list(there):
                other._places.discard(cell)
                if other is not explorer and not other._places:
                    other.close()
            there = WeakSet()
        there.add(explorer)
        explorer._places.add(cell)
        _in_cell[cell] = (run, there)
    display(explorer._repr_mimebundle_()[0], raw=True)
    return display({"text/html": still(), "text/plain": repr(explorer)}, raw=True, display_id=True)
