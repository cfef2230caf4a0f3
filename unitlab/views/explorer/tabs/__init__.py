"""The tabs below the fold, in their order. A module of this package has ``build(explorer)``, which returns a widget."""

from __future__ import annotations

__all__ = ["TABS"]

# title → module; imported when the tab is first opened
TABS: dict[str, str] = {}
