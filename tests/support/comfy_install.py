"""Prepares a real ComfyUI before it starts, once, from a source that the caller names.

The source is a git directory (bare or not) or a tree: INKSTONE_COMFYUI_SOURCE or --source.
Everything made from it (tree, virtual environment, stubs) is kept in a cache folder
(INKSTONE_COMFYUI_CACHE or --cache), so the first start takes minutes and the next ones seconds.

Unusual: torchvision and torchaudio are import-only stubs, because the server only asks that they
import.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PACK = Path(__file__).resolve().parents[2]
SOURCE_VARIABLE = "INKSTONE_COMFYUI_SOURCE"
CACHE_VARIABLE = "INKSTONE_COMFYUI_CACHE"
# What a server of 0.3.64 imports; newer trees add what their requirements.txt names.
PACKAGES = (
    "comfyui-frontend-package",
    "comfyui-workflow-templates-json",
    "comfyui-embedded-docs",
    "torchsde",
    "einops",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "safetensors",
    "aiohttp",
    "yarl",
    "pyyaml",
    "Pillow",
    "scipy",
    "tqdm",
    "psutil",
    "alembic",
    "SQLAlchemy",
    "av",
    "pydantic",
    "pydantic-settings",
    "numpy",
    "requests",
    "kornia",
)
NOT_FROM_REQUIREMENTS = {
    "torch",
    "torchvision",
    "torchaudio",
    "spandrel",
    "comfyui-workflow-templates",
}
FOLDERS = ("custom_nodes", "models", "input", "output", "user/default")
STUB_MODULES = {
    "torchvision": (
        "transforms",
        "transforms.functional",
        "transforms.v2",
        "transforms.v2.functional",
        "ops",
        "models",
        "models.optical_flow",
        "io",
        "utils",
    ),
    "torchaudio": ("transforms", "functional"),
}
STUB_TEXT = '''"""Import-only stand-in."""
import enum

__version__ = "0.0.0+stub"
__path__ = __path__ if "__path__" in globals() else []


class InterpolationMode(enum.Enum):
    NEAREST, NEAREST_EXACT, BILINEAR = "nearest", "nearest-exact", "bilinear"
    BICUBIC, LANCZOS = "bicubic", "lanczos"


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def __init__(self, *args, **kwargs):
        raise RuntimeError(f"{__name__}.{name} is a stub")

    return type(name, (), {"__init__": __init__})
'''


class ServerError(RuntimeError):
    """No server could be prepared or started, or it refused or failed a graph (`details`)."""

    def __init__(self, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.details = details


def default_cache() -> Path:
    """INKSTONE_COMFYUI_CACHE, else a folder under the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "inkstone-comfyui"


def given_source() -> Path | None:
    """INKSTONE_COMFYUI_SOURCE, or None where nobody gave one."""
    named = os.environ.get(SOURCE_VARIABLE)
    return Path(named) if named else None


def prepare_tree(source: Path, cache: Path) -> Path:
    """The folder with main.py: `source` itself, or the HEAD of a git directory, unpacked once."""
    if (source / "main.py").is_file():
        return source.resolve()
    if not source.is_dir():
        raise ServerError(f"No ComfyUI at {source}: give a git directory or a tree with main.py.")
    commit = _git(source, "rev-parse", "HEAD").strip()
    tree = cache / f"tree-{commit[:12]}"
    if not tree.is_dir():
        partial = Path(tempfile.mkdtemp(prefix="tree-part-", dir=cache))
        _unpack(source, commit, partial)
        partial.rename(tree)
    return tree


def _git(source: Path, *arguments: str, feed: str | None = None) -> str:
    env = {**os.environ, "GIT_NO_LAZY_FETCH": "1"}
    run = subprocess.run(
        _git_command(source, *arguments),
        check=False,
        input=feed,
        capture_output=True,
        text=True,
        env=env,
    )
    if run.returncode:
        raise ServerError(f"git {arguments[0]} failed in {source}: {run.stderr.strip()}")
    return run.stdout


