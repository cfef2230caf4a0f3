"""A sweep in a process of its own, which is not left behind."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

WITHIN = 60.0


@contextmanager
def sweep_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The process, ended after the block; killed where the block fails, which then tells what the process has said."""
    # tests that were started in the background ignore Ctrl-C, and their processes would, too
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        signal.signal(signal.SIGINT, before)
        try:
            yield process
            process.wait(WITHIN)
        except BaseException as error:
            process.kill()
            assert process.stderr is not None
            error.add_note(f"the process said: {process.stderr.read()}")
            raise


def wait_for_shards(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Wait until so many shards are in the folder's unfinished study."""
    until = time.monotonic() + WITHIN
    while (there := len(list(folder.glob("*.partial/shard-*.safetensors")))) < count:
        assert process.poll() is None, f"it ended with {process.returncode} after {there} of {count} shards"
        assert time.monotonic() < until, f"{there} of {count} shards within {WITHIN:.0f} s"
        time.sleep(0.01)


def said_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """The lines that the process says, up to one with these words."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return said
    raise AssertionError(f"it never said {words!r}: {said}")
