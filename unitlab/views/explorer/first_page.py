"""What makes a page ready for its first explorer while Python still imports."""

from __future__ import annotations

import asyncio
import sys

from unitlab.views.kernel import running_kernel

STAYS = 10  # seconds, in which the page has read it


def open_first_page() -> None:
    """Have the page load anywidget and the module that all explorers share, by a widget that nobody sees."""
    if running_kernel() is None or "unitlab.views.explorer.explorer" in sys.modules:
        return
    import anywidget
    import traitlets as T

    from unitlab.views.page import loader, module

    class FirstPage(anywidget.AnyWidget):
        _esm = loader()
        _module = T.Unicode(module()).tag(sync=True)

    first = FirstPage()

    def end() -> None:
        first.close()
        first.layout.close()

    asyncio.get_running_loop().call_later(STAYS, end)
