"""Our own socket types and the checks at the border: what came in through a wire, in words if
wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InkstoneError
from ..host.api import io
from ..host.headless import is_read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from ..controlnet.control_picture import ControlInput
    from ..controlnet.in_context import InContext
    from ..loaders.models.vae import VAEModel
    from ..sampling.pixel_lock import Lock
    from ..sampling.request import Control as Placed

Model = io.Custom("INKSTONE_MODEL")
TextEncoder = io.Custom("INKSTONE_TEXT_ENCODER")
VAE = io.Custom("INKSTONE_VAE")
Lora = io.Custom("INKSTONE_LORA")  # loaders.lora_stack.Adapter
Control = io.Custom("INKSTONE_CONTROL")  # loaders.control.ControlModel
Stitch = io.Custom("INKSTONE_STITCH")  # sampling.repaint.Repaint

# Keys in LATENT and CONDITIONING: the core's, and ours beside them
REFERENCES = "reference_latents"
# values of reference_latents_method: of edits, of those with zero_cond_t, of layers
INDEX, INDEX_ZERO, NEGATIVE = "index", "index_timestep_zero", "negative_index"
VARIANT = "inkstone_variant"  # whose template the prompt was encoded in
LOCK = "inkstone_lock"  # sampling.lock.Lock: how the picture lies on the canvas
CROP = "inkstone_crop"  # sampling.repaint.Crop: the part of a picture that is drawn
PROMPT = "inkstone_prompt"  # the words, for what depends on them
LAYERS = "inkstone_layers"  # so many layers are drawn
STATISTICS = "inkstone_statistics"  # (mean, std) of the VAE whose raw latents these are
CONTROLS = "inkstone_controls"  # controlnet.union.ControlPicture, in order
GROWN = "images"


class ModelInput(NamedTuple):
    """An input of a loader that names a model file: its folder under models/, and what role the
    file plays in a picture ("" for a folder of several). Loader nodes list theirs as `FILES`, which
    `inkstone check`, `convert` and the queue read.
    """

    folder: str
    role: str


def text_states(conditioning: list, name: str) -> Tensor:
    """CONDITIONING [[ [1,L,J], dict ]] -> [1,L,J], without padding. More than one entry is
    refused.
    """
    states, options = _only(conditioning, name)
    mask = options.get("attention_mask")
    return states if mask is None else states[:, mask[0].bool()]


def _only(conditioning: list, name: str) -> tuple[Tensor, dict]:
    if not isinstance(conditioning, list) or len(conditioning) != 1:
        count = len(conditioning) if isinstance(conditioning, list) else "no"
        raise InkstoneError(
            f"The {name} conditioning has {count} entries: expected one prompt. Areas and "
            f"combined prompts are "
            "not supported by this node: connect one text encode node."
        )
    return conditioning[0]


def references(positive: list, negative: list | None, apart: bool) -> tuple[Tensor, ...]:
    """The reference latents [1,16,1,h,w] of a conditioning, ours or of core nodes, in order.

    apart: the model's references have a time of their own. Both halves of CFG see the same ones.
    """
    options = _only(positive, "positive")[1]
    method = options.get("reference_latents_method", INDEX)
    if method not in (INDEX, INDEX_ZERO) or (method == INDEX_ZERO and not apart):
        raise InkstoneError(
            f"The conditioning places its reference pictures by {method!r}, this model by "
            f"{(INDEX_ZERO if apart else INDEX)!r}. Take out the reference method node; for a "
            "2511 file choose variant edit-2511 where it is loaded."
        )
    found = _latents(options)
    other = found if negative is None else _latents(_only(negative, "negative")[1])
    if other and [x.shape for x in other] != [x.shape for x in found]:
        raise InkstoneError(
            f"The positive conditioning has {len(found)} reference pictures, the negative "
            f"{len(other)} or others: expected the same. Give both the same pictures."
        )
    return found


def _latents(options: dict) -> tuple[Tensor, ...]:
    return tuple(x[:, :, None] if x.dim() == 4 else x for x in options.get(REFERENCES) or ())


def conditionings(
    encode: Callable[[str], Tensor], texts: tuple[str, str], options: Mapping[str, Any]
) -> list[list | None]:
    """The outputs positive and negative of an encode node, each with its words; None where nobody
    reads it, so that a negative prompt that is not connected is not encoded.
    """
    return [
        [[encode(text).float().cpu(), {**options, PROMPT: text}]] if is_read(slot) else None
        for slot, text in enumerate(texts)
    ]


def latent_of(samples: Tensor, lock: Lock, vae: VAEModel) -> dict[str, Any]:
    """A LATENT of a picture that lies on its canvas by this lock."""
    return {"samples": samples, LOCK: lock, STATISTICS: statistics_of(vae)}


def with_control(conditioning: list, control: ControlInput) -> list:
    """A conditioning with one more control; the one that came in stays as it is."""
    states, options = _only(conditioning, "positive")
    own = {STATISTICS: statistics_of(control.vae)}
    return [[states, own | options | {CONTROLS: (*options.get(CONTROLS, ()), control)}]]


def prompt_of(conditioning: list) -> str | None:
    """The words that our nodes encoded; None where another node did."""
    return _only(conditioning, "positive")[1].get(PROMPT)


def controls(conditioning: list, latent: dict) -> tuple[Placed | InContext, ...]:
    """The controls of a conditioning, their pictures encoded on the canvas of a LATENT."""
    from ..controlnet.canvas import canvas_of
    from ..sampling.geometry import LATENT

    found = _only(conditioning, "positive")[1].get(CONTROLS, ())
    height, width = (side * LATENT for side in latent["samples"].shape[-2:])
    canvas = canvas_of(width, height, latent.get(CROP) or latent.get(LOCK)) if found else None
    return tuple(control.on(canvas) for control in found)


def encoded_for(conditioning: list) -> str:
    """The variant whose template a prompt was encoded in; "" where nothing says it."""
    return _only(conditioning, "positive")[1].get(VARIANT, "")


def statistics_of(vae: VAEModel) -> tuple[Tensor, Tensor]:
    """What a LATENT or CONDITIONING carries of the VAE that encoded its pictures."""
    return vae.mean, vae.std


def statistics(latent: dict, conditioning: list) -> tuple[Tensor, Tensor] | None:
    """(mean, std) of the VAE that encoded the pictures of a run; None where there are none."""
    return latent.get(STATISTICS) or _only(conditioning, "positive")[1].get(STATISTICS)


def restated(latent: dict, vae: VAEModel) -> Tensor:
    """The samples of a LATENT as raw latents of this VAE. A diffusion model that was loaded without
    its VAE knows the statistics of its family alone; this VAE may have others.
    """
    samples, own = latent_samples(latent, layers=True), latent.get(STATISTICS)
    if own is None or all(bool((a == b).all()) for a, b in zip(own, (vae.mean, vae.std))):
        return samples
    mean, std, new_mean, new_std = (x[:, :, None].to(samples) for x in (*own, vae.mean, vae.std))
    return (samples - mean) / std * new_std + new_mean


def latent_samples(latent: dict, layers: bool = False) -> Tensor:
    """LATENT -> samples [B,16,1,h,w]; 4-D is taken as one frame. layers: more frames are fine."""
    samples = latent["samples"]
    if samples.dim() == 4:
        samples = samples[:, :, None]
    if samples.dim() != 5 or samples.shape[1] != 16 or not (layers or samples.shape[2] == 1):
        raise InkstoneError(
            f"The latent has shape {list(latent['samples'].shape)}: expected [batch, 16, 1, "
            f"height/8, width/8]. "
            "Use the node Inkstone Empty Latent."
        )
    return samples


def repaint_mask(latent: dict) -> Tensor | None:
    """LATENT -> what of it is drawn anew [n,1,h,w], or None for all of it.

    noise_mask of any size, ours or the core's: stretched over the picture, and a latent cell is
    drawn if any pixel of it is.
    """
    from ..sampling.geometry import LATENT
    from ..sampling.masks import bounds, latent_mask, mask_for
    from ..sampling.pixel_lock import lock

    mask, (height, width) = latent.get("noise_mask"), latent["samples"].shape[-2:]
    if mask is None:
        return None
    if mask.shape[-2:] == (height, width):
        return mask.reshape(-1, 1, height, width)
    made = latent.get(LOCK) or lock(width * LATENT, height * LATENT)
    mask = mask_for(mask, made.picture)
    bounds(mask)  # an empty mask is told
    return latent_mask(mask, made)


def growing(one: Any, names: list[str], fixed: int, tip: str) -> list[Any]:
    """Inputs that grow as they are connected; on hosts without them `fixed` optional sockets under
    the very names that a grown one writes into a graph. `one` makes the socket of an id.
    """
    if hasattr(io, "Autogrow"):
        template = io.Autogrow.TemplateNames(one(names[0]), names=names, min=1)
        return [io.Autogrow.Input(GROWN, template=template, tooltip=tip)]
    return [one(f"{GROWN}.{n}", n.replace("_", " ").capitalize()) for n in names[:fixed]]


def grown(images: dict | None, fixed: dict) -> list[Tensor]:
    """What is connected to growing inputs, by number; gaps close up."""
    found = {name.rpartition("_")[2]: x for name, x in ((images or {}) | fixed).items()}
    return [found[n] for n in sorted(found, key=int) if found[n] is not None]


def require_type(value: Any, kind: type, name: str, node: str) -> Any:
    """Refuses a wire that carries something else (possible in hand-written API graphs)."""
    if not isinstance(value, kind):
        raise InkstoneError(f"{name} got {type(value).__name__}: connect the output of {node}.")
    return value


def require_models(**wires: Any) -> None:
    """Refuses wires `model`, `text_encoder`, `vae` that carry something else."""
    from ..loaders.models import load

    kinds = {"model": (load.DiffusionModel, "Diffusion Model")}
    kinds["text_encoder"] = (load.TextEncoderModel, "Text Encoder")
    kinds["vae"] = (load.VAEModel, "VAE")
    for name, value in wires.items():
        kind, shown = kinds[name]
        require_type(value, kind, name, f"Inkstone Load {shown}")
