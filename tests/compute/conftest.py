"""Every test ends: one that waits for what never comes fails instead of holding up all the others."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

SECONDS = 180


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    def fail(*_: object) -> None:
        pytest.fail(f"not ended after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
