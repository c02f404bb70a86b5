"""What draws take their models from: opened for one call alone, or kept from call to call.

`Session` keeps the models of the last calls that named the same files, the states of prompts (each
encoded once) and control files. What does not fit into memory leaves and comes back by itself
(loaders/memory/residency.py), so prompts are best encoded some calls ahead: then a text encoder and
a diffusion model that do not fit together change places once for many calls.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CallError
from .controls import Controls, read_controls
from .task import Task, read_given, task_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...loaders.models.bundle import Bundle
    from ...loaders.models.control import ControlModel
    from ...loaders.models.weight_file import LoadOptions
    from ...pipeline.memory_plan import PlanRequest
    from .request import DrawCall

log = logging.getLogger(__name__)

_PROMPT_BYTES = 256 << 20  # of encoded prompts that are kept: some 100 long ones of the real model


def load(call: DrawCall, partly: bool = False) -> Bundle:
    """The three models of a call with its LoRAs; single files need all three options, unless
    `partly`."""
    from ...loaders.lora.adapters import Adapter
    from ...loaders.lora.file import load_lora

    # they are small and quickly refused: before the models
    adapters = [Adapter(load_lora(path), strength) for path, strength in call.lora]
    return _dressed(open_models(call, partly), adapters)


def _dressed(models: Bundle, adapters: Sequence[object]) -> Bundle:
    """A bundle that draws with these LoRAs too."""
    from ...loaders.lora.adapters import dress

    model, text_encoder, _ = dress(models.model, models.text_encoder, adapters)
    return replace(models, model=model, text_encoder=text_encoder)


def open_models(call: DrawCall, partly: bool = False) -> Bundle:
    """The models without LoRAs: opened and checked, their weights read when they are used.

    `partly`: of a single file, what was not named is None.
    """
    from ...loaders.models import load as b

    root, text, vae = parts_of(call, partly)
    want = want_of(call)
    models = b.Bundle(
        b.load_diffusion_model(root, want),
        b.load_text_encoder(text, want) if text else None,
        b.load_vae(vae, want) if vae else None,
    )
    if models.vae:  # raw latents are those of the VAE in use, whatever lies beside the model
        models.model.latent_mean, models.model.latent_std = models.vae.mean, models.vae.std
    return models


def want_of(call: DrawCall) -> LoadOptions:
    """How the models of a call are opened."""
    import torch

    from ...loaders.models.weight_file import LoadOptions

    dtype = None if call.dtype is None else getattr(torch, call.dtype)
    device = call.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return LoadOptions(dtype, device, call.memory, wait=True, variant=call.variant)


def parts_of(call: DrawCall, partly: bool = False) -> tuple[Path, Path | None, Path | None]:
    """Paths of diffusion model, text encoder and VAE. A single file needs the others named."""
    from ...loaders.models.load import EMBEDDED_FOLDER

    root = call.model if call.model is not None else EMBEDDED_FOLDER
    whole = root if root.is_dir() else None
    text, vae = call.text_encoder or whole, call.vae or whole
    absent = [name for name, value in (("--text-encoder", text), ("--vae", vae)) if value is None]
    if absent and not partly:
        raise CallError(
            f"{root} is a single file, so {' and '.join(absent)} must be given too. "
            "Or give --model a whole model folder."
        )
    return root, text, vae


class Once:
    """Everything is opened for one call, and the text encoder leaves as soon as it is done."""

    def bundle(self, call: DrawCall) -> Bundle:
        """The models with the call's LoRAs."""
        return load(call)

    def controls(self, call: DrawCall) -> Controls:
        """The call's controls, their pictures read."""
        return read_controls(call, want_of(call))

    def states(self, call: DrawCall, bundle: Bundle, task: Task, text: str) -> Tensor:
        """A prompt, encoded for this task."""
        return task.states(bundle, text)

    def planned(self, bundle: Bundle, wanted: PlanRequest) -> None:
        """What a call will hold in memory is known."""
        from ...pipeline.memory_plan import plan

        log.info("%s", plan(bundle, wanted).sentence())

    def encoded(self, bundle: Bundle) -> None:
        """The prompts of a call are encoded."""
        bundle.text_encoder.weights.park()


