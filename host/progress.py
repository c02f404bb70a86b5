"""What a user sees while a node works: a bar, a line of text on the node, previews; and the stop
button, which every beat of the work (kernels/interrupt.py) asks for.

Unusual: the bar counts fractions of steps, because one step of a large model on a CPU takes
minutes; and on CUDA, where a whole step is queued in milliseconds, the run waits for its own blocks
now and then, so that bar and stop button tell the truth.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernels import interrupt
from .headless import Interrupted, headless_host

if TYPE_CHECKING:
    import torch

    from ..loaders.models.diffusion_model import DiffusionModel
    from ..sampling.denoise import Step
    from ..sampling.request import Request

log = logging.getLogger(__name__)

_OFTEN = 0.25  # seconds between two messages at least
_LONG = 2.0  # seconds of a step from which its blocks are told in words
_QUIET = 0.5  # seconds that work may take before a bar for it appears
_SHARE = 0.05  # of the time of a run that a costly decoder of previews may take
_QUEUED = 4  # blocks that a CUDA device may lag behind


class Heartbeat:
    """Hears the beats: stops the work on the user's wish, shows what takes longer than a moment."""

    def __init__(self) -> None:
        self._what, self._done, self._since, self._shown = "", 0.0, 0.0, 0.0

    def __call__(self, what: str, done: float, of: float) -> None:
        throw_if_interrupted()
        if not of:
            return
        now = time.monotonic()
        if what != self._what or done < self._done:
            self._since = now
        self._what, self._done = what, done
        if now - self._since >= _QUIET and (now - self._shown >= _OFTEN or done >= of):
            self._shown = now
            number = f"{done:.1f} of {of:.1f}" if isinstance(of, float) else f"{done} of {of}"
            show_amount(done, of, f"{what} {number}")


def listen() -> None:
    """From now on the work of this process can be stopped and seen."""
    interrupt.listen(Heartbeat())


class StepBar:
    """The bar of a denoising run: steps, and within a long one its blocks."""

    def __init__(self, steps: int, blocks: int, device: torch.device) -> None:
        """blocks: calls of `block` in a step, as far as is known before the first one ends."""
        self._steps, self._blocks = steps, blocks
        self._bar, self._pace = progress(steps), _Pace(device)
        self._step = self._seen = 0
        self._started = self._begun = self._shown = time.monotonic()

    def block(self, step: int, block: int) -> None:
        """Before each block. Raises the host's interrupt."""
        throw_if_interrupted()
        self._pace.wait()
        self._seen += 1
        now = time.monotonic()
        if now - self._shown < _OFTEN or self._seen < 2:
            return
        self._shown = now
        done = step + min((self._seen - 1) / self._blocks, 0.99)
        text = self._words(block, done, now) if now - self._begun >= _LONG or self._slow else ""
        self._bar.within(round(done, 3), text)

    def step(self, step: Step, preview: Any) -> None:
        """After each step."""
        self._blocks, self._seen = max(self._seen, 1), 0
        self._begun = self._shown = time.monotonic()
        self._step = step.index + 1
        self._bar.update(self._step, preview)

    @property
    def _slow(self) -> bool:
        return self._step > 0 and (self._begun - self._started) / self._step >= _LONG

    def _words(self, block: int, done: float, now: float) -> str:
        left = (now - self._started) * (self._steps - done) / max(done, 1e-3)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f"step {self._step + 1} of {self._steps}, block {block + 1}, {clock} left"


class _Pace:
    """Keeps the host program at most some blocks ahead of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._queued: deque[Any] | None = deque() if device.type == "cuda" else None

    def wait(self) -> None:
        if self._queued is None:
            return
        import torch

        mark = torch.cuda.Event()
        mark.record()
        self._queued.append(mark)
        if len(self._queued) > _QUEUED:
            self._queued.popleft().synchronize()


def previewer(model: DiffusionModel, request: Request) -> Callable[[Step], Any]:
    """A function from a finished step to a PIL picture, or None where there is nothing to show.

    Inside ComfyUI its preview setting counts: none, a decoder (its own, for Qwen-Image's latents),
    else a linear map: the model folder's, one fitted to the VAE that is loaded, or ComfyUI's.
    """
    method = preview_method()
    if method == "none":
        return lambda step: None
    factors = model.preview
    if factors is None and method == "taesd":
        theirs = host_previewer(model.device)
        if theirs is not None:
            return _Sparing(theirs, request)
    return _Linear(model, request)


class _Linear:
    """All pictures of the run by one matrix; costs nothing beside a step."""

    def __init__(self, model: DiffusionModel, request: Request) -> None:
        self._model, self._request = model, request
        self._factors: Any = model.preview
        self._theirs: Any = None

    def __call__(self, step: Step) -> Any:
        from ..sampling.preview import colours, sheet
        from ..sampling.sampler import normalised_latents

        if self._factors is None and self._theirs is None:
            self._choose()
        z = sheet(normalised_latents(step.x0, self._request))
        if self._factors is not None:
            return _enlarged(colours(z, self._factors))
        return None if self._theirs is False else self._theirs(z)

    def _choose(self) -> None:
        from ..loaders.models.vae import vae_in_use

        vae = vae_in_use(self._model.latent_mean)
        if vae is not None:
            self._factors = vae.preview_factors()
        else:  # the VAE is loaded later, or is a core one
            self._theirs = host_previewer(self._model.device) or False


class _Sparing:
    """A decoder that is left out while it would take more than a small share of the run."""

    def __init__(self, decode: Callable[[Any], Any], request: Request) -> None:
        self._decode, self._request = decode, request
        self._cost, self._last = 0.0, time.monotonic()

    def __call__(self, step: Step) -> Any:
        from ..sampling.sampler import normalised_latents

        start, last = time.monotonic(), step.index + 1 == step.total
        if not last and (start - self._last) * _SHARE < self._cost:
            return None
        picture = self._decode(normalised_latents(step.x0, self._request)[0])
        self._last = time.monotonic()
        self._cost = self._last - start
        return picture


def _enlarged(pixels: Any) -> Any:
    from PIL import Image

    from ..sampling.geometry import LATENT

    picture = Image.fromarray(pixels.numpy())
    size = picture.width * LATENT, picture.height * LATENT
    return picture.resize(size, Image.Resampling.BICUBIC)


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


def throw_if_interrupted() -> None:
    """Raises the host's interrupt exception (headless: Interrupted) when the user pressed stop."""
    headless = headless_host()
    if headless is None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()
    elif headless.interrupt.is_set():
        raise Interrupted("The run was stopped.")
