"""Tests always run on this tree: it is registered as the package `inkstone`, installed or not."""

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _register() -> None:
    spec = importlib.util.spec_from_file_location(
        "inkstone", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["inkstone"] = module
    spec.loader.exec_module(module)


def share_cores() -> None:
    """Each process of a run, and what it starts, computes on its share of the cores."""
    processes = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if processes is not None:
        share = (os.cpu_count() or 1) // int(processes)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def heed_interrupts() -> None:
    """A run that a shell starts in the background ignores Ctrl-C, and one below nohup the end of
    its terminal; tests send both themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    usual = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    for name, handler in usual.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


os.environ.setdefault("HF_HUB_OFFLINE", "1")
heed_interrupts()
share_cores()  # before torch is imported
if "inkstone" not in sys.modules:
    _register()


class _Root:
    """The checkout is a plain folder to pytest: as a package it needs a name that Python can
    import, which `inkstone-main` is not."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    # as a plugin of its own: hooks of a conftest.py do not see the folder above it
    config.pluginmanager.register(_Root())


# top-level modules that only tests need; where one is missing, what needs it is skipped
ORACLES = (
    *("accelerate", "comfy_kitchen", "cv2", "diffusers", "gguf", "peft", "prometheus_client"),
    *("safetensors", "scipy", "skimage", "transformers", "triton"),
)


def reason(name: str) -> str:
    """Why a test is skipped, in the words of pytest's summary."""
    return f"needs {name}, which only tests use: pip install '.[test]'"


def _skipping() -> Generator[None, object, object]:
    """Turns the import of a missing oracle, inside a test or a fixture, into a skip."""
    try:
        return (yield)
    except ModuleNotFoundError as missing:
        name = (missing.name or "").split(".")[0]
        if name in ORACLES:
            pytest.skip(reason(name))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    return (yield from _skipping())


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The folder that the command runs in; empty."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a tiny model of a variant ("edit-2511"), random weights, built once a file."""
    from .support.edits import build
    from .support.models_21 import pipeline as pipeline_21
    from .support.models_21 import save as save_21

    made = {}

    def get(kind: str) -> Path:
        if kind not in made:
            place = tmp_path_factory.mktemp(kind) / "model"
            newer = kind.startswith("2.1")
            made[kind] = (
                save_21(pipeline_21(), place) if newer else build(kind, place, "even").folder
            )
        return made[kind]

    return get


@pytest.fixture(scope="module")
def tiny_control(tmp_path_factory) -> Callable[[str], str]:
    """The file of a control for a tiny model, by the words in a name ("union", "inpainting",
    "blockwise canny", "blockwise inpaint", "fun", "context"), random weights.
    """
    from .support import control_kinds, controls
    from .support.context_lora import TARGETS, lora_file

    sizes = {"net.2": (32, 128), "mod.1": (192, 32)}  # of "even": width 32
    shapes = {
        f"transformer_blocks.{n}.{target}": sizes.get(target[-5:], (32, 32))
        for n in range(2)
        for target in TARGETS
    }
    folder = tmp_path_factory.mktemp("controls")

    def get(name: str) -> str:
        if "context" in name:
            lora_file(folder / "context.safetensors", shapes, 2)
            return str(folder / "context.safetensors")
        kind = "fun" if "fun" in name else "inpaint" if "inpaint" in name else "canny"
        if "blockwise" in name or kind == "fun":
            (folder / name).mkdir(exist_ok=True)
            config = '{"_class_name": "QwenImageControlNetModel", "axes_dims_rope": [4, 6, 6]}'
            (folder / name / "config.json").write_text(config)
            net = control_kinds.random_control(kind, "even", 2)
            control_kinds.saved(net, folder / name / "model.safetensors")
            return str(folder / name)
        kind = "inpainting" if kind == "inpaint" else "union"
        return str(controls.saved(controls.branch("even", 2, kind), folder / name))

    return get


@pytest.fixture
def fails(place, capsys) -> Callable[..., str]:
    """Runs a command that must fail with this status and these words, and leave no file."""
    from inkstone.headless.cli.main import main

    def run(arguments: tuple, words: tuple[str, ...], status: int = 1) -> str:
        try:
            got = main([str(a) for a in arguments])
        except SystemExit as stop:
            got = stop.code
        said = capsys.readouterr().err
        assert got == status and "Traceback" not in said, said
        assert all(word in said for word in words), f"{words} expected in: {said}"
        left = [str(p) for p in place.rglob("*") if p.is_file()]
        assert not left, f"left behind: {left}"
        return said

    return run
