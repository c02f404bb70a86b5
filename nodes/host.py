"""The file that knows ComfyUI: node interface, folders, progress, stop, memory, device.

Inside ComfyUI everything goes to its own modules; elsewhere `io`, `ui` and `ComfyExtension` come
from headless/stand_in.py and the services from a `HeadlessHost`, set for the current context with
`using`. ComfyUI is the host when `comfy_api` can be found and INKSTONE_HOST is not "headless"; a
HeadlessHost that is set wins even there. torch is imported when a function needs it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..kernels.errors import InkstoneError
from ..kernels.memory import free_bytes

if TYPE_CHECKING:
    import torch

__all__ = ["ComfyExtension", "io", "ui"]  # the host's names; the functions below are public too
log = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (".safetensors", ".sft", ".gguf")
_LATER_PART = re.compile(r".*-(?!00001-)\d{5}-of-\d{5}\.gguf").fullmatch  # opened with the first
# kind -> (folders under models/, the component folder inside a Hugging Face model folder)
KINDS = {
    "diffusion_models": (("diffusion_models", "unet"), "transformer"),
    "text_encoders": (("text_encoders", "clip"), "text_encoder"),
    "vae": (("vae",), "vae"),
    "loras": (("loras",), "loras"),  # no model folder has such a part
    "controlnet": (("controlnet", "model_patches"), "controlnet"),  # blockwise ones lie there
    "annotators": (("annotators", "preprocessors", "depthanything"), "annotators"),  # of maps
    "diffusers": (("diffusers",), ""),
}
_MAX_DEPTH = 6


def in_comfyui() -> bool:
    """True where ComfyUI hosts us; looks for its package without importing it."""
    if os.environ.get("INKSTONE_HOST") == "headless":
        return False
    return "comfy_api" in sys.modules or importlib.util.find_spec("comfy_api") is not None


IN_COMFYUI = in_comfyui()
if IN_COMFYUI:
    from comfy_api.latest import ComfyExtension, io, ui
else:
    from ..headless.stand_in import ComfyExtension, io, ui


class Interrupted(Exception):
    """The user stopped a headless run. (ComfyUI raises its own exception; let both pass.)"""


@dataclasses.dataclass
class HeadlessHost:
    """What ComfyUI would have given: folders, a place for progress, a stop switch, a device.

    `on_progress(value, total, preview)` gets PIL previews or None, `on_detail` a line where one
    step takes long; `device` None = the best.
    """

    models: tuple[Path, ...] = (Path("models"),)
    input: Path = Path("input")
    output: Path = Path("output")
    temp: Path = Path("temp")
    device: str | None = None
    on_progress: Callable[[int, int, Any], None] | None = None
    on_detail: Callable[[str], None] | None = None
    previews: bool = True
    interrupt: threading.Event = dataclasses.field(default_factory=threading.Event)


_headless: ContextVar[HeadlessHost | None] = ContextVar("inkstone_headless_host", default=None)
_default_headless = HeadlessHost()


@contextmanager
def using(headless: HeadlessHost) -> Iterator[HeadlessHost]:
    """Within the block the services of this module go to `headless`."""
    token = _headless.set(headless)
    try:
        yield headless
    finally:
        _headless.reset(token)


def headless_host() -> HeadlessHost | None:
    """The headless host in force, or None where ComfyUI serves."""
    return _headless.get() or (None if IN_COMFYUI else _default_headless)


def schema(**fields: Any) -> Any:
    """io.Schema from these fields, without those that an older host does not know.

    Keywords are passed through because the set belongs to the host, e.g. search_aliases is new.
    """
    known = {item.name for item in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def advanced(item: Any) -> Any:
    """Marks an input as folded away where the host knows that; elsewhere it stays as it is."""
    if hasattr(item, "advanced"):
        item.advanced = True
    return item


class Progress:
    """A progress bar of `total` steps; `update` also stops the run when the user asked for it."""

    def __init__(self, total: float) -> None:
        self.total = total
        self._headless = headless_host()
        self._bar = None
        if self._headless is None:
            from comfy.utils import ProgressBar

            self._bar = ProgressBar(total)

    def update(self, value: int, preview_pil: Any = None) -> None:
        """`value` steps are done; the preview is PIL or None. Raises the host's interrupt."""
        if self._bar is not None:
            preview = None if preview_pil is None else ("JPEG", preview_pil, 512)
            self._bar.update_absolute(value, self.total, preview)
        elif self._headless.on_progress is not None:
            self._headless.on_progress(value, self.total, preview_pil)
        throw_if_interrupted()

    def within(self, value: float, text: str = "") -> None:
        """A fraction of a step is done; `text` says more. Headless only the text is told."""
        if self._bar is not None:
            self._bar.update_absolute(value, self.total)
            if text:
                _say_on_node(text)
        elif text and self._headless.on_detail is not None:
            self._headless.on_detail(text)


