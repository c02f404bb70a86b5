"""Free memory of a device and of the machine."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def free_bytes(device: torch.device) -> int:
    """Free bytes of the card for CUDA, of main memory for other devices."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return available_ram()


def available_ram() -> int:
    """Available bytes of main memory (Linux: MemAvailable, within the limits of a container and of
    the process).

    Other systems: half of the physical memory, or 8 GiB where that is unknown.
    """
    try:
        return min(_rooms().values())
    except (OSError, KeyError, ValueError):
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" not in names:
            return 8 << 30
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def limit_in_the_way(device: torch.device) -> str:
    """The limit that leaves less than the machine has free, for people; "" where none does."""
    if device.type == "cuda":
        return ""
    try:
        rooms = _rooms()
    except (OSError, KeyError, ValueError):
        return ""
    return min(rooms, key=lambda name: rooms[name])


def _rooms() -> dict[str, int]:
    """Bytes that are left by each limit; "": by the machine, which comes first."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        table = dict(line.split(":", 1) for line in lines)
    return {
        "": int(table["MemAvailable"].split()[0]) * 1024,
        "the memory limit of the container": _container_room(),
        "the limit of this process (ulimit -v)": _own_room(),
    }


def process_bytes() -> int:
    """Resident bytes of this process (0 where the system does not report them)."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    except (OSError, ValueError, IndexError):
        return 0


def used_bytes(device: torch.device) -> int:
    """Bytes that this process uses on a device: its tensors on a CUDA card, all of its resident
    memory for the CPU (0 where that is unknown).
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.memory_allocated(device))
    return process_bytes() if device.type == "cpu" else 0


def hand_back() -> None:
    """Returns freed memory of malloc to the system.

    glibc keeps what lies under a block that is still in use: after a network was freed, 1.3 GB
    stayed once and nothing the next time.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass  # not glibc


def _container_room() -> int:
    """Bytes left below the container's memory limit (cgroup v2); a huge number without a limit."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
        lines = Path("/sys/fs/cgroup/memory.stat").read_text("ascii").splitlines()
        stat = dict(map(str.split, lines))
        cached = int(stat["active_file"]) + int(stat["inactive_file"])  # reclaimed when needed
        return max(0, int(limit) - used + cached)
    except (OSError, KeyError, ValueError):
        return 1 << 62


def _own_room() -> int:
    """Bytes left below the process's own limit (ulimit -v); a huge number without a limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except (ImportError, OSError, ValueError, IndexError):
        return 1 << 62
    if limit == resource.RLIM_INFINITY:
        return 1 << 62
    return max(0, limit - pages * resource.getpagesize())
