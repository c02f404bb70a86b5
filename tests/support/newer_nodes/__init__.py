"""A throw-away pack for a ComfyUI server of the tests: interfaces only, nothing here runs.

NEWER are core classes that the oldest host lacks and the official Qwen-Image templates use, with
their sockets and widgets; PROBES have one class per kind of input that a page treats on its own.
With them the page converts newer templates on an older server.
"""

from __future__ import annotations

COMBO, AUTOGROW, CHOICE = "COMBO", "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"


def _combo(*options: str, **more):
    return (COMBO, {"options": list(options), "multiselect": False, **more})


def _number(kind: str, default: float, **more):
    return (kind, {"default": default, "min": 0, "max": 100000, **more})


def _grown(kind: str, prefix: str, most: int, least: int = 0):
    one = {"required": {"image": (kind, {})}}
    return (AUTOGROW, {"template": {"input": one, "prefix": prefix, "min": least, "max": most}})


def _named(kind: str, names: list[str], least: int = 1):
    one = {"required": {"image": (kind, {})}}
    return (AUTOGROW, {"template": {"input": one, "names": names, "min": least}})


def _choice(**options: dict):
    choices = [{"key": key, "inputs": {"required": inputs}} for key, inputs in options.items()]
    return (CHOICE, {"options": choices})


def _switch(name: str, **more):
    return (
        "COMFY_MATCHTYPE_V3",
        {"lazy": True, "template": {"template_id": "switch", "allowed_types": "*"}, **more},
    )


