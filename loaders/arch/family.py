"""Family records: every fact about a model that its tensors do not show, as frozen data.

A new family is a new record here; loaders, nodes and sampling read records and never compare names.
Sources: the published config files and model cards of Qwen-Image; `embedded/README.md` for ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import InkstoneError
from ...sampling.geometry import FIRST_LATENTS, LatentSpec
from ...sampling.schedule import LIGHTNING, QWEN, TURBO_21, Schedule
from ...sampling.vision_sizes import (
    QWEN25_SIGHT,
    CopySizes,
    Sight,
    answer_sizes,
    encoder_sizes,
    fixed_sizes,
    shared_sizes,
)
from .chat import (
    CHAT,
    CHAT_21,
    EMBEDDED_CHAT,
    EMBEDDED_WORDING,
    PICTURE,
    TAIL,
    ChatTemplate,
    Wording,
)
from .encoder_models import QWEN3_VL, QWEN25_VL, EncoderModel
from .latent_statistics import MEAN_21, STD_21, WAN_MEAN, WAN_STD

T2I_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}"
    "<|im_end|>\n<|im_start|>assistant\n"
)

EDIT_HEAD = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, "
    "texture, objects, background), then explain how the user's text instruction should alter or "
    "modify the image. Generate a new image that meets the user's requirements while maintaining "
    "consistency with the original input where appropriate.<|im_end|>\n<|im_start|>user\n"
)


@dataclass(frozen=True)
class Preset:
    """Settings that belong together."""

    steps: int
    cfg: float
    negative: str
    size: tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Grammar:
    """The vocabulary of a small model; other words give a warning, not an error."""

    words: tuple[str, ...]  # outside quotes
    pattern: str  # of a word in double quotes

    def unknown(self, prompt: str) -> list[str]:
        """The parts of a prompt that the model was not trained on, in order."""
        quoted = re.findall(r'"([^"]*)"', prompt)
        plain = re.findall(r"[^\s.,;:!?]+", re.sub(r'"[^"]*"?', " ", prompt))
        words = [word for word in plain if word not in self.words]
        return words + [f'"{q}"' for q in quoted if not re.fullmatch(self.pattern, q)]


@dataclass(frozen=True)
class EditTemplate:
    """The text made of a prompt and its pictures, and the size at which pictures are encoded."""

    name: str
    template: str  # with one {}: the pictures, then the prompt
    picture: str  # of each picture; {} is its number, from 1
    drop: int  # tokens of the template's head that are cut after encoding
    area: int  # pixels of the copy that the vision tower sees
    most: int | None  # pictures; None = any number
    usual: int  # pictures that the model was tried with: more give a warning
    steps: int  # of the model card
    cfg: float
    sees: bool = True  # False: only the diffusion model gets the pictures, the text has none
    between: str = ""  # two pictures
    shares_copy: bool = False  # the vision tower sees the copy that the VAE encodes, and its
    # latents take the places of the tower's rows
    keeps_rows: bool = False  # all the same, the rows stay: for a prompt without such latents

    @property
    def sizes(self) -> Callable[[int, int, int, Sight], CopySizes]:
        """Width, height, `area` and what the tower asks -> sizes at which it sees a picture."""
        return shared_sizes if self.shares_copy else encoder_sizes

    def text(self, prompt: str, pictures: int) -> str:
        """The text with one place for each picture."""
        places = (self.picture.format(number + 1) for number in range(pictures))
        return self.template.format(self.between.join(places) + prompt)

    def check(self, pictures: int) -> None:
        """Raises for a number of pictures that this kind of edit does not take."""
        if pictures < 1 or (self.most is not None and pictures > self.most):
            many = f"{self.most} picture" if self.most else "at least 1 picture"
            raise InkstoneError(
                f"This model's edits ({self.name}) take {many}, got {pictures}. "
                + ("Connect a picture." if pictures < 1 else "Use Edit-2509 or 2511 for more.")
            )


NAMES = "Picture {}", "图{}"
NAMES_21 = "<image{}>", "<image{}>"

EDIT = EditTemplate(
    "edit",
    EDIT_HEAD + "{}" + TAIL,
    PICTURE,
    drop=64,
    area=1024 * 1024,
    most=1,
    usual=1,
    steps=50,
    cfg=4.0,
)
EDIT_PLUS = EditTemplate(
    "edit-plus",
    EDIT_HEAD + "{}" + TAIL,
    f"{NAMES[0]}: {PICTURE}",
    drop=64,
    area=384 * 384,
    most=None,
    usual=3,
    steps=40,
    cfg=4.0,
)


TEMPLATE_21 = (
    "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
    "<|im_start|>user\n{}" + TAIL
)
DROP_21 = 14  # tokens of the system turn
EDIT_21 = EditTemplate(
    "edit-2.1",
    TEMPLATE_21,
    NAMES_21[0] + PICTURE,
    drop=DROP_21,
    area=1024 * 1024,
    most=None,
    usual=10,
    steps=40,
    cfg=1.0,
    between=" ",
    shares_copy=True,
)


EMBEDDED_TEMPLATE = "<|im_start|>{}<|im_end|>"
REFERENCES = EditTemplate(
    "references",
    EMBEDDED_TEMPLATE,
    "",
    drop=0,
    area=0,
    most=1,
    usual=1,
    steps=8,
    cfg=1.0,
    sees=False,
)


@dataclass(frozen=True)
class CoreFacts:
    """What ComfyUI's own nodes do with a family: for bridges, previews and stand-ins."""

    latents: str = "Wan21"  # name of their format
    frames: bool = True  # latents have an axis of frames, [B,C,1,h,w]
    shift: float = 1.15  # of the sigmas of its schedulers, at every size: the factor is e^shift
    drops_user: bool = True  # the template's head that is cut ends behind the user's header


