"""What a page would hear from an explorer, without one."""

from __future__ import annotations

from typing import Any

import numpy as np


def ask(explorer: Any, kind: str, **given: Any) -> dict[str, Any]:
    """The answer to a question of the page, its arrays read from their buffers."""
    heard: list[tuple[dict[str, Any], list[bytes]]] = []
    explorer.send = lambda content, buffers=None: heard.append((content, buffers or []))
    explorer._asked(explorer, {"asks": [{"id": 1, "kind": kind, **given}]}, [])
    del explorer.send
    answer, buffers = heard[-1]
    assert answer["id"] == 1
    arrays = {
        name: np.frombuffer(buffer, {"f": "<f4", "i": "<i4", "u": "u1"}[kind])
        for (name, kind), buffer in zip(answer.get("arrays", ()), buffers, strict=True)
    }
    return answer | arrays | {"progress": [content["progress"] for content, _ in heard[:-1]]}
