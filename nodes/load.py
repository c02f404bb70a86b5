"""Loader nodes: files to models."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..host import memory, model_folders
from ..host.api import io, schema
from ..host.headless import memory_budget, states_plan
from ..host.memory import make_room
from ..host.settings import precision
from ..loaders.arch.variant import CHOICES
from . import sockets

if TYPE_CHECKING:
    import torch

    from ..loaders.models.bundle import Bundle
    from ..loaders.models.weight_file import LoadOptions

log = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16")
INT8 = "int8"  # of diffusion models only: floats as with auto, but products of the blocks in int8
AUTO = "auto"
EMBEDDED = "embedded (ships with Inkstone)"


def dtype_input(auto: str = "the fastest that is safe on this machine, see the log") -> io.Input:
    """The precision to compute in."""
    return io.Combo.Input(
        "dtype",
        options=list(DTYPES),
        default="auto",
        tooltip=f"Precision to compute in. auto: {auto}.",
    )


def _model_dtype_input() -> io.Input:
    """The precision of a diffusion model."""
    return io.Combo.Input(
        "dtype",
        options=[*DTYPES, INT8],
        default="auto",
        tooltip="Precision to compute in. auto: the fastest that is safe on this machine, see the "
        "log. int8: as auto, but a CPU with VNNI multiplies in int8 in the blocks of the diffusion "
        "model: faster, less exact. Other machines compute as with auto and say so in the log.",
    )


def _variant_input() -> io.Input:
    return io.Combo.Input(
        "variant",
        options=[AUTO, *CHOICES],
        default=AUTO,
        optional=True,
        tooltip="Model variant, if the file does not name it: Qwen-Image, Edit and Edit-2509 have "
        "identical tensors (needed for edits), and so have 2.1 and 2.1-turbo (8 fixed steps). A "
        "choice that contradicts the file is an error.",
    )


def torch_dtype(name: str) -> torch.dtype | None:
    """The torch dtype of a choice; None for auto."""
    import torch

    from ..errors import InkstoneError

    if name not in DTYPES:
        raise InkstoneError(f"dtype is {name!r}: expected one of {', '.join(DTYPES)}.")
    return None if name == "auto" else getattr(torch, name)


def _fingerprint(dtype: str) -> str:
    """What a choice stands for."""
    return precision() if dtype == AUTO else f"{INT8} {precision()}" if dtype == INT8 else dtype


def load_options(dtype: str, variant: str = AUTO, own: bool = False) -> LoadOptions:
    """Options to load weights lazily, in memory that the host frees. own: auto is not the user's
    default precision, but what the model needs.
    """
    from ..loaders.models.weight_file import LoadOptions

    chosen, int8 = None if variant == AUTO else variant, dtype == INT8
    if dtype == INT8 or (dtype == AUTO and not own):
        dtype = precision()
    return LoadOptions(
        torch_dtype(dtype), memory.torch_device(), memory_budget(), True, make_room, chosen, int8
    )


def _log_plan(bundle: Bundle) -> None:
    """Logs the line of `inkstone plan` for the model's usual size."""
    from ..errors import InkstoneError
    from ..pipeline.memory_plan import plan

    if not states_plan():
        return
    try:
        log.info("%s", plan(bundle).sentence())
    except InkstoneError as error:  # a smaller picture may still fit: the run itself plans again
        log.warning("at the model's usual size: %s", error)


class LoadDiffusionModel(io.ComfyNode):
    """A diffusion model from one file or a folder."""

    ID = "InkstoneLoadDiffusionModel"
    FILES = {"model": sockets.ModelInput("diffusion_models", "diffusion_model")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load Diffusion Model",
            category="inkstone/load",
            description="Loads a diffusion model of Qwen-Image or Qwen-Image-2.1: a .safetensors "
            "or .gguf file in any usual weight format, or a Hugging Face folder.",
            search_aliases=[
                "unet loader gguf",
                "load diffusion model",
                "qwen image mmdit",
                "fp8 scaled",
                "nunchaku loader",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_folders.model_files("diffusion_models"),
                    tooltip="A file in models/diffusion_models, or a model folder in "
                    "models/diffusers. Qwen-Image is free for any use (Apache 2.0); Qwen-Image-2.1 "
                    "is for research only (Qwen Research License).",
                ),
                _model_dtype_input(),
                _variant_input(),
            ],
            outputs=[sockets.Model.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return model_folders.known_model("diffusion_models", model)

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str, variant: str = AUTO) -> str:
        return _fingerprint(dtype)

    @classmethod
    def execute(cls, model: str, dtype: str, variant: str = AUTO) -> io.NodeOutput:
        from ..loaders.models.bundle import Bundle
        from ..loaders.models.load import load_diffusion_model

        options = load_options(dtype, variant)
        loaded = load_diffusion_model(model_folders.model_path("diffusion_models", model), options)
        _log_plan(Bundle(loaded, None, None))
        return io.NodeOutput(loaded)