progress = Progress  # progress(total).update(value, preview_pil=None)


def preview_method() -> str:
    """The user's choice of previews: none, auto, latent2rgb, taesd; headless always auto."""
    if headless_host() is not None:
        return "auto" if headless_host().previews else "none"
    from comfy.cli_args import args

    method = getattr(args, "preview_method", "auto")  # newer hosts set it anew for every graph
    return str(getattr(method, "value", method))


def host_previewer(device: torch.device) -> Callable[[Any], Any] | None:
    """ComfyUI's own preview of a normalised Qwen-Image latent [16,h,w], as PIL; None headless."""
    if headless_host() is not None:
        return None
    import latent_preview
    from comfy import latent_formats

    wan = getattr(latent_formats, "Wan21", None)
    theirs = latent_preview.get_previewer(device, wan()) if wan is not None else None
    if theirs is None:
        return None
    return lambda z: theirs.decode_latent_to_preview(z[None, :, None].float())


def show_amount(done: float, of: float, text: str) -> None:
    """So much of something is done, where no run counts steps: a bar, and a line on the node."""
    Progress(of).within(done, text)


def _say_on_node(text: str) -> None:
    """A line below the node at work, until the graph is finished."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    say = getattr(server, "send_progress_text", None)
    if say is not None and context is not None:
        say(text, context.node_id, sid=server.client_id)


def require_comfyui(node: str) -> None:
    """Raises headless: what this node makes is ComfyUI's own."""
    if headless_host() is not None:
        raise InkstoneError(
            f"{node} makes an object of ComfyUI's, which is not here: run this graph in ComfyUI, "
            "or draw with Inkstone Denoise."
        )


def throw_if_interrupted() -> None:
    """Raises the host's interrupt exception (headless: Interrupted) when the user pressed stop."""
    headless = headless_host()
    if headless is None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()
    elif headless.interrupt.is_set():
        raise Interrupted("The run was stopped.")


def output_directory() -> Path:
    """Where finished pictures go."""
    return _directory("output")


def input_directory() -> Path:
    """Where pictures for LoadImage lie."""
    return _directory("input")


def temp_directory() -> Path:
    """Where previews go."""
    return _directory("temp")


def _directory(kind: str) -> Path:
    headless = headless_host()
    if headless is not None:
        return Path(getattr(headless, kind))
    import folder_paths

    return Path(getattr(folder_paths, f"get_{kind}_directory")())


def model_folders(kind: str) -> list[Path]:
    """The folders that are searched for models of a kind, best first. Raises on an unknown kind."""
    if kind not in KINDS:
        raise InkstoneError(f"Unknown model kind {kind!r}; expected one of {', '.join(KINDS)}.")
    headless = headless_host()
    if headless is not None:
        return [Path(root) / name for root in headless.models for name in KINDS[kind][0]]
    import folder_paths

    known = [n for n in (kind, *KINDS[kind][0]) if n in folder_paths.folder_names_and_paths]
    paths = [Path(path) for name in known for path in folder_paths.get_folder_paths(name)]
    return list(dict.fromkeys(paths)) or [
        Path(folder_paths.models_dir) / name for name in KINDS[kind][0]
    ]


