"""The quantizer node: reads a model and writes a smaller file."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InkstoneError
from ..files.paths import is_plain_name
from ..host import model_folders
from ..host.api import io, schema
from ..host.progress import Progress

# The choices of `inkstone quantize --type`, as text, so that no torch is imported.
TYPES = (
    "Q4_K_M",
    "Q2_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q4_0",
    "Q4_1",
    "Q4_K_S",
    "Q5_0",
    "Q5_1",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
    "BF16",
    "fp8_scaled",
)
KIND = "diffusion_models"
_PARTIAL = ".part.journal"  # the longest name of a file beside the new one


def output_file(name: str, kind: str) -> Path:
    """The path of the new file, in models/diffusion_models; InkstoneError where a model has the
    name already.
    """
    suffix = ".safetensors" if kind == "fp8_scaled" else ".gguf"
    plain = name.strip().removesuffix(suffix)
    if not is_plain_name(plain, f".{{}}{suffix}{_PARTIAL}"):
        raise InkstoneError(
            f"{name!r} is not a file name: expected a plain name without folders. Enter for "
            "example qwen-image-Q4_K_M."
        )
    file = plain + suffix
    taken = {listed.casefold() for listed in model_folders.model_files(KIND)}
    folder = model_folders.folder_for_new(KIND)
    if file.casefold() in taken or os.path.lexists(folder / file):
        raise InkstoneError(
            f"A model named {file} exists already, and this node replaces none. Enter another name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder / file


class Quantize(io.ComfyNode):
    """Writes a model with fewer bits per weight."""

    ID = "InkstoneQuantise"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.ID,
            display_name="Inkstone Quantize Model",
            category="inkstone/tools",
            description="Quantizes a diffusion model to GGUF or scaled fp8 and saves it in "
            "models/diffusion_models. A stopped run resumes where it left off.",
            search_aliases=["quantize gguf", "convert to gguf", "quantise fp8", "compress model"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_folders.model_files(KIND),
                    tooltip="The model to quantize, best in bf16.",
                ),
                io.Combo.Input(
                    "type",
                    options=list(TYPES),
                    default=TYPES[0],
                    tooltip="Q4_K_M: a third of bf16's size, hardly any loss. Q8_0: half the size, "
                    "no visible loss. Q2_K and Q3_K: for little memory. fp8_scaled: for GPUs with "
                    "fp8 support.",
                ),
                io.String.Input(
                    "name",
                    default="qwen-image-Q4_K_M",
                    tooltip="Name of the new file, without folders. A name that a model "
                    "has already is refused.",
                ),
            ],
            outputs=[io.String.Output(display_name="path")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return model_folders.known_model(KIND, model)

    @classmethod
    def execute(cls, model: str, type: str, name: str) -> io.NodeOutput:
        from ..pipeline.quantize import quantize
        from ..pipeline.quantize_request import QuantizeCall

        bar: list[Progress] = []  # created at the first report, which brings the total

        def progress(value: int, total: int) -> None:
            bar[:] = bar or [Progress(total)]
            bar[0].update(value)

        out = output_file(name, type)
        call = QuantizeCall(model_folders.model_path(KIND, model), out, type, new=True)
        quantize(call, progress)
        return io.NodeOutput(out.name, ui={"text": (out.name,)})
