"""Download addresses of the files that the example graphs name, for the page and for the notes.

Addresses as the publishers (and ComfyUI's own templates) give them; no hash is written that was not
computed from the file.
"""

from __future__ import annotations

from typing import Any

from scripts.workflows.parts import Graph

_HUB = "https://huggingface.co"
_QWEN = f"{_HUB}/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files"
_EDIT = f"{_HUB}/Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files"
_LAYERED = f"{_HUB}/Comfy-Org/Qwen-Image-Layered_ComfyUI/resolve/main/split_files"
_INSTANTX = f"{_HUB}/Comfy-Org/Qwen-Image-InstantX-ControlNets/resolve/main/split_files"
_DIFFSYNTH = f"{_HUB}/Comfy-Org/Qwen-Image-DiffSynth-ControlNets/resolve/main/split_files"
_NEWER = f"{_HUB}/Comfy-Org/Qwen-Image-2.1/resolve/main"
_FUN = f"{_HUB}/alibaba-pai/Qwen-Image-2512-Fun-Controlnet-Union/resolve/main"

# folder below an address -> (address, files, folder of models/ where it differs)
_PLACES = (
    (_QWEN, "diffusion_models", ("qwen_image_fp8_e4m3fn", "qwen_image_2512_fp8_e4m3fn")),
    (_QWEN, "text_encoders", ("qwen_2.5_vl_7b_fp8_scaled",)),
    (_QWEN, "vae", ("qwen_image_vae",)),
    (
        _EDIT,
        "diffusion_models",
        ("qwen_image_edit_2509_fp8_e4m3fn", "qwen_image_edit_2511_fp8mixed"),
    ),
    (_LAYERED, "diffusion_models", ("qwen_image_layered_bf16",)),
    (_LAYERED, "vae", ("qwen_image_layered_vae",)),
    (
        _NEWER,
        "diffusion_models",
        ("qwen_image_2.1_int8_convrot", "qwen_image_2.1_turbo_int8_convrot"),
    ),
    (_NEWER, "text_encoders", ("qwen3vl_8b_int8_convrot",)),
    (_NEWER, "vae", ("qwen_image_2.1_vae_bf16",)),
    (
        _INSTANTX,
        "controlnet",
        ("Qwen-Image-InstantX-ControlNet-Union", "Qwen-Image-InstantX-ControlNet-Inpainting"),
    ),
    (
        _DIFFSYNTH,
        "model_patches",
        (
            "qwen_image_canny_diffsynth_controlnet",
            "qwen_image_depth_diffsynth_controlnet",
            "qwen_image_inpaint_diffsynth_controlnet",
        ),
    ),
)
_OTHERS = {  # file -> (folder, address)
    "qwen_image_union_diffsynth_lora.safetensors": ("controlnet", f"{_DIFFSYNTH}/loras"),
    "Qwen-Image-2512-Fun-Controlnet-Union.safetensors": ("controlnet", _FUN),
    "Qwen-Image-2512-Fun-Controlnet-Union-2602.safetensors": ("controlnet", _FUN),
    "Qwen-Image-Lightning-8steps-V1.0.safetensors": (
        "loras",
        f"{_HUB}/lightx2v/Qwen-Image-Lightning/resolve/main",
    ),
    "qwen-image-edit-2511-multiple-angles-lora.safetensors": (
        "loras",
        f"{_HUB}/fal/Qwen-Image-Edit-2511-Multiple-Angles-LoRA/resolve/main",
    ),
    "qwen-image-Q4_K_M.gguf": ("diffusion_models", f"{_HUB}/city96/Qwen-Image-gguf/resolve/main"),
    "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf": (
        "text_encoders",
        f"{_HUB}/unsloth/Qwen2.5-VL-7B-Instruct-GGUF/resolve/main",
    ),
}


def _all() -> dict[str, dict[str, str]]:
    entries = {}
    for address, folder, stems in _PLACES:
        for stem in stems:
            name = f"{stem}.safetensors"
            entries[name] = _entry(name, f"{address}/{folder}", folder)
    for name, (folder, address) in _OTHERS.items():
        entries[name] = _entry(name, address, folder)
    return entries


def _entry(name: str, address: str, folder: str) -> dict[str, str]:
    return {"name": name, "url": f"{address}/{name}", "directory": folder}


MODELS = _all()

# input of a loader -> folder of models/ where no link says it
_FOLDERS = {
    "model": "diffusion_models",
    "text_encoder": "text_encoders",
    "vae": "vae",
    "lora": "loras",
    **{f"lora_{row}": "loras" for row in range(1, 13)},  # of the LoRA loader
    "control": "controlnet",
}


def files(graph: Graph) -> dict[str, str]:
    """The model files that an API graph names, in order: name -> folder of models/."""
    named = {}
    for node in graph.values():
        for name, value in node["inputs"].items():
            folder = _FOLDERS.get(name.rstrip("_0123456789"))  # rows of files are numbered
            if folder and isinstance(value, str) and value.endswith((".safetensors", ".gguf")):
                named[value] = MODELS.get(value, {}).get("directory", folder)
    return named


def note_with_files(note: str, graph: Graph) -> str:
    """A note whose first heading is followed by the files of the graph, one line each."""
    lines = []
    for name, folder in files(graph).items():
        shown = f"[{name}]({MODELS[name]['url']})" if name in MODELS else name
        lines.append(f"- {shown} → `{folder}`")
    head, _, rest = note.partition("\n\n")
    return "\n\n".join([head, "\n".join(lines), rest]) if lines else note


def mark(ui: dict[str, Any]) -> dict[str, Any]:  # a UI graph: JSON of any depth
    """A UI graph whose nodes name the download addresses of their files."""
    for node in ui["nodes"]:
        values = node.get("widgets_values") or ()
        entries = [MODELS[v] for v in values if isinstance(v, str) and v in MODELS]
        if entries:
            node["properties"]["models"] = entries
    return ui