BITS = _combo("8-bit", "16-bit")
SPACE = _combo("sRGB", "linear", advanced=True)
SAMPLING = dict(
    temperature=_number("FLOAT", 0.7),
    top_k=_number("INT", 64),
    top_p=_number("FLOAT", 0.95),
    min_p=_number("FLOAT", 0.05),
    repetition_penalty=_number("FLOAT", 1.05),
    seed=_number("INT", 0),
    presence_penalty=_number("FLOAT", 0.0),
)
RESIZE = {
    "scale dimensions": dict(
        width=_number("INT", 512), height=_number("INT", 512), crop=_combo("disabled", "center")
    ),
    "scale by multiplier": dict(multiplier=_number("FLOAT", 1.0)),
    "scale longer dimension": dict(longer_size=_number("INT", 512)),
    "scale shorter dimension": dict(shorter_size=_number("INT", 512)),
    "scale total pixels": dict(megapixels=_number("FLOAT", 1.0)),
    "match size": dict(match=("IMAGE,MASK", {}), crop=_combo("disabled", "center")),
}
NEWER = {
    "ComfySwitchNode": (
        dict(switch=("BOOLEAN", {}), on_false=_switch("a"), on_true=_switch("b")),
        {},
        ("*",),
    ),
    "ResizeImageMaskNode": (
        dict(
            input=("IMAGE,MASK", {}),
            resize_type=_choice(**RESIZE),
            scale_method=_combo(
                "nearest-exact", "bilinear", "area", "bicubic", "lanczos", default="area"
            ),
        ),
        {},
        ("IMAGE",),
    ),
    "SaveImageAdvanced": (
        dict(
            images=("IMAGE", {}),
            filename_prefix=("STRING", {"default": "ComfyUI"}),
            format=_choice(
                png=dict(bit_depth=BITS, input_color_space=SPACE),
                exr=dict(bit_depth=_combo("16-bit float", "32-bit float")),
            ),
        ),
        {},
        ("IMAGE",),
    ),
    "ImageCompare": (
        dict(compare_view=("IMAGECOMPARE", {"socketless": True})),
        dict(image_a=("IMAGE", {}), image_b=("IMAGE", {})),
        (),
    ),
    "QwenImage21Cache": (
        dict(model=("MODEL", {}), device=_combo("auto", "cpu"), dtype=_combo("default", "fp8")),
        {},
        ("MODEL",),
    ),
    "TextEncodeQwenImage21": (
        dict(
            clip=("CLIP", {}),
            prompt=("STRING", {"multiline": True, "dynamicPrompts": True}),
            negative_prompt=("STRING", {"multiline": True, "dynamicPrompts": True}),
            resolution=_number("INT", 1024, step=32),
            images=_grown("IMAGE", "image_", 17, 1),
        ),
        dict(vae=("VAE", {})),
        ("CONDITIONING", "CONDITIONING", "LATENT"),
    ),
    "BatchImagesNode": (dict(images=_grown("IMAGE", "image", 50, 2)), {}, ("IMAGE",)),
    "TextGenerate": (
        dict(
            clip=("CLIP", {}),
            prompt=("STRING", {"multiline": True, "dynamicPrompts": True}),
            max_length=_number("INT", 256),
            sampling_mode=_choice(on=SAMPLING, off={}),
        ),
        dict(
            image=("IMAGE", {}),
            video=("IMAGE", {}),
            audio=("AUDIO", {}),
            thinking=("BOOLEAN", {"default": False}),
            use_default_template=("BOOLEAN", {"default": True}),
            mtp=_combo("auto", "off"),
            system_prompt=("STRING", {"forceInput": True}),
        ),
        ("STRING", "STRING"),
    ),
    "ResolutionSelector": (
        dict(
            aspect_ratio=_combo("1:1 (Square)", "16:9 (Widescreen)"),
            megapixels=_number("FLOAT", 1.0),
            multiple=_number("INT", 8),
        ),
        {},
        ("INT", "INT"),
    ),
    "ManualSigmas": (dict(sigmas=("STRING", {"default": "1, 0.5"})), {}, ("SIGMAS",)),
    "LatentCutToBatch": (
        dict(samples=("LATENT", {}), dim=_combo("t", "x", "y"), slice_size=_number("INT", 1)),
        {},
        ("LATENT",),
    ),
    "EmptyQwenImageLayeredLatentImage": (
        dict(
            width=_number("INT", 640),
            height=_number("INT", 640),
            layers=_number("INT", 3),
            batch_size=_number("INT", 1),
        ),
        {},
        ("LATENT",),
    ),
    "CameraAngle": (
        dict(
            horizontal_angle=_number("INT", 0),
            vertical_angle=_number("INT", 0),
            zoom=_number("FLOAT", 5.0),
            view=_combo("camera", "object"),
        ),
        dict(image=("IMAGE", {})),
        ("LOAD3D_CAMERA", "STRING"),
    ),
}
PROBES = {
    "ProbeWidgets": (
        dict(
            seed=_number("INT", 3),
            steps=_number("INT", 20, control_after_generate=True),
            name=_combo("a", "b", control_after_generate=True),
            words=("STRING", {"default": "w", "multiline": True, "dynamicPrompts": True}),
            ratio=_number("FLOAT", 0.5),
            on=("BOOLEAN", {"default": True}),
            forced=("INT", {"default": 9, "forceInput": True}),
            old=(["x", "y", "z"],),
        ),
        dict(late=("STRING", {"default": "late"}), extra=("IMAGE", {})),
        ("INT", "STRING"),
    ),
    "ProbeSink": (
        dict(text=("STRING", {"default": "", "forceInput": True})),
        dict(more=("*", {}), size=_number("INT", 64)),
        (),
    ),
    "ProbeGrow": (
        dict(
            images=_named("IMAGE", ["picture_1", "picture_2", "picture_3"]),
            label=("STRING", {"default": "l"}),
        ),
        {},
        ("IMAGE",),
    ),
    "ProbeChoice": (
        dict(
            first=("STRING", {"default": "f"}),
            mode=_choice(
                one=dict(size=_number("INT", 8), seed=_number("INT", 5)),
                two=dict(
                    inner=_choice(deep=dict(depth=_number("INT", 2)), flat={}),
                    picture=("IMAGE", {}),
                ),
                none={},
            ),
            last=_number("INT", 42),
        ),
        {},
        ("STRING",),
    ),
    "ProbePictures": (
        dict(a=("IMAGE", {}), b=("IMAGE", {})),
        dict(mask=("MASK", {})),
        ("IMAGE", "MASK"),
    ),
}
OUTPUT_NODES = ("SaveImageAdvanced", "ImageCompare", "ProbeSink")


def _node_class(name: str, inputs: tuple[dict, dict, tuple[str, ...]]) -> type:
    required, optional, returned = inputs
    types = classmethod(lambda cls: {"required": required, "optional": optional})
    fields = {"INPUT_TYPES": types, "RETURN_TYPES": returned, "FUNCTION": "run"}
    fields |= {"CATEGORY": "interfaces", "OUTPUT_NODE": name in OUTPUT_NODES}
    return type(name, (), fields | {"run": lambda self, **inputs: (None,) * len(returned)})


NODE_CLASS_MAPPINGS = {
    name: _node_class(name, interface) for name, interface in (NEWER | PROBES).items()
}
