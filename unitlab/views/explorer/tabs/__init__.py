"""The tabs below the fold, in their order. A module of this package has ``build(explorer)``, which returns a widget."""

from __future__ import annotations

__all__ = ["TABS"]

# title → module; imported when the tab is first opened
TABS = {
    "Lost and won": "lost_and_won",
    "Class": "category",
    "Group": "group",
    "Definitions": "definitions",
    "Take away": "take_away",
}
