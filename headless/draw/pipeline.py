"""`inkstone draw`: one call from prompt to picture, on the functions that the nodes use."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CallError, InkstoneError
from ...files.hashes import model_hash
from ...files.png import ensure_writable, save_png
from ..arg_types import check_device
from .controls import NONE, Controls, check_controls, control_facts
from .png_metadata import drawn_as, graph_chunks
from .request import DrawCall, Settings, resolve
from .session import ONCE, Once
from .task import TEXT, Task, check_pictures, picture_facts, read_given, task_of

if TYPE_CHECKING:
    import torch

    from ...loaders.models.bundle import Bundle
    from ...pipeline.memory_plan import PlanRequest
    from .to_graph import Drawn


log = logging.getLogger(__name__)


Progress = Callable[[int, int], None]


def draw(call: DrawCall, progress: Progress, models: Once = ONCE) -> dict:
    """Draws and saves; returns facts: files, settings, seconds per stage, models."""
    import time

    import torch

    from ...controlnet.in_context import apply_in_context_loras
    from ...sampling.request import Hooks, Request
    from ...sampling.sampler import denoise

    check_paths(call)
    given = read_given(call)
    _check_output(call)
    marks = [time.perf_counter()]
    controls = models.controls(call)
    bundle = models.bundle(call)
    task = controls.task(task_of(call, bundle.model, given), call, bundle)
    models.planned(bundle, wanted(call, task, controls))
    settings = resolve(call, bundle, task)
    marks.append(time.perf_counter())
    prompt = controls.prompt(call.prompt)
    positive = models.states(call, bundle, task, prompt)
    negative = None
    if settings.cfg > 1:
        negative = models.states(call, bundle, task, settings.negative)
    models.encoded(bundle)
    found = controls.on(task, given.mask, bundle, settings.size)
    model, branches, context = apply_in_context_loras(bundle.model, found)
    request = Request(
        *settings.size,
        _sigmas(bundle, settings),
        settings.seed,
        settings.batch,
        settings.cfg,
        **task.inputs(bundle),
        controls=branches,
        context=context,
    )
    drawn = drawn_as(call, settings, prompt, task, controls, bundle)
    marks.append(time.perf_counter())
    hooks = Hooks(on_step=lambda step: progress(step.index + 1, step.total))
    latents = denoise(model, positive, negative, request, hooks)
    marks.append(time.perf_counter())
    pictures = bundle.vae.decode(latents)
    if not torch.isfinite(pictures).all():
        raise InkstoneError(
            "The VAE gave values that are not finite; no picture was saved. Try --dtype float32, "
            "and if it stays, the VAE file is damaged: download it again."
        )
    pictures = task.finish(pictures)
    marks.append(time.perf_counter())
    facts = _facts(call, settings, bundle, marks) | picture_facts(call)
    facts |= {"controls": control_facts(call)} if call.control else {}
    if call.save_latent is not None:
        from ...loaders.formats.safetensors import save_safetensors

        save_safetensors(
            call.save_latent, {"samples": latents.float().contiguous()}, {"format": "pt"}
        )
        facts["latent"] = str(call.save_latent)
    facts["files"] = [str(path) for path in _save(call, pictures, facts, drawn)]
    return facts


def _save(call: DrawCall, pictures: torch.Tensor, facts: dict, drawn: Drawn) -> list[Path]:
    """The files of pictures [B*layers,H,W,C], each with what made it."""
    import torch

    kept = {k: facts[k] for k in ("models", "loras", "pictures", "mask", "controls") if k in facts}
    outputs, each = _output_names(call, len(pictures)), drawn.layers or 1
    for k, (path, picture) in enumerate(zip(outputs, pictures)):
        seed = call.seed + k // each
        said = {**facts["call"], "seed": seed, "batch": 1} | kept
        chunks = {"inkstone": json.dumps(said, ensure_ascii=False)}
        if k % each == 0:
            graph = graph_chunks(call, drawn, seed, told=k == 0)
        chunks |= graph
        save_png(path, (picture * 255).round().to(torch.uint8).numpy(), chunks)
    return outputs


def wanted(call: DrawCall, task: Task = TEXT, controls: Controls = NONE) -> PlanRequest:
    """What the plan needs of a call."""
    from ...pipeline.memory_plan import PlanRequest

    return PlanRequest(
        task.size or call.size,
        call.steps,
        call.batch,
        call.memory,
        True,
        len(task.beside) + len(controls.models) - len(controls.branches()),
        controls.branches(),
        task.layers,
    )


def _sigmas(bundle: Bundle, settings: Settings) -> torch.Tensor:
    from ...sampling.geometry import check_canvas, token_grid
    from ...sampling.schedule import sigmas, tail

    check_canvas(*settings.size)
    _, rows, columns = token_grid(*settings.size)
    return tail(sigmas(bundle.model.schedule, settings.steps, rows * columns), settings.strength)


def check_paths(call: DrawCall) -> None:
    named = (("--model", call.model), ("--text-encoder", call.text_encoder), ("--vae", call.vae))
    for name, path in named:
        if path is not None and not path.exists():
            raise CallError(f"{name} {path}: no such file or folder. Check the path.")
    for path, _ in call.lora:
        if not path.is_file():
            raise CallError(
                f"--lora {path}: no such file. Check the path (expected F or F:STRENGTH)."
            )
    check_pictures(call)
    check_controls(call)
    check_device(call.device)
    for path in (call.out, call.save_latent):
        if path is not None and path.is_dir():
            raise CallError(f"{path} is a folder: name a file in it.")


def _check_output(call: DrawCall) -> None:
    """Before anything is computed: the name is one of a PNG, the folders can be written to."""
    out = call.out or Path("inkstone.png")
    if out.suffix.lower() != ".png":
        raise CallError(f"-o {out}: pictures are saved as PNG. Name it {out.with_suffix('.png')}.")
    for folder in {out.parent, (call.save_latent or out).parent}:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise CallError(
                f"Cannot make the folder {folder}: {error.strerror}. Choose another."
            ) from None
        ensure_writable(folder)


def _output_names(call: DrawCall, count: int) -> list[Path]:
    """The files to write."""
    out = call.out or _free_name(Path("inkstone.png"))
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}_{k + 1}{out.suffix}") for k in range(count)]


def _free_name(path: Path) -> Path:
    """path, or with the first number that is not taken: nothing is overwritten unasked."""
    k, free = 1, path
    while free.exists():
        k, free = k + 1, path.with_name(f"{path.stem}_{k}{path.suffix}")
    return free


def _when_said(call: DrawCall, settings: Settings) -> dict:
    """What only some calls have."""
    found = {"strength": settings.strength if settings.strength < 1 else None}
    found |= {"variant": call.variant, "layers": call.layers}
    return {key: value for key, value in found.items() if value is not None}


def _facts(call: DrawCall, settings: Settings, bundle: Bundle, marks: list[float]) -> dict:
    stages = ("load", "encode", "denoise", "decode")
    width, height = settings.size
    return {
        "call": {
            "prompt": call.prompt,
            "negative": settings.negative if settings.cfg > 1 else None,
            "size": f"{width}x{height}",
            "steps": settings.steps,
            "cfg": settings.cfg,
            "seed": settings.seed,
            "batch": settings.batch,
            "dtype": str(bundle.model.dtype).removeprefix("torch."),
            **_when_said(call, settings),
        },
        "models": {
            name: {"name": part.path.name, "hash": model_hash(file)}
            for name, part, file in (
                ("diffusion_model", bundle.model, bundle.model.file.source.path),
                ("text_encoder", bundle.text_encoder, bundle.text_encoder.path),
                ("vae", bundle.vae, bundle.vae.path),
            )
        },
        "loras": [
            {"name": path.name, "hash": model_hash(path), "strength": strength}
            for path, strength in call.lora
        ],
        "seconds": {s: round(b - a, 3) for s, a, b in zip(stages, marks, marks[1:])},
    }
