"""From encoded prompts to latents: model, noise, schedule, guidance and loop in one place.

Nodes, command line and tests all call `denoise`. Rows of a batch share prompt and size; the noise
of item k has seed + k, so a batch of N equals N singles.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..errors import InkstoneError
from ..kernels.prefix_store import Place, PrefixStore
from ..kernels.references import NO_REFERENCES, ReferenceContext, References
from .checks import check_request, texts_of
from .control import ActiveControls, acting, condition, log_controls
from .control_checks import check_controls
from .denoise import KeptRegion, euler
from .denoise_run import DenoiseRun, Rows, row_of
from .geometry import token_grid
from .lightning import misfit
from .noise import noise
from .prefix_choices import AUTO
from .region_run import check_regions, regions_of
from .request import NO_HOOKS, Hooks, Model, Request
from .run_memory import (
    drawn,
    grids_of,
    passes_of,
    passes_words,
    prefix_bytes,
    prefix_place,
    together_bytes,
    working_bytes,
)
from .step_cache import CacheContext, WholeSteps, cache_of, check_step_cache
from .variety import Prompt, log_variety, noisy_prompt

log = logging.getLogger(__name__)


def denoise(
    model: Model,
    positive: Tensor,
    negative: Tensor | None,
    request: Request,
    hooks: Hooks = NO_HOOKS,
) -> Tensor:
    """Raw VAE latents [B,C,1,h,w] float32 on the CPU; of the layered variant [B,C,layers,h,w].

    positive, negative: [1,L,J] text states. cfg > 1 needs a negative; at cfg <= 1 it is not used.
    """
    r = request
    check_request(model, r)
    check_controls(model.network.config, model.latents, r)
    check_regions(model, r)
    if model.step_cache is not None:
        check_step_cache(model.step_cache, r.sigmas, model.trained_for)
    texts = texts_of(model, positive, negative, r.cfg)
    problem = _misfit(model, r)
    if problem:
        log.warning("%s", problem)
    start, kept_region = start_of(model, r)
    with running(model, texts, r, hooks) as run:
        x = euler(run.velocity, start, r.sigmas, r.cfg, hooks.on_step, kept_region, model.rescales)
        if model.step_cache is not None:
            log.info("%s", run.tally.words(model.step_cache))
        return raw_latents(model, x, r)


@contextmanager
def running(
    model: Model, texts: Mapping[str, Tensor], r: Request, hooks: Hooks
) -> Iterator[DenoiseRun]:
    """The run of a checked request, with the weights and the room that it needs. texts: see
    `texts_of`.
    """
    branches = {id(c.branch): c.branch for c in acting(r)}.values()
    weights = [branch.weights for branch in branches if branch.weights is not None]
    prefixes = prefixes_of(model, r, texts, prefix_place(model, r, texts))
    shared = together_bytes(model, r, texts)
    together = model.ready(working_bytes(model, r, texts), weights, shared)
    if shared:
        log.info("%s", passes_words(passes_of(model, r, texts), together))
    with model.adapted(), torch.inference_mode():
        log_controls(r)
        log_variety(model.variety, len(r.sigmas) - 1, r.cfg)
        yield run_of(model, texts, r, hooks, prefixes, together)


def run_of(
    model: Model,
    texts: Mapping[str, Tensor],
    r: Request,
    hooks: Hooks,
    prefixes: Mapping[str, PrefixStore | None],
    together: bool,
) -> DenoiseRun:
    """The run of a checked request, whose model is ready. prefixes: see `prefixes_of`; together:
    its walks go through each layer together.
    """
    grids = grids_of(model, r)
    return DenoiseRun(
        model=model,
        texts=texts,
        hooks=hooks,
        table=model.modulation(r.sigmas[:-1]),
        grids=grids,
        drawn=drawn(r),
        request=r,
        rows=_rows(model, r, texts, hooks, prefixes),
        together=together,
        regions=regions_of(model, r, texts["positive"].shape[1], grids),
    )


def _misfit(model: Model, r: Request) -> str | None:
    """What does not fit a distilled model; None where nothing is wrong or it is none."""
    if model.trained_for is None:
        return None
    return misfit(model.trained_for, r.sigmas, r.cfg, math.prod(token_grid(r.width, r.height)))


def _rows(
    model: Model,
    r: Request,
    texts: Mapping[str, Tensor],
    hooks: Hooks,
    prefixes: Mapping[str, PrefixStore | None],
) -> list[Rows]:
    """The batch as one, or with a step cache each row alone."""
    cached = model.step_cache is not None
    parts = [row_of(r, row) for row in range(r.batch)] if cached else [r]
    if cached and max(map(len, r.appended), default=1) > 1:  # stores are for all rows together
        prefixes = dict.fromkeys(texts)
    return [
        Rows(
            at=slice(row, row + part.batch),
            references=_references(model, part),
            prefixes=prefixes,
            controls=_controls(model, part, texts, hooks),
            caches=_caches(model, r, texts),
            noisy=_noisy(model, replace(part, seed=r.seed + row), texts),
        )
        for row, part in enumerate(parts)
    ]


def _noisy(model: Model, r: Request, texts: Mapping[str, Tensor]) -> Prompt | None:
    """The positive prompt of some rows with the noise of the first steps; None where no step has
    it.
    """
    if not model.variety.noisy(0, len(r.sigmas) - 1):
        return None
    prompt = Prompt(texts["positive"], r.regional)
    return noisy_prompt(prompt, model.variety, r.seed, r.batch)


def _caches(model: Model, r: Request, texts: Mapping[str, Tensor]) -> dict[str, WholeSteps]:
    """A step cache for each half of CFG; none where the model has none."""
    if model.step_cache is None:
        return {}
    tokens = drawn(r) * math.prod(token_grid(r.width, r.height))
    context = CacheContext(model.step_cache, len(r.sigmas) - 1, tokens, model.dtype)
    return {half: cache_of(context) for half in texts}


def prefixes_of(
    model: Model,
    r: Request,
    texts: Mapping[str, Tensor],
    place: Place,
    besides: Sequence[PrefixStore | None] = (),
) -> dict[str, PrefixStore | None]:
    """The store of each prompt: the one of an earlier run where prompt, references, LoRAs and
    weights are the same. All other stores are freed but those in `besides`.
    """
    if not model.network.keeps_prefix:
        return dict.fromkeys(texts)
    if place != "device" and model.keep_prefix == AUTO and not acting(r):
        log.info(
            "the keys and values of prompt and references take %.2f GB: %s",
            prefix_bytes(model, r, texts) / 1e9,
            "kept in main memory"
            if place == "host"
            else "computed again in every step for want of memory",
        )
    keys = [_prefix_key(r, text) if place != "off" else half for half, text in texts.items()]
    return dict(zip(texts, model.prefix_stores(keys, place, besides), strict=True))


def _prefix_key(r: Request, text: Tensor) -> str:
    """A digest of a prompt's states, of the references and their places."""
    digest = hashlib.sha256(repr(r.slots).encode())
    for part in (text, *r.appended):
        digest.update(repr(tuple(part.shape)).encode())
        digest.update(part.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _references(model: Model, r: Request) -> ReferenceContext:
    """The references, in one object for all steps and both halves of CFG."""
    if not r.appended:
        return NO_REFERENCES
    count = max(map(len, r.appended))  # maps may be one for each image
    latents = [normalised(model, z).expand(count, -1, -1) for z in r.appended]
    tokens = torch.cat(latents, dim=1)  # [n,R,64]
    references = References(tokens.to(model.device, model.dtype), fixed=model.apart)
    return ReferenceContext(references, drawn(r) if model.layered else 0)


def _controls(
    model: Model, r: Request, texts: Mapping[str, Tensor], hooks: Hooks
) -> ActiveControls | None:
    """The controls of a run; None where none acts."""
    controls = acting(r)
    if not controls:
        return None
    conditions = [condition(c, partial(normalised, model), model.latents) for c in controls]
    return ActiveControls(controls, conditions, texts, r, model, hooks)


def normalised(model: Model, latent: Tensor) -> Tensor:
    """Raw latents [n,C,1,h,w] -> normalised tokens, as the network reads them [n,S,64]."""
    z = (latent[:, :, 0].float().cpu() - model.latent_mean) / model.latent_std
    return model.latents.pack(model.latents.whole(z))  # other nodes' pictures may have odd sides


def start_of(model: Model, r: Request) -> tuple[Tensor, KeptRegion | None]:
    """(noise [B,S,64], mixed with the latent where the schedule starts below 1; the kept region)"""
    latents = model.latents
    rows, columns = latents.sides(r.width, r.height)
    initial = noise(r.seed, r.batch, rows, columns, latents.channels, drawn(r))
    x = latents.pack(initial).reshape(r.batch, -1, model.network.config.channels).to(model.device)
    first = r.sigmas[0].item()
    if first >= 1 and r.repaint is None:
        return x, None
    picture = normalised(model, latent_to_start_from(r)).to(model.device)
    mixed = first * x + (1 - first) * picture
    if r.repaint is None:
        return mixed, None
    repainted = r.repaint.float().expand(-1, latents.channels, -1, -1)
    mask = latents.pack(repainted).to(model.device)
    return mixed, KeptRegion(picture, x, mask)


def latent_to_start_from(r: Request) -> Tensor:
    """The latent of a run that does not start from noise alone, or that keeps a part of it."""
    if r.latent is None:
        raise InkstoneError(
            f"The schedule starts at sigma {r.sigmas[0].item():g}, but there is no latent to start "
            "from. Pass a latent, or use a schedule that starts at 1."
        )
    return r.latent


def normalised_latents(model: Model, x: Tensor, request: Request) -> Tensor:
    """Packed normalised state [B,S,64] -> latents of its images [n,C,h,w]: of each row the image,
    or its layers behind the image that is their sum.
    """
    _, rows, columns = token_grid(request.width, request.height)
    return model.latents.unpack(x.float().reshape(-1, rows * columns, x.shape[-1]), rows, columns)


def raw_latents(model: Model, x: Tensor, request: Request) -> Tensor:
    """Packed normalised state [B,S,64] -> raw VAE latents [B,C,1,h,w] on the CPU; of layers
    [B,C,layers,h,w], without the image that is their sum.
    """
    _, rows, columns = token_grid(request.width, request.height)
    tokens = x.float().cpu().reshape(-1, rows * columns, x.shape[-1])
    z = model.latents.unpack(tokens, rows, columns) * model.latent_std + model.latent_mean
    frames = z.unflatten(0, (x.shape[0], -1)).transpose(1, 2)  # [B,C,F,h,w]
    return frames[:, :, 1:] if request.layers else frames