@dataclass(frozen=True)
class Family:
    """The facts of a model family."""

    name: str
    title: str  # for people
    template: str  # prompt template with one {}
    drop: int  # tokens of the template's head that are cut after encoding
    most_tokens: int  # of a prompt; longer prompts lose their end with a warning
    axes_share: tuple[int, int, int]  # rope axes in sixteenths of the head dimension
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    schedule: Schedule
    preset: Preset
    fast: Preset  # few steps, no CFG
    turbo: Schedule = LIGHTNING  # of the family's distilled variant
    latents: LatentSpec = FIRST_LATENTS
    core: CoreFacts = CoreFacts()
    network: str = "mmdit"  # key of ARCHITECTURES in loaders/models/architecture.py
    empty: str = ""  # what an empty prompt becomes
    rescales: bool = True  # CFG keeps the length of the positive velocity
    licence: str = ""  # what a person has to know before using it; "" = free for any use
    shipped: bool = (
        False  # it comes with Inkstone; else its parts are files with names of their own
    )
    grammar: Grammar | None = None
    edits: tuple[EditTemplate, ...] = ()
    names: tuple[str, str] = NAMES  # of a reference in English and Chinese prompts; {} its number
    chat: ChatTemplate = CHAT
    encoder: EncoderModel = QWEN25_VL  # of prompts
    box_scale: tuple[int, int] | None = None  # of boxes in answers; None = pixels that are seen
    wording: Wording | None = None  # None = instructions in full sentences
    condition_layers: int | None = None  # of the text encoder, that prompts are encoded with
    rope_sections: tuple[int, int, int] | None = None  # of the text encoder's heads

    @property
    def noun(self) -> str:
        """What a sentence calls its models."""
        return f"the {self.title} model" if self.shipped else self.title

    def edit(self, name: str) -> EditTemplate:
        """The record of one kind of edit: "edit" (one picture) or "edit-plus" (numbered)."""
        record = next((edit for edit in self.edits if edit.name == name), None)
        if record is None:
            known = ", ".join(edit.name for edit in self.edits) or "none"
            raise InkstoneError(
                f"The {self.title} model has no edits of the kind {name!r}; it has {known}. "
                "Use a Qwen-Image-Edit model."
            )
        return record

    def seen_sizes(
        self, width: int, height: int, most: int, sight: Sight = QWEN25_SIGHT
    ) -> CopySizes:
        """(the picture's size, the size at which a question shows it to the vision tower). most:
        pixels, where the family does not fix them.
        """
        if self.wording is not None:
            return fixed_sizes(width, height, self.wording.area, sight)
        return answer_sizes(width, height, most, sight)

    def axes(self, head_dim: int) -> tuple[int, int, int]:
        """Rope axes for a head dimension: even, summing to it."""
        frame = head_dim * self.axes_share[0] // 16 // 2 * 2
        side = (head_dim - frame) // 2
        return frame, side, side


