"""The Train LoRA node: writes the settings file of a training, and shows the command that runs it.

It starts nothing: a training takes hours and all memory, and must survive a restart of ComfyUI.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InkstoneError, shorten
from ..files.paths import is_plain_name, kind_of
from ..host import model_folders
from ..host.api import io, schema, ui
from ..host.directories import base_directory, output_directory
from ..host.headless import headless_host
from ..host.page_text import without_folders
from ..pipeline.train_choices import DEFAULTS, OPTIONS, TrainSettings
from ..pipeline.train_file import read_settings, write_settings
from . import sockets

if TYPE_CHECKING:
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.text_encoder import TextEncoderModel
    from ..loaders.models.vae import VAEModel

AUTO = 0  # of a number: the command decides
_LONGEST = "{}-step-000000.safetensors"  # the longest name of a file that the command writes
_TEXT = """In a terminal, in {place}, with ComfyUI closed or its models unloaded:

{command}

It reports on the pictures, prints the memory plan and trains {lora}. Samples and the plot of the \
loss are in {folder}. The same command resumes after a stop. Add --report or --plan to look first.
"""


def _whole(name: str, step: int, tooltip: str) -> io.Input:
    """A number of the settings; AUTO where it may be left to the command."""
    option, usual = OPTIONS[name], DEFAULTS[name]
    assert usual is None or isinstance(usual, int)
    return io.Int.Input(
        name,
        default=AUTO if usual is None else usual,
        min=AUTO if usual is None else int(option.low),
        max=int(option.high),
        step=step,
        tooltip=tooltip,
    )


class TrainLora(io.ComfyNode):
    """Models, pictures and settings -> the command of a training."""

    ID = "InkstoneTrainLora"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Train LoRA",
            category="inkstone/tools",
            description="Writes the settings of a LoRA training for the connected models, whatever "
            "their weight format, and shows the command that runs it. Nothing is started here.",
            search_aliases=[
                "train lora",
                "lora training",
                "fine tune",
                "finetune dreambooth",
                "lokr dora training",
                "kohya musubi ai-toolkit",
            ],
            is_output_node=True,
            inputs=[
                sockets.Model.Input(
                    "model",
                    tooltip="The model to train on, from Load Diffusion Model or Load All: the one "
                    "that you will draw with. GGUF, fp8 and the others stay as they are.",
                ),
                sockets.TextEncoder.Input(
                    "text_encoder", tooltip="From Load Text Encoder or Load All."
                ),
                sockets.VAE.Input("vae", tooltip="From Load VAE or Load All."),
                io.String.Input(
                    "name",
                    default="my-lora",
                    tooltip="Name of the LoRA, without folders. It is written to models/loras.",
                ),
                io.String.Input(
                    "pictures",
                    default="",
                    tooltip="Folder with your pictures, as a whole path, or seen from ComfyUI's "
                    "folder. The caption of cat.png is in cat.txt next to it.",
                ),
                io.String.Input(
                    "references",
                    default="",
                    tooltip="Only to train an edit: folder with the pictures before the edit, "
                    "under the same names as those in pictures. Empty: no edit.",
                ),
                _whole("steps", 50, "Training steps. 0: by the number of pictures, 500 to 3000."),
                _whole(
                    "rank",
                    1,
                    "Size of the LoRA: 16 for a thing or a person, 32 and more for a style of "
                    "many sides. The file and its memory grow with it.",
                ),
                io.Float.Input(
                    "lr",
                    default=1e-4,
                    min=1e-6,
                    max=1e-2,
                    step=1e-5,
                    round=1e-7,
                    tooltip="Learning rate. 0.0001 is usual; lower it where samples fall apart, "
                    "raise it where nothing is learned.",
                ),
                _whole(
                    "resolution",
                    32,
                    "Side of a square with as many pixels as each picture is scaled to; none is "
                    "distorted. 0: the model's usual size. 512 takes a fraction of the time.",
                ),
                io.String.Input(
                    "sample_prompts",
                    default="",
                    multiline=True,
                    tooltip="Prompts, one in each line, that are drawn while it trains, to see "
                    "what it has learned.",
                ),
            ],
            outputs=[io.String.Output("command", display_name="command")],
        )

    @classmethod
    def execute(
        cls,
        model: DiffusionModel,
        text_encoder: TextEncoderModel,
        vae: VAEModel,
        name: str,
        pictures: str,
        references: str,
        steps: int,
        rank: int,
        lr: float,
        resolution: int,
        sample_prompts: str,
    ) -> io.NodeOutput:
        sockets.require_models(model=model, text_encoder=text_encoder, vae=vae)
        data = _folder(pictures)
        if data is None:
            raise InkstoneError(
                "pictures is empty: expected the folder of your pictures. Enter its path; nothing "
                "is read there before the command runs."
            )
        places = _Places.of(name)
        settings = TrainSettings(
            **_models(model, text_encoder, vae, places),
            output=places.seen(places.lora),
            data=data,
            control_dir=tuple(filter(None, [_folder(references)])),
            steps=steps or None,
            rank=rank,
            lr=lr,
            resolution=resolution or None,
            sample_prompts=tuple(filter(None, map(str.strip, sample_prompts.splitlines()))),
        )
        _write(places.settings, settings)
        command = _command(places.seen(places.settings))
        text = _TEXT.format(
            place=places.words,
            command=command,
            lora=places.seen(places.lora),
            folder=places.seen(places.lora.with_name(f"{places.lora.stem}-checkpoints")),
        )
        return io.NodeOutput(without_folders(command), ui=ui.PreviewText(without_folders(text)))


@dataclass(frozen=True)
class _Places:
    """Where files go, and the folder that the command is called in."""

    settings: Path
    lora: Path
    start: Path
    words: str  # of `start`

    @classmethod
    def of(cls, name: str) -> _Places:
        """For the name of a LoRA; InkstoneError where it is none."""
        plain = name.strip().removesuffix(".safetensors").removesuffix(".json")
        if not is_plain_name(plain, _LONGEST):
            raise InkstoneError(
                f"{shorten(repr(name))} is not a file name: expected a plain name without folders. "
                "Enter for example my-lora."
            )
        output, base = output_directory().absolute(), base_directory()
        inside = output.is_relative_to(base)
        folder = "ComfyUI's folder" if inside else "ComfyUI's output folder"
        return cls(
            settings=output / f"{plain}.json",
            lora=model_folders.folder_for_new("loras").absolute() / f"{plain}.safetensors",
            start=base if inside else output,
            words="this folder" if inside and headless_host() is not None else folder,
        )

    def seen(self, path: Path) -> Path:
        """A path as the command reads it."""
        whole = path.absolute()
        return whole.relative_to(self.start) if whole.is_relative_to(self.start) else whole


def _models(
    model: DiffusionModel, text_encoder: TextEncoderModel, vae: VAEModel, places: _Places
) -> dict[str, Any]:  # fields of the record, of several types
    """The settings that name the models: files and folders, none for what lies where the command
    finds it by itself. A copy of the embedded model elsewhere is a model of its own.
    """
    from ..loaders.models.load import EMBEDDED_FOLDER

    if model.adapters:
        names = ", ".join(fitted.adapter.lora.path.name for fitted in model.adapters)
        raise InkstoneError(
            f"The model has a LoRA ({names}), and a training starts from the model's own weights. "
            "Connect the output of the loader."
        )
    usual = EMBEDDED_FOLDER
    files: dict[str, Any] = {}
    if not _same_folder(model.path, usual):
        files["model"], usual = places.seen(model.path), model.path
    for name, path in (("text_encoder", text_encoder.path), ("vae", vae.path)):
        if not _same_folder(path, usual):  # else the folder or checkpoint has all three
            files[name] = places.seen(path)
    named = model.variant is not None and model.variant.offered
    return files | ({"variant": model.variant.name} if named and model.variant else {})


def _same_folder(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _folder(text: str) -> Path | None:
    """The folder that a person entered, also as Windows copies it, in double quotes; ~ is their
    own, as in a terminal, which sees no ~ of a settings file.
    """
    plain = text.strip().strip('"')
    if re.match(r"~[^/\\]", plain):
        raise InkstoneError(
            f"{shorten(repr(plain))} begins with the name of a user: expected a whole path. Enter "
            "it without ~."
        )
    return Path(plain).expanduser() if plain else None


def _write(path: Path, settings: TrainSettings) -> None:
    """Writes the settings file; InkstoneError where another is there."""
    if os.path.lexists(path) and not _is_of(path, settings):
        raise InkstoneError(
            f"A settings file {path.name} with other settings exists already in the output folder, "
            "and this node replaces none. Enter another name, or remove that file."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_settings(path, settings)


def _is_of(path: Path, settings: TrainSettings) -> bool:
    """True where a file has exactly these settings."""
    try:
        return kind_of(path) == "a file" and _read(path) == settings
    except InkstoneError:
        return False


def _read(path: Path) -> TrainSettings:
    return TrainSettings(**read_settings(path))  # type: ignore[arg-type]  # checked by the record


def _command(settings: Path) -> str:
    """The command, quoted for the shell of this system."""
    words = ["inkstone", "train-lora", "--settings", str(settings)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
