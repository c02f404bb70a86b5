"""Who imports whom: arrows between packages, nothing that unpickles, and a light first import."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ORACLES, share_cores

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = (
    "controlnet embedded files headless host kernels loaders nodes pipeline quant sampling score "
    "training"
).split()
BELOW_LOADERS = {"files", "quant", "kernels", "sampling"}
LOADERS = {f"loaders/{part}" for part in ("formats", "arch", "memory", "lora", "models")}
BELOW_NODES = BELOW_LOADERS | LOADERS | {"controlnet", "pipeline", "host"}
BELOW_HEADLESS = BELOW_NODES | {"nodes", "headless", "embedded"}
# room -> the rooms it may import from, itself included; errors.py and the door are open to all.
# A room is a package, or one folder of loaders/, headless/, headless/serve/ or nodes/.
MAY_IMPORT = {
    "": {"nodes", "headless/draw", "headless/score", "headless/workflow", "training/lora"},
    "files": {"files"},
    "quant": {"quant"},
    "kernels": {"quant"},
    "sampling": {"kernels"},
    "loaders/formats": {"files", "quant"},
    "loaders/arch": {"loaders/formats", "sampling", "kernels", "quant"},
    "loaders/memory": {"loaders/formats", "kernels", "quant"},
    "loaders/lora": {"loaders/arch", "loaders/formats", "loaders/memory", "sampling", "kernels"},
    "loaders/models": BELOW_LOADERS | LOADERS,
    "controlnet": BELOW_LOADERS | LOADERS,
    "pipeline": BELOW_LOADERS | LOADERS | {"controlnet"},
    "host": BELOW_LOADERS | LOADERS,
    "training": BELOW_LOADERS | LOADERS | {"controlnet", "pipeline", "embedded"},
    "training/dataset": BELOW_LOADERS | LOADERS | {"pipeline"},
    "training/lora": BELOW_LOADERS | LOADERS | {"pipeline", "training", "training/dataset"},
    "score": BELOW_LOADERS | LOADERS | {"pipeline", "training"},
    "nodes": BELOW_NODES | {"nodes/bridge"},  # the list of nodes names those of the bridge
    "nodes/bridge": BELOW_NODES | {"nodes"},  # the sockets
    "embedded": set(),
    "headless": BELOW_NODES,
    "headless/graph": BELOW_HEADLESS,
    "headless/core_nodes": BELOW_HEADLESS,
    "headless/workflow": BELOW_HEADLESS | {"headless/graph", "headless/core_nodes"},
    "headless/draw": BELOW_HEADLESS
    | {f"headless/{x}" for x in ("workflow", "graph", "core_nodes")},
}
MAY_IMPORT["headless/queue"] = MAY_IMPORT["headless/draw"] | {"headless/draw"}
MAY_IMPORT["headless/score"] = MAY_IMPORT["headless/queue"] | {"headless/queue", "score"}
MAY_IMPORT["headless/serve/desk"] = MAY_IMPORT["headless/queue"] | {"headless/queue"}
for part in ("api", "replicas"):  # neither knows the other
    MAY_IMPORT[f"headless/serve/{part}"] = MAY_IMPORT["headless/serve/desk"] | {
        "headless/serve/desk"
    }
MAY_IMPORT["headless/serve"] = {"kernels"} | {
    f"headless/serve/{part}" for part in ("api", "desk", "replicas")
}
MAY_IMPORT["headless/cli"] = MAY_IMPORT["headless/score"] | {
    "headless/score",
    "headless/serve",
    "headless/serve/desk",
    "training",
    "training/dataset",
    "training/lora",
}
# the one file that knows comfy-kitchen, and only inside a function
ALLOWED = {Path("quant/comfy_kitchen.py"): {"torch", "comfy_kitchen"}}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfyui_version", "folder_paths", "server"}
COMFYUI |= {"execution", "latent_preview", "node_helpers", "nodes"}
NEVER = {"diffusers", "transformers", "accelerate", "pickle", "cPickle", "dill", "shelve"}
NEVER |= {"joblib", "marshal", "inkstone", *PACKAGES}  # the last two: imports inside are relative
NEVER |= {"safetensors"}  # an oracle of the tests: reader and writer are ours
PICKLES = {"torch.load", "torch.save", "torch.hub"}


def modules() -> list[Path]:
    """Everything that ships, relative to the root."""
    files = [*ROOT.glob("*.py"), *(f for p in PACKAGES for f in (ROOT / p).rglob("*.py"))]
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


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a file or an imported name: "sampling", "loaders/arch", "" for the door."""
    for depth in (3, 2, 1):
        name = "/".join(parts[:depth])
        if name in MAY_IMPORT and (depth == 1 or len(parts) >= depth):
            return name
    return ""


def points_up(file: Path, name: str) -> bool:
    """True where a relative import leads to a room that this file's room must not know."""
    own, other = room_of(file.parts[:-1]), room_of(tuple(name[1:].split(".")))
    return other not in MAY_IMPORT[own] | {own, ""}


def faults(file: Path) -> list[str]:
    """Imports of this file that break the rules."""
    package, wrong = file.parts[0] if len(file.parts) > 1 else "", []
    for name, line in imports(file):
        top = name.removeprefix(".").split(".")[0]
        if name.startswith("."):
            bad = points_up(file, name)
        elif name in PICKLES:
            bad = True
        elif top in COMFYUI:
            bad = room_of(file.parts[:-1]) not in ("host", "nodes/bridge")
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


