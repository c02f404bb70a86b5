"""Settings of a LoRA training: one record, its limits and its help, without torch.

The command line's options, the settings file and the node *Train LoRA* are made of its fields. A
setting that is None is decided by the model or by the number of pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from ..errors import CallError
from ..loaders.arch.variant import CHOICES as VARIANTS
from .train_option import MOST_RANK, Option, flag_of, shown

KINDS = ("lora", "lokr", "dora")
SCHEDULES = ("constant", "cosine", "linear")
OPTIMIZERS = ("adamw", "adamw8bit")
TIMESTEPS = ("logit-normal", "uniform", "mode")
WEIGHTINGS = ("none", "sigma-sqrt", "cosmap")
CAPTIONS = ("files", "ask")
DTYPES = ("float32", "bfloat16")
SAVED = ("bfloat16", "float32")
SEEN = 100  # times that each picture is seen, where no number of steps is given
FEWEST_STEPS, MOST_STEPS = 500, 3000  # of that default

Value = TypeVar("Value")


def _of(option: Option, default: Value) -> Value:
    return field(default=default, metadata={"option": option})


def _path(text: str, metavar: str = "F") -> Path | None:
    return _of(Option("path", text, metavar=metavar), None)


def _whole(default: Value, low: float, high: float, text: str) -> Value:
    return _of(Option("whole", text, low, high, metavar="N"), default)


def _number(default: Value, low: float, high: float, text: str) -> Value:
    return _of(Option("number", text, low, high, metavar="X"), default)


def _choice(default: Value, choices: tuple[str, ...], text: str) -> Value:
    return _of(Option("choice", text, choices=choices), default)


def _flag(text: str) -> bool:
    return _of(Option("flag", text), False)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A LoRA training; fields are the long options of `inkstone train-lora` with `_` for `-`.
    Raises CallError for a value outside of its limits.
    """

    data: Path = field(
        metadata={
            "option": Option(
                "path",
                "folder of pictures with captions in .txt files of the same names, or a .jsonl "
                "file with a picture and a caption in each line",
                metavar="DATA",
            )
        }
    )
    output: Path = field(
        metadata={
            "option": Option(
                "path",
                "LoRA file to write; checkpoints, log and samples go to OUT-checkpoints/",
                metavar="OUT.safetensors",
            )
        }
    )
    model: Path | None = _path(
        "diffusion model file, checkpoint or whole model folder, in any format that draws; it "
        "stays as it is (default: the embedded model)",
        "FILE_OR_FOLDER",
    )
    text_encoder: Path | None = _path("text encoder file or folder")
    vae: Path | None = _path("VAE file or folder")
    variant: str | None = _choice(
        None, VARIANTS, "variant of the model, if the file does not name it"
    )
    control_dir: tuple[Path, ...] = _of(
        Option(
            "paths",
            "folder of references, to train an edit: for each picture of DATA the picture before "
            "the edit, by the same name, or NAME_0, NAME_1 and NAME_2 for Picture 1, 2 and 3; may "
            "be repeated: a folder for Picture 1, one for Picture 2 ...",
            metavar="DIR",
        ),
        (),
    )
    mask_dir: Path | None = _path(
        "folder with masks by the names of the pictures: the loss counts where they are white",
        "DIR",
    )
    captions: str = _choice(
        "files",
        CAPTIONS,
        "files: pictures without a caption are learned with an empty one; ask: the text encoder "
        "writes those that are missing, beside the pictures",
    )
    resolution: int | None = _whole(
        None,
        64,
        4096,
        "side of a square of as many pixels as each picture is scaled to (default: the model's "
        "usual size)",
    )
    reference_resolution: int | None = _whole(
        None,
        64,
        4096,
        "side of a square of as many pixels as references have at most (default: as drawn)",
    )
    cache_dir: Path | None = _path(
        "folder for encoded pictures and captions, which later trainings use again (default: "
        ".inkstone-cache beside the pictures)",
        "DIR",
    )
    steps: int | None = _whole(
        None,
        1,
        10**6,
        f"optimizer steps (default: each picture is seen {SEEN} times, within {FEWEST_STEPS} to "
        f"{MOST_STEPS} steps)",
    )
    batch: int = _whole(1, 1, 256, "pictures of one size that go through the model together")
    accumulate: int = _whole(
        1, 1, 1024, "batches whose gradients are averaged for one step; costs no memory"
    )
    lr: float = _number(1e-4, 1e-9, 1, "learning rate")
    lr_schedule: str = _choice("constant", SCHEDULES, "learning rate over the steps")
    warmup: int = _whole(0, 0, 10**6, "steps in which the learning rate rises from 0")
    optimizer: str = _choice(
        "adamw", OPTIMIZERS, "adamw8bit needs bitsandbytes, and a fourth of the memory for moments"
    )
    weight_decay: float = _number(0.01, 0, 10, "weight decay of AdamW")
    clip: float = _number(1.0, 0, 1e6, "largest length of the gradient; 0 = any")
    kind: str = _choice("lora", KINDS, "form of the weights that are trained")
    rank: int = _whole(16, 1, MOST_RANK, "rank")
    alpha: float | None = _number(
        None, 1e-3, 1e5, "the LoRA acts with strength alpha / rank (default: the rank)"
    )
    factor: int = _whole(
        -1, -1, 1024, "of LoKr: rows of its first matrix; -1 = as square as can be"
    )
    targets: tuple[str, ...] = _of(
        Option(
            "texts",
            "layers that are trained: attention, mlp, or a pattern of their names such as "
            "'*.attn.to_q'; may be repeated (default: attention and MLP of both streams)",
            metavar="PATTERN",
        ),
        (),
    )
    ranks: tuple[tuple[str, int], ...] = _of(
        Option(
            "ranks",
            "another rank for some layers: a range of blocks or a pattern, such as 0-9=32; 0 = not "
            "trained; may be repeated",
            metavar="PATTERN=RANK",
        ),
        (),
    )
    timesteps: str = _choice("logit-normal", TIMESTEPS, "how noise levels are drawn")
    timestep_mean: float = _number(0.0, -10, 10, "mean of the normal behind logit-normal")
    timestep_spread: float = _number(
        1.0, 1e-3, 10, "its standard deviation; of mode its scale, 1.29 is usual"
    )
    shift: float | None = _number(
        None,
        1e-2,
        100,
        "shift of the drawn levels towards noise; 1 = none (default: by the number of pixels, as "
        "when a picture is drawn)",
    )
    weighting: str = _choice("none", WEIGHTINGS, "weight of the loss by noise level")
    caption_dropout: float = _number(
        0.05, 0, 1, "share of pictures that are shown without their caption"
    )
    caption_noise: float = _number(
        0.0,
        0,
        10,
        "noise on encoded captions, as a share of their usual size, such as 0.75: what few "
        "pictures teach then acts in other prompts too",
    )
    module_dropout: float = _number(
        0.0,
        0,
        0.9,
        "share of layers that a step leaves as they are, such as 0.25: what is learned then acts "
        "in other prompts too",
    )
    ema: float = _number(
        0.0, 0, 0.99999, "decay of a moving average that is saved instead, such as 0.99; 0 = off"
    )
    seed: int = _whole(42, 0, 2**31, "seed of everything random")
    save_every: int = _whole(250, 1, 10**6, "steps between two checkpoints")
    keep: int = _whole(4, 1, 10**4, "LoRA files of earlier steps that are kept")
    sample_prompts: tuple[str, ...] = _of(
        Option("texts", "prompt to draw while training; may be repeated", metavar="TEXT"), ()
    )
    sample_every: int = _whole(
        250, 1, 10**6, "steps between two rows of pictures of --sample-prompts"
    )
    tensorboard: bool = _flag("also write events for TensorBoard (needs the package tensorboard)")
    trigger: str = _of(
        Option("text", "word that prompts need, noted in the file", metavar="TEXT"), ""
    )
    save_dtype: str = _choice("bfloat16", SAVED, "type of the numbers in the file")
    list_captions: bool = _flag("list the words of the captions in the file, as other trainers do")
    dtype: str | None = _choice(None, DTYPES, "type to compute in (default: the fastest safe one)")
    memory: int | None = _of(
        Option(
            "memory",
            "memory limit of the whole process; weights that do not fit are streamed from the "
            "file (default: the free memory)",
            metavar="12GB",
        ),
        None,
    )
    device: str | None = _of(
        Option(
            "device", "cpu, cuda, cuda:1, xpu or mps (default: cuda if there is one)", metavar="D"
        ),
        None,
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            unset = value is None and name in DEFAULTS and DEFAULTS[name] is None
            fault = None if unset else option.fault(value)
            if fault is not None:
                raise CallError(f"{flag_of(name)} is {shown(value)}: {fault}.")
        ranks: dict[str, int] = {}
        for pattern, rank in self.ranks:  # of one that is repeated the last counts, in its place
            ranks.pop(pattern, None)
            ranks[pattern] = rank
        object.__setattr__(self, "ranks", tuple(ranks.items()))
        if self.output.suffix != ".safetensors":
            raise CallError(
                f"--output {self.output}: a LoRA is a .safetensors file. Name one, such as "
                f"{self.output.stem or 'lora'}.safetensors."
            )

    def without_effect(self, steps: int) -> list[str]:
        """A sentence for each setting that was changed and does nothing beside the others, or not
        what it says. steps: those of the run."""
        cases = (
            ("factor", self.kind == "lokr", "only LoKr has a factor"),
            (
                "timestep_mean",
                self.timesteps == "logit-normal",
                f"timesteps of {self.timesteps} have no mean",
            ),
            ("timestep_spread", self.timesteps != "uniform", "uniform timesteps have no spread"),
            ("sample_every", bool(self.sample_prompts), "there are no --sample-prompts"),
        )
        lines = [
            f"{flag_of(name)} {shown(getattr(self, name))} has no effect: {why}"
            for name, acts, why in cases
            if not acts and getattr(self, name) != DEFAULTS[name]
        ]
        if self.warmup > steps:
            lines.append(
                f"--warmup {self.warmup} is shortened to {steps}, the steps of the run: the "
                "learning rate is whole at its last step only"
            )
        return lines

    @property
    def folder(self) -> Path:
        """The folder of checkpoints, log and samples."""
        return self.output.with_name(f"{self.output.stem}-checkpoints")

    def steps_for(self, batches: int, per_step: int) -> int:
        """Optimizer steps: as set, or by the batches of an epoch and those in one step."""
        if self.steps is not None:
            return self.steps
        return min(max(math.ceil(SEEN * batches / per_step), FEWEST_STEPS), MOST_STEPS)


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(TrainSettings)}
DEFAULTS: dict[str, object] = {
    f.name: f.default for f in fields(TrainSettings) if f.name not in ("data", "output")
}
# settings that change nothing in the result: a run may be continued with others
FREE = (
    "output cache_dir save_every keep sample_prompts sample_every tensorboard trigger save_dtype "
    "list_captions memory device"
).split()
