"""Memory that ran out: recognized wherever it was asked for, answered in a sentence.

Python, numpy, torch and CUDA each report it in a way of their own. Whoever calls a node or a
command asks `memory_fault` what an exception was; all models are unloaded then, so that the next
run begins with free memory.
"""

from __future__ import annotations

import errno
import logging
import re
import sys
import traceback

from ..errors import InkstoneError
from ..kernels.memory import available_ram, hand_back, process_bytes
from .headless import headless_host

log = logging.getLogger(__name__)

_SIGNS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|bad_alloc"
    r"|unable to allocate|alloc_failed|failed to allocate",
    re.IGNORECASE,
)
_PERHAPS = re.compile(r"could not (create|initialize) a (primitive|memory)")  # oneDNN; or a fault
_LITTLE = 500_000_000  # bytes that are free, and such a message means memory
_AMOUNT = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGT]i?B)", re.IGNORECASE)
_UNITS = {"bytes": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class OutOfMemory(InkstoneError):
    """Memory ran out; everything that could be freed is free."""


def memory_fault(error: BaseException) -> OutOfMemory | None:
    """The sentence for an exception that says that memory ran out, after all models were unloaded;
    None for every other exception.
    """
    if isinstance(error, InkstoneError) or not _is_one(error):
        return None
    kind = _kind(error)
    wanted, free = _amount(str(error)), _free(kind)
    sentence = _sentence(wanted, free, kind)
    traceback.clear_frames(error.__traceback__)  # they hold the tensors of the run
    _unload()
    return OutOfMemory(sentence)


def _is_one(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return bool(_SIGNS.search(text) or (_PERHAPS.search(text) and available_ram() < _LITTLE))


def _kind(error: BaseException) -> str:
    """The device: "cuda" or "cpu"."""
    named = type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")
    return "cuda" if named or re.search(r"\b(cuda|cublas|hip)", str(error), re.I) else "cpu"


def _amount(text: str) -> int | None:
    """The bytes that were asked for, where the message has them."""
    match = _AMOUNT.search(text)
    if match is None:
        return None
    unit = match[2].lower()
    return int(float(match[1]) * _UNITS[unit if unit == "bytes" else unit[0]])


def _free(kind: str) -> int:
    torch = sys.modules.get("torch")
    if kind == "cuda" and torch is not None and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return available_ram()


def _sentence(wanted: int | None, free: int, kind: str) -> str:
    place = "the graphics card's memory" if kind == "cuda" else "main memory"
    asked = f": {wanted / 1e9:.2f} GB were needed at once" if wanted else ""
    joint = ", and" if asked else ":"
    advice = "Draw a smaller picture or fewer at a time, use files of a smaller type"
    if headless_host() is None:
        advice += ", close other programs"
    else:
        limit = max(1e8, 0.8 * (free if kind == "cuda" else free + process_bytes()))
        advice += f", close other programs, or stream weights with --memory {limit / 1e9:.1f}GB"
    return (
        f"Memory ran out{asked}{joint} {free / 1e9:.2f} GB of {place} were free. All models are "
        f"unloaded now, and the next run can begin. {advice}."
    )


def _unload() -> None:
    """Unloads all models, ours and the host's, and returns what is free to the system."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    from ..loaders.memory.residency import residencies

    for weights in residencies():
        weights.park()
    if headless_host() is None:
        from comfy import model_management

        model_management.unload_all_models()
        model_management.soft_empty_cache()
    elif torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    hand_back()