def _git_command(source: Path, *arguments: str) -> list[str]:
    return ["git", "-c", f"safe.directory={source.resolve()}", "-C", str(source), *arguments]


def _unpack(source: Path, commit: str, into: Path) -> None:
    """git archive, without files whose content the repository lacks (as in partial clones)."""
    listing = [line.split(None, 3) for line in _git(source, "ls-tree", "-r", commit).splitlines()]
    ids = "".join(item[2] + "\n" for item in listing)
    checked = _git(source, "cat-file", "--batch-check", feed=ids).splitlines()
    absent = [
        item[3] for item, line in zip(listing, checked, strict=True) if line.endswith(" missing")
    ]
    for path in absent:
        log.warning("the source lacks %s: left out", path)
    skip = [f":(exclude,literal){path}" for path in absent]
    archive = subprocess.Popen(
        _git_command(source, "archive", commit, "--", ".", *skip),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    unpacked = subprocess.run(["tar", "x", "-C", str(into)], check=False, stdin=archive.stdout)
    if archive.wait() or unpacked.returncode or not (into / "main.py").is_file():
        shutil.rmtree(into)
        raise ServerError(f"{source} at {commit[:12]} did not unpack into a tree with main.py.")


def prepare_python(tree: Path, cache: Path) -> Path:
    """An interpreter with all that the tree needs: a virtual environment, made once."""
    packages = sorted({*PACKAGES, *_required(tree)})
    key = hashlib.sha256(" ".join([sys.version, _torch(), *packages]).encode()).hexdigest()[:12]
    home = cache / "venv"
    python, stamp = home / "bin" / "python", home / "inkstone-complete"
    if stamp.is_file() and stamp.read_text("ascii") == key:
        return python
    log.warning("installing ComfyUI's packages into %s: minutes, once", home)
    if not python.exists():
        venv.create(home, with_pip=True)
    _pip(python, [_torch()])
    _pip(python, packages)
    _pip(python, ["--no-deps", "spandrel"])  # two upscale nodes; its own needs are all above
    stamp.write_text(key, "ascii")
    return python


def _required(tree: Path) -> Iterator[str]:
    """Names in the tree's requirements.txt, without versions and without what is stubbed."""
    for line in (tree / "requirements.txt").read_text("utf-8").splitlines():
        name = re.match(r"[A-Za-z0-9._-]+", line.strip())
        if name and name[0] not in NOT_FROM_REQUIREMENTS:
            yield name[0]


def _torch() -> str:
    """The torch that the caller tests with, if any, so that figures agree."""
    try:
        return "torch==" + importlib.metadata.version("torch").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "torch"


def _pip(python: Path, what: Sequence[str]) -> None:
    command = [python, "-m", "pip", "install", "--quiet", *what]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        raise ServerError(f"pip install {' '.join(what)} failed: {run.stderr[-2000:]}")


def prepare_stubs(python: Path, cache: Path) -> Path:
    """A folder for PYTHONPATH: torchvision, torchaudio, the template list under its old name."""
    stubs = cache / "stubs"
    for package, modules in STUB_MODULES.items():
        for module in ("", *modules):
            folder = stubs.joinpath(package, *module.split("."))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").write_text(STUB_TEXT, "utf-8")
    site = next((python.parent.parent / "lib").glob("python3*/site-packages"))
    templates = site / "comfyui_workflow_templates_json" / "templates"
    if templates.is_dir() and not (site / "comfyui_workflow_templates").is_dir():
        folder = stubs / "comfyui_workflow_templates"
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
        if not (folder / "templates").is_symlink():
            (folder / "templates").symlink_to(templates)
    return stubs


def prepare_base(base: Path, packs: Sequence[Path]) -> None:
    """The folders of one run, the packs linked in, the setting that keeps the first dialog away."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    for pack in packs:
        link = base / "custom_nodes" / ("inkstone" if pack == PACK else pack.name)
        if not link.is_symlink():
            link.symlink_to(pack.resolve())
    settings = base / "user/default/comfy.settings.json"
    if not settings.exists():
        settings.write_text('{"Comfy.TutorialCompleted": true}', "ascii")
