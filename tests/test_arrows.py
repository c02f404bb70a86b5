"""Who imports whom: arrows between packages, nothing that unpickles, and a light first import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = "controlnet embedded headless kernels loaders nodes quant sampling training".split()
MAY_IMPORT = {
    "quant": {"quant"},
    "kernels": {"kernels", "quant"},
    "sampling": {"sampling", "kernels"},
    "loaders": {"loaders", "sampling", "kernels", "quant"},
    "controlnet": {"controlnet", "sampling", "loaders", "kernels", "quant"},
    "training": {"training", "controlnet", "sampling", "loaders", "kernels", "quant", "embedded"},
    "embedded": {"embedded"},
}
# the one file that knows comfy-kitchen, and only inside a function
ALLOWED = {Path("quant/kitchen.py"): {"torch", "comfy_kitchen"}}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfyui_version", "folder_paths", "server"}
COMFYUI |= {"execution", "latent_preview", "node_helpers", "nodes"}
NEVER = {"diffusers", "transformers", "accelerate", "pickle", "cPickle", "dill", "shelve"}
NEVER |= {"joblib", "marshal", "inkstone", *PACKAGES}  # the last two: imports inside are relative
PICKLES = {"torch.load", "torch.save", "torch.hub"}


def modules() -> list[Path]:
    """Everything that ships, relative to the root."""
    files = [ROOT / "__init__.py", *(f for p in PACKAGES for f in (ROOT / p).rglob("*.py"))]
    return [file.relative_to(ROOT) for file in files]


def imports(file: Path) -> list[tuple[str, int]]:
    """(what, line) of every import, also inside functions and by name: "torch.nn" or, for a
    relative one, its path below our root with a leading dot: ".kernels.linear"."""
    found = []
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = file.parts[: len(file.parts) - node.level] if node.level else ()
            base = [*home, *(node.module.split(".") if node.module else [])]
            dot = "." if node.level else ""
            found += [(dot + ".".join([*base, a.name]), node.lineno) for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            found.append((ast.literal_eval(node.args[0]), node.lineno))
    return found


def faults(file: Path) -> list[str]:
    """What this file imports against the rules."""
    package, wrong = file.parts[0] if len(file.parts) > 1 else "", []
    for name, line in imports(file):
        top = name.removeprefix(".").split(".")[0]
        if name.startswith("."):
            bad = package in MAY_IMPORT and top not in MAY_IMPORT[package]
        elif name in PICKLES:
            bad = True
        elif top in COMFYUI:
            bad = not (package == "nodes" and file.stem.startswith("host"))  # who knows ComfyUI
        elif top == "triton":
            bad = file.parts[:2] != ("kernels", "triton")  # optional: nothing else may need it
        elif package in ("kernels", "sampling", "quant"):
            known = ALLOWED.get(file, {"torch"}) | sys.stdlib_module_names
            bad = top not in known or top in NEVER
        else:
            bad = top in NEVER
        wrong += [f"{file}:{line} imports {name}"] if bad else []
    return wrong


def test_the_list_of_packages_is_whole():
    assert sorted(PACKAGES) == sorted(
        p.parent.name for p in ROOT.glob("*/__init__.py") if p.parent.name != "tests"
    )
    assert len(modules()) > 40 and Path("kernels/mmdit.py") in modules()


def test_arrows_point_one_way():
    wrong = [fault for file in modules() for fault in faults(file)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "file, line",
    [
        ("kernels/x.py", "import numpy"),
        ("kernels/x.py", "import triton.language as tl"),
        ("headless/x.py", "from triton import jit"),
        ("kernels/triton/x.py", "import numpy"),
        ("kernels/triton/x.py", "from ...loaders import bundle"),
        ("kernels/x.py", "from ..sampling.noise import noise"),
        ("kernels/x.py", "from .. import nodes"),
        ("sampling/x.py", "from ..loaders import bundle"),
        ("loaders/x.py", "def f():\n    import comfy.sd"),
        ("loaders/x.py", "from ..headless.draw import draw"),
        ("nodes/x.py", "import folder_paths"),
        ("nodes/x.py", "from inkstone.kernels import vae"),
        ("headless/x.py", "from kernels import vae"),
        ("loaders/x.py", "from torch import load"),
        ("training/x.py", "importlib.import_module('pickle')"),
        ("headless/x.py", "from diffusers import DiffusionPipeline"),
    ],
)
def test_a_wrong_arrow_is_seen(file, line, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert len(faults(Path(file))) == 1


def test_triton_is_imported_by_its_kernels_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = Path("kernels/triton/x.py")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("import triton.language as tl\nfrom ...quant import storage")
    assert not faults(file)


def test_nothing_that_ships_unpickles():
    for file in modules():
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            where = f"{file}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in PICKLES, f"{where} uses {ast.unparse(node)}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", f"{where} allows pickles"


# --- light imports

LIGHT = {
    "the door": "import inkstone",
    "the host and the executor": "import inkstone.nodes.host, inkstone.headless.executor",
    "the nodes": "import inkstone.nodes; [n.define_schema() for n in inkstone.nodes.NODES]",
    "the command line": "from inkstone.headless.options import build_parser; build_parser()",
}
HEAVY = ("torch", "numpy", "PIL", "tokenizers", "safetensors", "transformers", "diffusers", "scipy")
HEAVY += ("triton",)


@pytest.mark.parametrize("name", LIGHT)
def test_imports_are_light(name):
    """In a new process, since this one has everything loaded."""
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "import tests.conftest\n"
        f"{LIGHT[name]}\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]", f"{name} imports {done.stdout.strip()}"