ONCE = Once()


class Session(Once):
    """Keeps what calls share. `opened` and `prompts` count what was not kept."""

    def __init__(self, prompt_bytes: int = _PROMPT_BYTES) -> None:
        self.opened = self.prompts = 0
        self._models: tuple[Hashable, Bundle] | None = None
        self._worn: tuple[Hashable, Bundle] | None = None
        self._controls: dict[Hashable, ControlModel] = {}
        self._states: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._most = prompt_bytes

    def bundle(self, call: DrawCall) -> Bundle:
        """The models of the last call where this one names the same, else its own."""
        key = (models_key(call), tuple(call.lora))
        if self._worn is None or self._worn[0] != key:
            self._worn = None  # its memory is free before the next comes in
            self._worn = key, self._wear(call)
        return self._worn[1]

    def clear(self) -> None:
        """Lets go of all."""
        self._worn = self._models = None
        self._controls.clear()
        self._states.clear()

    def _wear(self, call: DrawCall) -> Bundle:
        from ...loaders.lora.adapters import Adapter
        from ...loaders.lora.file import load_lora

        adapters = [Adapter(load_lora(path), strength) for path, strength in call.lora]
        key = models_key(call)
        if self._models is None or self._models[0] != key:
            self.clear()
            self._models = key, open_models(call)
            self.opened += 1
        return _dressed(self._models[1], adapters) if adapters else self._models[1]

    def controls(self, call: DrawCall) -> Controls:
        """The call's controls; their files are opened once."""
        return read_controls(call, want_of(call), self._control)

    def _control(self, path: Path, want: LoadOptions) -> ControlModel:
        from ...controlnet.in_context import load_any_control

        key = (path, want.dtype, want.device, want.budget)
        if key not in self._controls:
            self._controls[key] = load_any_control(path, want)
        return self._controls[key]

    def states(self, call: DrawCall, bundle: Bundle, task: Task, text: str) -> Tensor:
        """A prompt, encoded once however many calls use it, while there is room to keep it."""
        worn = tuple(call.lora) if bundle.text_encoder.adapters else ()
        seen = (tuple(call.image), call.mask) if task.kind == "edit" else ()
        return self._kept((worn, seen, text), lambda: task.states(bundle, text))

    def _kept(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._states:
            self._states[key] = make().cpu()  # a card has better things to hold
            self.prompts += 1
        self._states.move_to_end(key)
        while len(self._states) > 1 and sum(map(_nbytes, self._states.values())) > self._most:
            self._states.popitem(last=False)
        return self._states[key]

    def planned(self, bundle: Bundle, wanted: PlanRequest) -> None:
        """As of many calls: checked, not said for each."""
        from ...pipeline.memory_plan import plan

        plan(bundle, replace(wanted, once=False))

    def encoded(self, bundle: Bundle) -> None:
        """Nothing leaves before its room is needed."""

    def ahead(self, call: DrawCall) -> None:
        """Encodes the prompts of a call that comes later."""
        from .request import resolve

        given, bundle = read_given(call), self.bundle(call)
        task = task_of(call, bundle.model, given)
        self.states(call, bundle, task, call.prompt)
        settings = resolve(call, bundle, task)
        if settings.cfg > 1:
            self.states(call, bundle, task, settings.negative)


def _nbytes(states: Tensor) -> int:
    return states.numel() * states.element_size()


def models_key(call: DrawCall) -> Hashable:
    """Equal where two calls open the same models in the same way."""
    files = (call.model, call.text_encoder, call.vae)
    return (*files, call.dtype, call.device, call.memory, call.variant)
