"""The explorer's style sheet, as HTML."""

from __future__ import annotations

from importlib.resources import files

STYLE = f"<style>{files(__package__).joinpath('explorer.css').read_text(encoding='utf-8')}</style>"
