"""Stand-ins for ComfyUI's samplers: Euler steps on our network, with core's sigmas and guidance.

Only the sampler `euler` and the scheduler `simple` run here; others are refused by name. Unlike
core's, picture k of a batch has the noise of seed + k.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ...errors import InkstoneError
from ...host.api import io
from ...nodes.sample import Denoise
from ..node_types import SchemaInput
from .factory import by_name, latent_output, node, number
from .latents import Latent

if TYPE_CHECKING:
    from torch import Tensor

    from ...nodes.conditioning import Conditioning
    from ...nodes.latents import Latent as OurLatent
    from .models import CoreModel

SAMPLERS, SCHEDULERS = ("euler",), ("simple",)
_NUMBER = re.compile(r"[-+]?(?:\d*\.*\d+)")
_SEEDS = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Guider:
    """A GUIDER: model, prompts, guidance."""

    model: CoreModel
    positive: Conditioning
    negative: Conditioning | None
    cfg: float


def scheduled(model: CoreModel, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """[steps + 1] sigmas of a scheduler; below 1, `denoise` takes the end of a longer schedule."""
    import torch

    _check("scheduler", scheduler, SCHEDULERS)
    if not 0 < denoise <= 1:
        raise InkstoneError(
            f"denoise is {denoise:g}: expected more than 0, up to 1, which starts from noise."
        )
    total = int(steps / denoise)
    points = (model.points - int(step * model.points / total) for step in range(total))
    sigmas = [model.sigma(point) for point in points]
    return torch.tensor([*sigmas, 0.0])[-(steps + 1) :]


def sample(
    model: CoreModel,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: float = 1.0,
) -> Latent:
    """Sample with core's sigmas and plain guidance."""
    _check("sampler", sampler_name, SAMPLERS)
    guider = Guider(model, positive, negative, cfg)
    return _sampled(guider, seed, scheduled(model, scheduler, steps, denoise), latent_image)


def sample_custom(
    noise: int, guider: Guider, sampler: str, sigmas: Tensor, latent_image: Latent
) -> io.NodeOutput:
    """Sample with these sigmas; both outputs are the end of the run."""
    result = _sampled(guider, noise, sigmas, latent_image)
    return io.NodeOutput(result, result)


def _sampled(guider: Guider, seed: int, sigmas: Tensor, latent: Latent) -> Latent:
    """One run. Core's guidance does not keep the length of the positive velocity."""
    if guider.cfg < 1:
        raise InkstoneError(
            f"cfg is {guider.cfg:g}: expected 1 (no guidance) or more. Set it to 1."
        )
    model = guider.model.model
    plain = replace(model, family=replace(model.family, rescales=False))
    result = Denoise.execute(
        model=plain,
        positive=guider.positive,
        negative=guider.negative if guider.cfg > 1 else None,
        seed=seed,
        cfg=guider.cfg,
        sigmas=sigmas,
        latent=cast("OurLatent", latent),
    )
    made: Latent = result[0]
    return made


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise InkstoneError(
            f"The {what} {name!r} runs in ComfyUI only: expected {' or '.join(known)} here. Choose "
            "it, or run the graph in ComfyUI."
        )


def written_sigmas(sigmas: str) -> Tensor:
    """The numbers of a text."""
    import torch

    return torch.tensor([float(text) for text in _NUMBER.findall(sigmas)])


def choose_sampler(sampler_name: str) -> str:
    """The sampler of this name."""
    _check("sampler", sampler_name, SAMPLERS)
    return sampler_name


def guide(model: CoreModel, positive: Conditioning, negative: Conditioning, cfg: float) -> Guider:
    """Guidance by a negative prompt."""
    return Guider(model, positive, negative, cfg)


def guide_without(model: CoreModel, conditioning: Conditioning) -> Guider:
    """No guidance."""
    return Guider(model, conditioning, None, 1.0)


def noise_of(noise_seed: int) -> int:
    """The noise of a seed."""
    return noise_seed


def _seed(name: str) -> SchemaInput:
    item: SchemaInput = io.Int.Input(
        name, default=0, min=0, max=_SEEDS, control_after_generate=True
    )
    return item


def _cfg() -> SchemaInput:
    item: SchemaInput = io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01)
    return item


def _denoise() -> SchemaInput:
    item: SchemaInput = io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01)
    return item


def _any_of(name: str) -> SchemaInput:
    """A name that the node checks itself: core's lists are longer."""
    item: SchemaInput = io.Combo.Input(name, options=None)
    return item


SAMPLING_NODES = by_name(
    node(
        "KSampler",
        sample,
        lambda: [
            io.Model.Input("model"),
            _seed("seed"),
            number("steps", 20, 1, 10000),
            _cfg(),
            _any_of("sampler_name"),
            _any_of("scheduler"),
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            io.Latent.Input("latent_image"),
            _denoise(),
        ],
        latent_output,
        category="sampling",
    ),
    node(
        "SamplerCustomAdvanced",
        sample_custom,
        lambda: [
            io.Noise.Input("noise"),
            io.Guider.Input("guider"),
            io.Sampler.Input("sampler"),
            io.Sigmas.Input("sigmas"),
            io.Latent.Input("latent_image"),
        ],
        lambda: [io.Latent.Output(display_name=name) for name in ("output", "denoised_output")],
        category="sampling/custom_sampling",
    ),
    node(
        "KSamplerSelect",
        choose_sampler,
        lambda: [_any_of("sampler_name")],
        lambda: [io.Sampler.Output()],
        category="sampling/custom_sampling/samplers",
    ),
    node(
        "RandomNoise",
        noise_of,
        lambda: [_seed("noise_seed")],
        lambda: [io.Noise.Output()],
        category="sampling/custom_sampling/noise",
    ),
    node(
        "CFGGuider",
        guide,
        lambda: [
            io.Model.Input("model"),
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            _cfg(),
        ],
        lambda: [io.Guider.Output()],
        category="sampling/custom_sampling/guiders",
    ),
    node(
        "BasicGuider",
        guide_without,
        lambda: [io.Model.Input("model"), io.Conditioning.Input("conditioning")],
        lambda: [io.Guider.Output()],
        category="sampling/custom_sampling/guiders",
    ),
    node(
        "BasicScheduler",
        scheduled,
        lambda: [
            io.Model.Input("model"),
            _any_of("scheduler"),
            number("steps", 20, 1, 10000),
            _denoise(),
        ],
        lambda: [io.Sigmas.Output()],
        category="sampling/custom_sampling/schedulers",
    ),
    node(
        "ManualSigmas",
        written_sigmas,
        lambda: [io.String.Input("sigmas", default="1, 0.5")],
        lambda: [io.Sigmas.Output()],
        category="sampling/custom_sampling/sigmas",
    ),
)
