"""CONDITIONING [[states, options]]: the keys that we read and write, the core's and ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypedDict

from ..errors import InkstoneError
from ..host.headless import is_read
from ..loaders.arch.variant import VARIANTS
from .conditioning_marks import check_marks
from .latents import STATISTICS, canvas

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ..controlnet.control_picture import ControlInput
    from ..controlnet.in_context import InContext
    from ..loaders.arch.variant import Variant
    from ..loaders.models.text_encoder import EncodedText
    from ..pipeline.regions import RegionInputs
    from ..sampling.regions import Regional
    from ..sampling.request import Control
    from .latents import Latent, Statistics

REFERENCES: Final = "reference_latents"
METHOD: Final = "reference_latents_method"
# values of METHOD: of edits, of those with zero_cond_t, of layers
INDEX, INDEX_ZERO, NEGATIVE = "index", "index_timestep_zero", "negative_index"
VARIANT: Final = "inkstone_variant"  # the variant whose template the prompt was encoded in
PROMPT: Final = "inkstone_prompt"  # the text, for checks that depend on it
CONTROLS: Final = "inkstone_controls"  # in order
REGIONS: Final = "inkstone_regions"
SLOTS: Final = "image_slots"  # core: of each picture of an edit, the rows of states before it
NEGATIVE_PROMPT: Final = "inkstone_negative"  # of the positive prompt: what its node encoded too


class Options(TypedDict, total=False):
    """The dict of a conditioning entry. Nodes of the core and of other packs add keys."""

    pooled_output: Tensor | None
    attention_mask: Tensor
    reference_latents: Sequence[Tensor]
    reference_latents_method: str
    inkstone_variant: str
    inkstone_prompt: str
    image_slots: Sequence[int]
    inkstone_statistics: Statistics
    inkstone_controls: tuple[ControlInput, ...]
    inkstone_regions: RegionInputs
    inkstone_negative: list[tuple[Tensor, Options]]


_READ: Final = frozenset(Options.__annotations__)

if TYPE_CHECKING:
    Conditioning = list[tuple[Tensor, Options]]


def conditioning(states: Tensor, options: Options) -> Conditioning:
    """A CONDITIONING of one prompt [1,L,J]."""
    return [[states, options]]  # type: ignore[list-item]  # the core writes lists, reads pairs


def encoded(
    encode: Callable[[str], EncodedText], texts: tuple[str, str], options: Options
) -> list[Conditioning | None]:
    """The outputs positive and negative of an encode node, each with its text; None for an output
    that is not connected, so that an unused negative prompt is not encoded. The positive one
    carries the negative one, for a sampler to which only the positive one is connected.
    """
    outputs: list[Conditioning | None] = []
    for slot, text in enumerate(texts):
        own: Options = {**options, PROMPT: text}
        outputs.append(_entry_of(encode(text), own) if is_read(slot) else None)
    positive, negative = outputs
    if positive is not None and negative is not None:
        positive[0][1][NEGATIVE_PROMPT] = negative
    return outputs


def _entry_of(text: EncodedText, options: Options) -> Conditioning:
    own: Options = {**options, SLOTS: text.slots} if text.slots else options
    return conditioning(text.states.float().cpu(), own)


def negative_of(positive: Conditioning) -> Conditioning | None:
    """The negative prompt that the node of this positive one encoded; None if there is none."""
    return _positive(positive).get(NEGATIVE_PROMPT)


def text_states(prompt: Conditioning, name: str) -> Tensor:
    """[1,L,J] without padding. Refuses more than one entry, and marks that the sampler ignores."""
    states, options = _entry(prompt, name)
    check_marks(options, name, _READ)
    mask = options.get("attention_mask")
    return states if mask is None else states[:, mask[0].bool()]


def _entry(prompt: Conditioning, name: str) -> tuple[Tensor, Options]:
    if not isinstance(prompt, list) or len(prompt) != 1:
        count = len(prompt) if isinstance(prompt, list) else "no"
        raise InkstoneError(
            f"The {name} conditioning has {count} entries: expected 1. Areas and combined prompts "
            "are not supported by this node: connect one text encode node."
        )
    states, options = prompt[0]
    return states, options


def _positive(prompt: Conditioning) -> Options:
    return _entry(prompt, "positive")[1]


def references(
    positive: Conditioning, negative: Conditioning | None, apart: bool
) -> tuple[Tensor, ...]:
    """The reference latents [1,16,1,h,w] of a conditioning, ours or of core nodes, in order.

    apart: the model's references have a time of their own. Both halves of CFG get the same ones.
    """
    options = _positive(positive)
    method = options.get(METHOD, INDEX)
    if method not in (INDEX, INDEX_ZERO) or (method == INDEX_ZERO and not apart):
        raise InkstoneError(
            f"The reference latents method of the conditioning is {method!r}: this model needs "
            f"{(INDEX_ZERO if apart else INDEX)!r}. Remove the reference method node; for a 2511 "
            "file choose variant edit-2511 in its loader."
        )
    latents = _latents(options)
    other = latents if negative is None else _latents(_entry(negative, "negative")[1])
    if other and [x.shape for x in other] != [x.shape for x in latents]:
        raise InkstoneError(
            f"The positive conditioning has {len(latents)} reference pictures, the negative "
            f"{len(other)}, or their sizes differ: expected the same. Give both the same pictures."
        )
    return latents


def _latents(options: Options) -> tuple[Tensor, ...]:
    return tuple(x[:, :, None] if x.dim() == 4 else x for x in options.get(REFERENCES) or ())


def with_control(prompt: Conditioning, control: ControlInput) -> Conditioning:
    """A copy of the conditioning with one more control."""
    states, options = _entry(prompt, "positive")
    own: Options = {STATISTICS: (control.vae.mean, control.vae.std)}
    added: Options = {CONTROLS: (*options.get(CONTROLS, ()), control)}
    return conditioning(states, {**own, **options, **added})


def with_regions(prompt: Conditioning, regions: RegionInputs) -> Conditioning:
    """A copy of the conditioning with these regional prompts."""
    states, options = _entry(prompt, "positive")
    added: Options = {REGIONS: regions}
    return conditioning(states, {**options, **added})


def region_inputs(prompt: Conditioning) -> RegionInputs | None:
    """The regional prompts of a conditioning; None if it has none."""
    return _positive(prompt).get(REGIONS)


def regional(
    positive: Conditioning, negative: Conditioning | None, latent: Latent
) -> Regional | None:
    """The regional prompts of a run, on the canvas of a LATENT."""
    if negative is not None and REGIONS in _entry(negative, "negative")[1]:
        raise InkstoneError(
            "The negative prompt has regions, which act on the positive one alone. Connect "
            "Inkstone Regional Prompts between the positive prompt and the sampler only."
        )
    inputs = region_inputs(positive)
    return None if inputs is None else inputs.on(canvas(latent))


def prompt_of(prompt: Conditioning) -> str | None:
    """The text that our nodes encoded; None if another node did."""
    return _positive(prompt).get(PROMPT)


def controls_on(prompt: Conditioning) -> int:
    """How many controls a conditioning carries."""
    return len(_positive(prompt).get(CONTROLS, ()))


def controls(prompt: Conditioning, latent: Latent) -> tuple[Control | InContext, ...]:
    """The controls of a conditioning, their pictures encoded at the size of a LATENT."""
    inputs = _positive(prompt).get(CONTROLS, ())
    if not inputs:
        return ()
    place = canvas(latent)
    return tuple(control.on(place) for control in inputs)


def slots(positive: Conditioning, negative: Conditioning | None) -> tuple[int, ...]:
    """For each reference the rows of the prompt before it; () where families do not mix them."""
    own = tuple(_positive(positive).get(SLOTS, ()))
    other = own
    if negative is not None:
        other = tuple(_entry(negative, "negative")[1].get(SLOTS, ()))
    if own != other:
        raise InkstoneError(
            f"The positive prompt has places for {len(own)} pictures, the negative for "
            f"{len(other)}: expected the same. Encode both with the same pictures, in one node."
        )
    return own


def encoded_for(prompt: Conditioning, own: Variant | None) -> str:
    """The variant whose template a prompt was encoded in; "" if unknown. own: that of the model,
    which is as good where its edits are encoded in the same way.
    """
    name = _positive(prompt).get(VARIANT, "")
    other = VARIANTS.get(name)
    if own is None or other is None or own.edit is None:
        return name
    same = (other.family, other.edit, other.zero_cond_t) == (own.family, own.edit, own.zero_cond_t)
    return own.name if same else name


def statistics(prompt: Conditioning, latent: Latent) -> Statistics | None:
    """(mean, std) of the VAE that encoded the pictures of a run; None if there are none."""
    return latent.get(STATISTICS) or _positive(prompt).get(STATISTICS)