def model_files(kind: str) -> list[str]:
    """Names of the models of a kind, sorted: weight files, and model folders that have the part.

    Names are relative, with "/" on every system. Files inside model folders are not listed.
    """
    component = KINDS.get(kind, ((), ""))[1]
    names: set[str] = set()
    for root in model_folders(kind):
        names.update(_scan(root, component, files=kind != "diffusers"))
    if kind != "diffusers":
        for root in model_folders("diffusers"):
            names.update(_scan(root, component, files=False))
    return sorted(names, key=str.lower)


def model_path(kind: str, name: str) -> Path:
    """The file or folder behind a name of `model_files`; headless runs may also give any path.

    Raises InkstoneError that names the folders searched and the nearest names there.
    """
    plain = PurePosixPath(name.replace("\\", "/"))
    folders = model_folders(kind) + ([] if kind == "diffusers" else model_folders("diffusers"))
    if ".." not in plain.parts and not plain.is_absolute() and name:
        for root in folders:
            if (root / plain).exists():
                return root / plain
    if headless_host() is not None and name and Path(name).exists():
        return Path(name)
    found = model_files(kind)
    near = difflib.get_close_matches(name, found, 3, 0.4) or found[:3]
    hint = (
        f"Nearest there: {', '.join(near)}."
        if near
        else "No model is there: put the file into the first one."
    )
    searched = ", ".join(str(path) for path in folders)
    raise InkstoneError(f"No {kind} model named {name!r}. Searched: {searched}. {hint}")


def known_model(kind: str, name: str) -> bool | str:
    """For a loader's validate_inputs: True, or why there is no such model (headless: any path)."""
    try:
        return bool(model_path(kind, name))
    except InkstoneError as error:
        return str(error)


_scans: dict[tuple[str, str, bool], tuple[dict[str, int], list[str]]] = {}


def _scan(root: Path, component: str, files: bool) -> list[str]:
    """Names under one folder, cached until the time stamp of any folder in it changes."""
    key = (str(root), component, files)
    if key in _scans and all(_stamp(path) == stamp for path, stamp in _scans[key][0].items()):
        return _scans[key][1]
    stamps: dict[str, int] = {}
    names = [
        str(PurePosixPath(path.relative_to(root).as_posix()))
        for path in _walk(root, component, files, stamps)
    ]
    _scans[key] = (stamps, names)
    return names


def _stamp(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def _walk(
    folder: Path, component: str, files: bool, stamps: dict[str, int], depth: int = 0
) -> Iterator[Path]:
    """Weight files and model folders below `folder`; `stamps` gets every folder looked into."""
    stamps[str(folder)] = _stamp(str(folder))
    if depth > _MAX_DEPTH or stamps[str(folder)] < 0:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        log.warning("cannot read the model folder %s: %s", folder, error)
        return
    if depth and (folder / "model_index.json").is_file():
        if (folder / component).is_dir():
            yield folder
        return
    if depth and files and any(entry.name.endswith(".safetensors.index.json") for entry in entries):
        yield folder
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry, component, files, stamps, depth + 1)
        elif files and entry.suffix.lower() in WEIGHT_SUFFIXES and not _LATER_PART(entry.name):
            yield entry


def torch_device() -> torch.device:
    """The device to compute on: the host's choice; headless the one asked for, else the best."""
    import torch

    headless = headless_host()
    if headless is None:
        from comfy import model_management

        return model_management.get_torch_device()
    if headless.device:
        return torch.device(headless.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def free_memory(bytes_needed: int, device: torch.device) -> int:
    """Asks the host to make room (it unloads its own models); returns the bytes now free there."""
    if headless_host() is None:
        from comfy import model_management

        model_management.free_memory(bytes_needed, device)
        return int(model_management.get_free_memory(device))
    return free_bytes(device)


def versions() -> str:
    """One line for logs and bug reports: host, frontend, torch, python."""
    known = IN_COMFYUI and importlib.util.find_spec("comfyui_version") is not None
    module = importlib.import_module("comfyui_version") if known else None
    number = getattr(module, "__version__", "of unknown version")
    parts = [f"ComfyUI {number}" if IN_COMFYUI else "headless"]
    for label, package in (("frontend", "comfyui-frontend-package"), ("torch", "torch")):
        try:
            parts.append(f"{label} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            if package == "torch":
                parts.append("torch missing")
    return ", ".join([*parts, f"python {sys.version.split()[0]}"])
