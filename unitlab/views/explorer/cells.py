"""The cells that show explorers: a page is made ready for its first one, and a cell that runs again lets go of its own."""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from weakref import WeakSet

import anywidget
import traitlets as T
from IPython.display import display

from unitlab.views.kernel import running_kernel
from unitlab.views.page import loader, module

STAYS = 10  # seconds, in which the page has read it

_in_cell: dict[str, tuple[str, WeakSet[Any]]] = {}


class PageWidget(anywidget.AnyWidget):
    """What has the page load anywidget and the module that all explorers share."""

    _esm = loader()
    _module = T.Unicode(module()).tag(sync=True)

    def close(self) -> None:
        if self.comm is not None:
            super().close()
            self.layout.close()


def make_ready() -> None:
    """Have a page ready for its first explorer while Python still imports, by a widget that nobody sees."""
    if running_kernel() is not None and "unitlab.views.explorer.explorer" not in sys.modules:
        asyncio.get_running_loop().call_later(STAYS, PageWidget().close)


def shown_here(explorer: Any) -> Any:
    """Show it in the cell that runs, and after it what stands for it where nothing runs, as an output of its own. Whatever an
    earlier run of that cell showed is gone from the page: its model goes, too, and comes back if it is shown again."""
    kernel = running_kernel()
    parent = kernel.get_parent("shell") if kernel is not None else {}
    cell, run = parent.get("metadata", {}).get("cellId"), parent.get("header", {}).get("msg_id", "")
    if cell is not None:
        last, there = _in_cell.get(cell, ("", WeakSet()))
        if last != run:
            _in_cell[cell] = (run, WeakSet())
            for other in set(there) - {explorer}:
                if not any(other in shown for _, shown in _in_cell.values()):
                    other.close()
        _in_cell[cell][1].add(explorer)
    display(explorer._repr_mimebundle_()[0], raw=True)
    return display(explorer._still(), raw=True, display_id=True)
