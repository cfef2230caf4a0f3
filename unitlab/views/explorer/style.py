"""The explorer's style sheet: JupyterLab's variables, so that it is light or dark as the page is."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """<style>
.ul-explorer {
  --ul-text: var(--jp-ui-font-color1, #212121);
  --ul-faint: var(--jp-ui-font-color2, #616161);
  --ul-line: var(--jp-border-color2, #e0e0e0);
  --ul-ground: var(--jp-layout-color0, #fff);
  --ul-raised: var(--jp-layout-color2, #eee);
  --ul-accent: #0072b2;
  --bk-axis-label-text-color: var(--ul-text);
  --bk-major-label-text-color: var(--ul-text);
  --bk-title-text-color: var(--ul-text);
  --bk-label-text-color: var(--ul-text);
  --bk-axis-line-color: var(--ul-faint);
  --bk-major-tick-line-color: var(--ul-faint);
  --bk-grid-line-color: var(--ul-line);
  color: var(--ul-text); font: 13px/1.35 var(--jp-ui-font-family, system-ui, sans-serif);
  max-width: 100%; gap: 6px; overflow: hidden;
}
.ul-explorer > .widget-html:first-child { display: none; }
.ul-explorer .widget-html-content { line-height: 1.35; }
.ul-explorer :is(button, input, select):focus-visible { outline: 2px solid var(--ul-accent); outline-offset: 1px; }
.ul-header { align-items: center; flex-wrap: wrap; gap: 2px 10px; min-height: 36px; overflow: hidden; }
.ul-header .widget-label { width: auto !important; margin-right: 4px; color: var(--ul-faint); }
.ul-study { font-weight: 600; font-size: 15px; max-width: 260px; overflow: hidden; text-overflow: ellipsis; }
.ul-unit { width: 110px; }
.ul-step { width: 28px !important; padding: 0 !important; }
.ul-class { flex: 1 1 190px; max-width: 340px; min-width: 150px; }
.ul-found { color: var(--ul-faint); font-size: 12px; }
.ul-message { padding: 6px 10px; border-left: 3px solid var(--ul-accent); background: var(--ul-raised); border-radius: 2px; }
.ul-message p { margin: 0; }
.ul-message code { display: inline-block; margin-top: 3px; user-select: all; }
.ul-status { color: var(--ul-faint); font-size: 12px; }
</style>"""
