"""What an input may lead to: a value, or an InkstoneError whose message is a sentence, within
bounds of time and memory. Anything else is a finding.
"""

from __future__ import annotations

import mmap
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inkstone.errors import InkstoneError

SECONDS = 2.0  # of processor time
MEMORY = 300 << 20  # bytes over what the process had before
_ROOT = Path(__file__).resolve().parents[2]
_PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Finding:
    """kind: equal for inputs with the same fault, fit for a file's name; text: for the reader."""

    kind: str
    text: str


def judge(call: Callable[[bytes], object], data: bytes, seconds: float = SECONDS) -> Finding | None:
    """None where the call ends as it should."""
    before, start = _reset_peak(), time.process_time()
    try:
        call(data)
        finding = None
    except InkstoneError as error:
        finding = _of_message(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a PanicException is no Exception
        finding = _of_exception(error)
    took = time.process_time() - start
    used = _peak() - before
    if finding is None and took > seconds:
        finding = Finding("slow", f"took {took:.1f} s of processor time, expected {seconds:g}")
    if finding is None and used > MEMORY:
        finding = Finding("memory", f"took {used >> 20} MiB over the base, expected {MEMORY >> 20}")
    return finding


def _of_message(message: str) -> Finding | None:
    text = message.strip()
    if len(text.split()) > 3 and not re.search(r"object at 0x|Traceback", text):
        return None
    return Finding("no-sentence", f"the message is no sentence: {text[:300]!r}")


def _of_exception(error: BaseException) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(str(_ROOT)) and "tests/" not in f.filename]
    last = (ours or frames)[-1]
    where = Path(last.filename).name.removesuffix(".py")
    kind = f"{type(error).__name__}-{where}-{last.name.strip('<>')}"
    lines = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in (ours or frames)[-4:]]
    return Finding(kind, f"{type(error).__name__}: {str(error)[:200]} ({' > '.join(lines)})")


def _reset_peak() -> int:
    """The memory of the process now; its peak counts from here, where Linux allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) << 10
    except OSError:
        return 0  # no bound where the system does not tell
