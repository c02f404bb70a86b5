"""The wheel holds the package and its data, whole, and nothing else: no tests, no leftovers."""

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .test_arrows import ROOT, modules

DATA = {  # folder -> patterns of what is packed of it
    "controlnet/preprocess": ("pose_net.*",),
    "embedded": ("README.md", "model/**/*"),
    "headless": ("serve/web/*",),
    "locales": ("**/*.json",),
    "score": ("sets/*.jsonl",),
    "quant/native": ("unpack.c",),
    "web": ("*.js", "docs/**/*"),
    "workflows": ("**/*.json", "*.jpg"),
}
AT_ROOT = {"build", "venv", ".venv", "models", "input", "output", "temp"}  # a user's own


def left_out(folder: str, names: list[str]) -> set[str]:
    """Names in a folder that are not copied: caches, and at the root whatever git ignores."""
    own = AT_ROOT if Path(folder) == ROOT else set()
    ends = (".git", "_cache", "__pycache__", ".egg-info")
    return {name for name in names if name in own or name.endswith(ends)}


def missing() -> str:
    """Why no wheel can be built here; "" where one can. Nothing is downloaded for it."""
    for name, least in (("setuptools", 77), ("pip", 21)):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"needs {name}>={least}, which is not installed"
        if int(version.split(".")[0]) < least:
            return f"needs {name}>={least}, got {version}"
    return ""


def expected() -> set[str]:
    """Every file of the package as a name in the wheel."""
    files = {ROOT / "py.typed", *(ROOT / file for file in modules())}
    for folder, patterns in DATA.items():
        files |= {f for p in patterns for f in (ROOT / folder).glob(p) if f.suffix != ".pyc"}
    files = {file for file in files if file.is_file()}
    return {f"inkstone/{file.relative_to(ROOT).as_posix()}" for file in files}


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "a wheel can be built here")
def test_the_wheel_is_the_package_and_no_more(tmp_path):
    """Built from a copy in which an older version was built before."""
    copy, out = tmp_path / "checkout", tmp_path / "out"
    shutil.copytree(ROOT, copy, ignore=left_out)
    stale = copy / "build" / "lib" / "inkstone" / "removed_long_ago.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy]
    built = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("inkstone-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt"))
        assert "inkstone = inkstone.headless.cli:main" in archive.read(metadata).decode()
    assert names == expected()
    folders = {name.split("/")[1] for name in names}
    assert folders.isdisjoint({"tests", "bench", "scripts", "docs", "build"}), folders
    assert {"workflows", "web", "locales", "embedded", "py.typed"} <= folders
    weights = "inkstone/embedded/model/transformer/diffusion_pytorch_model.safetensors"
    assert weights in names, sorted(n for n in names if "embedded" in n)