class LoadTextEncoder(io.ComfyNode):
    """The text encoder: Qwen2.5-VL or Qwen3-VL."""

    ID = "InkstoneLoadTextEncoder"
    FILES = {"text_encoder": sockets.ModelInput("text_encoders", "text_encoder")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load Text Encoder",
            category="inkstone/load",
            description="Loads the text encoder and its tokenizer: Qwen2.5-VL 7B for Qwen-Image, "
            "Qwen3-VL 8B for Qwen-Image-2.1.",
            search_aliases=[
                "dual clip loader gguf",
                "load clip",
                "qwen2.5-vl",
                "qwen3-vl",
                "text encoder loader",
            ],
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=model_folders.model_files("text_encoders"),
                    tooltip="A file in models/text_encoders, or a model folder in "
                    "models/diffusers.",
                ),
                dtype_input(),
            ],
            outputs=[sockets.TextEncoder.Output(display_name="text_encoder")],
        )

    @classmethod
    def validate_inputs(cls, text_encoder: str) -> bool | str:
        return model_folders.known_model("text_encoders", text_encoder)

    @classmethod
    def fingerprint_inputs(cls, text_encoder: str, dtype: str) -> str:
        return precision() if dtype == AUTO else dtype

    @classmethod
    def execute(cls, text_encoder: str, dtype: str) -> io.NodeOutput:
        from ..loaders.models.load import load_text_encoder

        path = model_folders.model_path("text_encoders", text_encoder)
        return io.NodeOutput(load_text_encoder(path, load_options(dtype)))


class LoadVAE(io.ComfyNode):
    """The Qwen-Image VAE."""

    ID = "InkstoneLoadVAE"
    FILES = {"vae": sockets.ModelInput("vae", "vae")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load VAE",
            category="inkstone/load",
            description="Loads the Qwen-Image VAE (diffusers or Wan key names).",
            search_aliases=["vae loader", "load vae", "wan vae", "autoencoder"],
            inputs=[
                io.Combo.Input(
                    "vae",
                    options=model_folders.model_files("vae"),
                    tooltip="A file in models/vae, or a model folder in models/diffusers.",
                ),
                dtype_input("float32, since the VAE is small and colours stay exact"),
            ],
            outputs=[sockets.VAE.Output(display_name="vae")],
        )

    @classmethod
    def validate_inputs(cls, vae: str) -> bool | str:
        return model_folders.known_model("vae", vae)

    @classmethod
    def execute(cls, vae: str, dtype: str) -> io.NodeOutput:
        from ..loaders.models.load import load_vae

        path = model_folders.model_path("vae", vae)
        return io.NodeOutput(load_vae(path, load_options(dtype, own=True)))


class LoadAll(io.ComfyNode):
    """Diffusion model, text encoder and VAE from one folder or checkpoint."""

    ID = "InkstoneLoadAll"
    FILES = {"folder": sockets.ModelInput("checkpoints", "")}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Load All",
            category="inkstone/load",
            description="Loads diffusion model, text encoder and VAE from one model folder or one "
            "checkpoint file, or the small embedded model that needs no download.",
            search_aliases=[
                "load checkpoint",
                "checkpoint loader simple",
                "efficient loader",
                "diffusers loader",
                "embedded model",
                "pipeline",
            ],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[EMBEDDED, *model_folders.model_files("checkpoints")],
                    default=EMBEDDED,
                    tooltip="The embedded model, a Hugging Face folder in models/diffusers, or a "
                    "file in models/checkpoints that has all three models.",
                ),
                _model_dtype_input(),
                _variant_input(),
            ],
            outputs=[
                sockets.Model.Output(display_name="model"),
                sockets.TextEncoder.Output(display_name="text_encoder"),
                sockets.VAE.Output(display_name="vae"),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str) -> bool | str:
        return folder == EMBEDDED or model_folders.known_model("checkpoints", folder)

    @classmethod
    def fingerprint_inputs(cls, folder: str, dtype: str, variant: str = AUTO) -> str:
        return _fingerprint(dtype)

    @classmethod
    def execute(cls, folder: str, dtype: str, variant: str = AUTO) -> io.NodeOutput:
        from ..loaders.models.load import load_all

        path = None if folder == EMBEDDED else model_folders.model_path("checkpoints", folder)
        bundle = load_all(path, load_options(dtype, variant))
        _log_plan(bundle)
        return io.NodeOutput(bundle.model, bundle.text_encoder, bundle.vae)