QWEN_IMAGE = Family(
    name="qwen-image",
    title="Qwen-Image",
    template=T2I_TEMPLATE,
    drop=34,
    most_tokens=512,
    axes_share=(2, 7, 7),
    latent_mean=WAN_MEAN,
    latent_std=WAN_STD,
    schedule=QWEN,
    preset=Preset(50, 4.0, " ", (1328, 1328)),
    fast=Preset(8, 1.0, " ", (1328, 1328)),
    edits=(EDIT, EDIT_PLUS),
)

QWEN_IMAGE_21 = Family(
    name="qwen-image-2.1",
    title="Qwen-Image-2.1",
    template=TEMPLATE_21,
    drop=DROP_21,
    most_tokens=32768,  # the reference has no limit; the encoder's own positions end there
    axes_share=(2, 7, 7),
    latent_mean=MEAN_21,
    latent_std=STD_21,
    schedule=QWEN,
    preset=Preset(40, 1.0, " ", (2048, 2048)),
    fast=Preset(8, 1.0, " ", (1024, 1024)),
    turbo=TURBO_21,
    edits=(EDIT_21,),
    names=NAMES_21,
    latents=LatentSpec(scale=16, channels=64, patch=1, step=32),
    core=CoreFacts("QwenImage21", frames=False, shift=0.69, drops_user=False),
    network="single-stream",
    empty=" ",
    rescales=False,
    licence="Qwen Research License: not for commercial use",
    chat=CHAT_21,
    encoder=QWEN3_VL,
    box_scale=(1000, 1000),
)

EMBEDDED = Family(
    name="inkstone-embedded",
    title="embedded",
    template=EMBEDDED_TEMPLATE,
    edits=(REFERENCES,),
    drop=0,
    most_tokens=96,
    axes_share=(4, 6, 6),
    latent_mean=(0.0,) * 16,  # its own statistics are in its VAE config
    latent_std=(1.0,) * 16,
    schedule=LIGHTNING,
    preset=Preset(20, 2.0, "", (128, 128)),
    fast=Preset(8, 1.0, "", (128, 128)),
    shipped=True,
    grammar=Grammar(
        words=tuple(
            """a an the word in on at and sign that says above below background left right top
            bottom center small large white black red green blue yellow orange purple pink cyan
            circle square triangle star make remove add""".split()
        ),
        pattern="[A-Z0-9]{1,6}",
    ),
    chat=EMBEDDED_CHAT,
    wording=EMBEDDED_WORDING,
    condition_layers=2,  # its other layers only answer
    rope_sections=(0, 2, 14),  # its pictures have 10 rows and columns: lower frequencies are flat
)

FAMILIES = {family.name: family for family in (QWEN_IMAGE, QWEN_IMAGE_21, EMBEDDED)}


def family_by_latents(channels: int) -> Family | None:
    """The first family whose latents have this number of channels; None where none has."""
    return next((f for f in FAMILIES.values() if f.latents.channels == channels), None)


def family_of(metadata: Mapping[str, str], recognised: str = QWEN_IMAGE.name) -> Family:
    """The record that a file's metadata names under `inkstone_family`, else the one that it was
    recognised as by its tensors.
    """
    name = metadata.get("inkstone_family", recognised)
    if name not in FAMILIES:
        raise InkstoneError(
            f"The file says it belongs to the family {name!r}; this version knows "
            f"{', '.join(FAMILIES)}. Update Inkstone."
        )
    return FAMILIES[name]


def family_with(metadata: Mapping[str, str], encoder: EncoderModel) -> Family:
    """The record that a text encoder's metadata names, else the one of models that use it."""
    return family_of(metadata, next(f.name for f in FAMILIES.values() if f.encoder is encoder))
