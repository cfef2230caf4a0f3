"""The explorer in a page without Jupyter: its own module over a model whose kernel is this process."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

MODEL = """
const bytes = packed => new DataView(Uint8Array.from(atob(packed), letter => letter.charCodeAt(0)).buffer);
const opened = value => value === null || typeof value !== "object" ? value : Array.isArray(value) ? value.map(opened)
  : "_bytes" in value ? bytes(value._bytes) : Object.fromEntries(Object.entries(value).map(([key, one]) => [key, opened(one)]));
const heard = {}, changed = {};
window.told = [];
const tell = (name, ...given) => { for (const call of [...(heard[name] ?? [])]) call.apply(model, given); };
const take = answer => {
  Object.assign(state, opened(answer.state));
  for (const name of Object.keys(answer.state)) tell(`change:${name}`);
  if (Object.keys(answer.state).length) tell("change");
  for (const [content, buffers] of answer.messages) tell("msg:custom", content, buffers.map(bytes));
};
const state = opened(FIRST);
const model = {
  comm_live: true, get: name => state[name], set: (name, value) => { state[name] = value; changed[name] = value; },
  save_changes: async () => { const now = { ...changed }; for (const name of Object.keys(changed)) delete changed[name];
    tell("change"); told.push(now); take(await toKernel(JSON.stringify({ state: now }))); },
  send: async content => { told.push(content); take(await toKernel(JSON.stringify({ content }))); },
  on: (name, call) => (heard[name] ??= []).push(call),
  off: (name, call) => { heard[name] = (heard[name] ?? []).filter(each => each !== call); },
};
window.fromKernel = take;
window.die = () => { model.comm_live = false; tell("comm_live_update"); };
import(URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }))).then(async ({ default: widget }) => {
  await widget.initialize({ model });
  await widget.render({ model, el: document.getElementById("here") });
  window.showAgain = () => widget.render({ model, el: document.getElementById("again") });
});
"""


# names that are chosen or listed and do not fit where they stand, and what lies over the title of the vertical axis
CUT = """root => [
  ...[...root.querySelectorAll("#x, #y, #color")].filter(one => {
    const ink = new OffscreenCanvas(1, 1).getContext("2d"), style = getComputedStyle(one);
    ink.font = `${style.fontSize} ${style.fontFamily}`;
    return ink.measureText(one.selectedOptions[0].text).width + 22 > one.clientWidth;
  }).map(one => one.value),
  ...[...root.querySelectorAll("#bars th, #pictures figcaption")].filter(one =>
    one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1).map(one => one.textContent),
  ...[...root.querySelectorAll("#scatter .title")].slice(0, 1).filter(one => one.getBoundingClientRect().right
    > root.querySelector(".ul-zooms").getBoundingClientRect().left).map(one => one.textContent),
]"""


def packed(value: Any) -> Any:
    """A state as JSON has it, bytes as base64."""
    if isinstance(value, bytes | memoryview):
        return {"_bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {key: packed(one) for key, one in value.items()}
    return [packed(one) for one in value] if isinstance(value, list | tuple) else value


@contextmanager
def at_once() -> Iterator[None]:
    """What the explorer does beside an event loop happens inside: Playwright's loop is not a kernel's."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


class ExplorerPage:
    """``explorer`` shown in ``page``; ``root`` is its element."""

    def __init__(self, page: Page, explorer: Any, folder: Path) -> None:
        self.page, self.explorer = page, explorer
        self._outbox: list[Any] = []
        self._known: dict[str, Any] = {}
        explorer.send = self._sent
        first = packed(self._changes())
        page.expose_function("toKernel", self._heard)
        script = MODEL.replace("FIRST", json.dumps(first).replace("</", "<\\/"))
        head = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>explorer</title></head>'
        text = f'{head}<body><main id="here"></main><div id="again"></div><script>{script}</script></body></html>'
        (folder / "explorer.html").write_text(text, "utf-8")
        page.goto((folder / "explorer.html").as_uri())
        self.root: Locator = page.locator("#here .ul-explorer")
        self.root.locator("canvas, .ul-note-message:visible").first.wait_for()

    def _sent(self, content: Any, buffers: Any = None) -> None:
        self._outbox.append([content, [base64.b64encode(one).decode() for one in buffers or ()]])

    def _changes(self) -> dict[str, Any]:
        names = [*self.explorer.trait_names(sync=True)]
        now = {name: getattr(self.explorer, name) for name in names if name not in ("layout", "tabbable", "tooltip")}
        fresh = {name: value for name, value in now.items() if name not in self._known or self._known[name] is not value}
        self._known = now
        return fresh

    def _answer(self) -> dict[str, Any]:
        messages, self._outbox = self._outbox, []
        return {"state": packed(self._changes()), "messages": messages}

    def _heard(self, text: str) -> dict[str, Any]:
        given = json.loads(text)
        with at_once():
            if "state" in given:
                self.explorer.set_state(given["state"])
            else:
                self.explorer._asked(self.explorer, given["content"], [])
        return self._answer()

    def sync(self) -> None:
        """Tell the page what Python has set."""
        self.page.evaluate("answer => fromKernel(answer)", self._answer())

    def point(self, unit: int) -> tuple[float, float]:
        """Page pixels of a unit's point."""
        box = self.root.locator(f"circle[data-unit='{unit}']").bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def tab(self, title: str) -> Locator:
        """Open a tab; its panel."""
        self.root.get_by_role("tab", name=title, exact=True).click()
        return self.root.locator(f".ul-tab[data-title='{title}']")