def folders() -> set[str]:
    """Every room that exists."""
    return {room_of(file.parts[:-1]) for file in modules()}


def test_every_folder_has_its_row():
    """A folder of loaders/, headless/ or nodes/ without a row would hide behind its parent's."""
    found = {"/".join(f.parts[:-1]) for f in modules() if f.parts[0] in ("loaders", "headless")}
    assert found - {"loaders"} <= set(MAY_IMPORT), found - set(MAY_IMPORT)
    assert set(MAY_IMPORT) <= folders() | {""}


def circles() -> list[list[str]]:
    """Groups of files that import each other, directly or through others; also inside functions."""
    known = {file.as_posix() for file in modules()}
    arrows: dict[str, set[str]] = {}
    for file in modules():
        for name, _ in imports(file):
            if not name.startswith("."):
                continue
            path = name[1:].replace(".", "/")
            ends = (f"{path}.py", f"{path.rpartition('/')[0]}.py", f"{path}/__init__.py")
            ends += (f"{path.rpartition('/')[0]}/__init__.py".removeprefix("/"),)
            target = next((end for end in ends if end in known), None)
            if target and target != file.as_posix():
                arrows.setdefault(file.as_posix(), set()).add(target)
    return [sorted(group) for group in strongly_connected(arrows) if len(group) > 1]


def strongly_connected(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Groups within which every point reaches every other (by plain reachability)."""

    def reach(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for one in arrows.get(todo.pop(), set()) - seen:
                seen.add(one)
                todo.append(one)
        return seen

    reached = {point: reach(point) for point in arrows}
    groups: list[set[str]] = []
    for point in arrows:
        if not any(point in group for group in groups):
            back = {p for p in reached[point] if point in reached.get(p, set())}
            groups.append({point} | back)
    return groups


def test_no_file_imports_itself_through_others():
    assert circles() == []


def test_a_circle_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name, text in (
        ("a", "from .b import x"),
        ("b", "def f():\n    from . import c"),
        ("c", ""),
    ):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{name}.py").write_text(text)
    (tmp_path / "__init__.py").touch()
    assert circles() == []
    (tmp_path / "files" / "c.py").write_text("from .a import y")
    assert circles() == [["files/a.py", "files/b.py", "files/c.py"]]


def test_arrows_point_one_way():
    wrong = [fault for file in modules() for fault in faults(file)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "file, line",
    [
        ("kernels/x.py", "import numpy"),
        ("kernels/x.py", "import triton.language as tl"),
        ("headless/cli/x.py", "from triton import jit"),
        ("kernels/triton/x.py", "import numpy"),
        ("kernels/triton/x.py", "from ...loaders.models import bundle"),
        ("kernels/x.py", "from ..sampling.noise import noise"),
        ("kernels/x.py", "from .. import nodes"),
        ("sampling/x.py", "from ..loaders.models import bundle"),
        ("loaders/arch/x.py", "def f():\n    import comfy.sd"),
        ("loaders/arch/x.py", "from ...headless.draw.request import DrawCall"),
        ("loaders/arch/x.py", "from ..models.bundle import Bundle"),
        ("loaders/formats/x.py", "from ..memory import residency"),
        ("pipeline/x.py", "from ..host import api"),
        ("host/x.py", "from ..nodes.load import LoadAll"),
        ("nodes/x.py", "from ..headless.graph import executor"),
        ("nodes/x.py", "import comfy.utils"),
        ("headless/graph/x.py", "from ..draw.request import DrawCall"),
        ("headless/draw/x.py", "from ..cli import main"),
        ("nodes/x.py", "import folder_paths"),
        ("nodes/x.py", "from inkstone.kernels import vae"),
        ("headless/cli/x.py", "from kernels import vae"),
        ("loaders/arch/x.py", "from torch import load"),
        ("training/x.py", "importlib.import_module('pickle')"),
        ("headless/cli/x.py", "from diffusers import DiffusionPipeline"),
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


def test_tests_collect_without_their_oracles():
    """At the top of a test file an oracle stands behind `importorskip`, or not at all."""
    wrong = []
    for file in (ROOT / "tests").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            bad = {name.split(".")[0] for name in names} & set(ORACLES)
            if bad and not getattr(node, "level", 0) and "importorskip(" not in text:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} imports {', '.join(bad)}")
    assert not wrong, "\n".join([*wrong, "use tests/support/oracle.py, or import in the test"])


# --- light imports

LIGHT = {
    "the door": "import inkstone",
    "the host and the executor": "import inkstone.host.api, inkstone.headless.graph.executor",
    "the nodes": "import inkstone.nodes; [n.define_schema() for n in inkstone.nodes.NODES]",
    "the command line": "from inkstone.headless.cli.parser import build_parser; build_parser()",
}
HEAVY = ("torch", "numpy", "PIL", "tokenizers", "safetensors", "transformers", "diffusers", "scipy")
HEAVY += ("triton",)


def test_a_checkout_may_have_any_name(request):
    """`inkstone-main` of an archive is no name of a Python package."""
    packages = [n.path for n in request.node.listchain() if isinstance(n, pytest.Package)]
    assert packages == [ROOT / "tests"]


@pytest.mark.parametrize("processes, share", [(2, 2), (4, 1), (8, 1)])
def test_processes_of_a_run_share_the_cores(monkeypatch, processes, share):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", str(processes))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share_cores()
    assert os.environ["OMP_NUM_THREADS"] == str(share)


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
