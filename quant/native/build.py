"""The C source beside this file as a library for this machine, compiled once.

Nothing needs it: where there is no compiler, or anything else is in the way, torch does the same
work with the same bits, and `library` says why. What is compiled lies in the user's cache, in a
folder that belongs to the user alone, under a name made of source, compiler and processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

SWITCH = "INKSTONE_NATIVE"  # 0 = torch does the work
SOURCE = Path(__file__).with_name("unpack.c")
# a product and a sum keep their two roundings, which the bits of the formats need
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-fast-math", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 120  # a compiler that takes longer hangs


class _Unavailable(Exception):
    """Why there is no library; its text is the reason."""


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled library, or None, and the reason in a few words."""
    setting = os.environ.get(SWITCH, "")
    if setting == "0":
        return None, f"{SWITCH}=0"
    try:
        path, built = _compiled()
        loaded = ctypes.CDLL(str(path))
    except (_Unavailable, OSError) as error:
        log.info("packed weights are unpacked by torch: %s", error)
        return None, str(error)
    if built:
        log.info("compiled %s once, for unpacking weights 3 to 8 times faster", path)
    return loaded, str(path)


def _compiled() -> tuple[Path, bool]:
    """The library's file, and whether it was made now."""
    if sys.byteorder != "little":
        raise _Unavailable("this processor is not little-endian")
    compiler = _compiler()
    folder = _own_folder(cache_folder() / "native")
    key = repr((compiler, _stamp(compiler[0]), FLAGS, _processor(), SOURCE.read_bytes()))
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    path = folder / f"unpack-{digest}{_suffix()}"
    if path.is_symlink() or path.exists():
        _check_own(path, stat.S_ISREG, "file")
        return path, False
    _compile(compiler, path)
    return path, True


def cache_folder() -> Path:
    """The folder of this user's caches for Inkstone."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    if not Path(base).is_absolute():
        raise _Unavailable(f"the cache folder {base} is not an absolute path")
    return Path(base) / "inkstone"


def _own_folder(folder: Path) -> Path:
    """The folder, made if it is not there, that nobody else can write."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in (folder.parent, folder):
        _check_own(part, stat.S_ISDIR, "folder")
    return folder


def _check_own(path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
    """Raise where others could have put there what would be run."""
    facts = path.lstat()
    if not is_kind(facts.st_mode):
        raise _Unavailable(f"{path} is not a plain {kind}; remove it")
    if sys.platform == "win32":  # the folder lies in the user's profile, with its rights
        return
    if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _Unavailable(f"others can write {path}: remove it, or chmod go-w it")


def _compiler() -> tuple[str, ...]:
    """The command of a C compiler: one of the system's, or Zig's, which pip can install."""
    for name in COMPILERS:
        found = shutil.which(name)
        if found and sys.platform != "win32":  # there others have other flags
            return (found,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    raise _Unavailable(
        f"no C compiler was found ({', '.join(COMPILERS)}); install one, or inkstone[native]"
    )


def _stamp(program: str) -> tuple[str, int, int]:
    """Identifies the version of a program without starting it."""
    real = os.path.realpath(program)
    facts = os.stat(real)
    return real, facts.st_size, facts.st_mtime_ns


def _processor() -> str:
    """What this processor can do: code for one may not run on another with the same home."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _suffix() -> str:
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def _compile(compiler: tuple[str, ...], path: Path) -> None:
    """Compiles into a folder of its own and moves the whole file to its place."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as work:
        made = Path(work) / path.name
        command = [*compiler, *FLAGS, "-o", str(made), str(SOURCE)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, cwd=work
            )
        except subprocess.TimeoutExpired:
            raise _Unavailable(f"{compiler[0]} took more than {_SECONDS} s") from None
        if done.returncode or not made.is_file():
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise _Unavailable(f"{compiler[0]} failed: {words[0][:300] if words else 'no output'}")
        made.chmod(0o700)
        os.replace(made, path)
