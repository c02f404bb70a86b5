"""JSON schemas of what a server takes and gives, for OpenAPI."""

from __future__ import annotations

from ...draw.options import SCHEDULE_OPTIONS
from ...node_types import Json
from ..desk.settings import RESPONSE_FORMATS
from ..desk.tickets import CANCELLED, DONE, FAILED, QUEUED, RUNNING
from .wishes import BACKGROUNDS, FORMATS, IGNORED


def an_object(properties: dict[str, Json], *required: str) -> dict[str, Json]:
    """An object with these names and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def a(kind: str, text: str = "", **more: Json) -> dict[str, Json]:
    """A value of one type."""
    return {"type": kind, **({"description": text} if text else {}), **more}


def maybe(kind: str, text: str = "", **more: Json) -> dict[str, Json]:
    """A value of one type, or null, which says the same as leaving it out."""
    if "enum" in more:
        more["enum"] = [*more["enum"], None]
    return {"type": [kind, "null"], **({"description": text} if text else {}), **more}


ERROR = an_object(
    {
        "error": an_object(
            {
                "message": a("string"),
                "type": a("string"),
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            *("message", "type", "param", "code"),
        )
    },
    "error",
)
_NUMBER = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_LORA_ROW = {"anyOf": [a("string"), an_object({"name": a("string"), "strength": _NUMBER}, "name")]}
_LORA = {
    "description": 'LoRAs by name: "NAME", "NAME:STRENGTH", {"name":, "strength":} or a list.',
    "anyOf": [*_LORA_ROW["anyOf"], a("array", items=_LORA_ROW, maxItems=16), {"type": "null"}],
}
_PICTURE = {
    "description": "base64 or a data URL, alone or as image_url of an object; no address, no path.",
    "anyOf": [a("string"), {"type": "object", "required": ["image_url"]}],
}
_PICTURES = {"anyOf": [*_PICTURE["anyOf"], a("array", items=_PICTURE, maxItems=16), a("null")]}
_MASK = {"anyOf": [*_PICTURE["anyOf"], a("null")]}
_CONTROL_ROW = an_object(
    {
        "type": a("string"),
        "picture": _PICTURE,
        **{name: _NUMBER for name in ("strength", "start", "end")},
    },
    "type",
    "picture",
)
_CONTROL = {
    "description": '{"type": "canny", "picture": base64, "strength": 1, "start": 0, "end": 1}, or '
    "a list of these.",
    "anyOf": [_CONTROL_ROW, a("array", items=_CONTROL_ROW, maxItems=16), a("null")],
}
_TEXTS = {"anyOf": [a("string"), a("array", items=a("string")), a("null")]}
OPTIONS: dict[str, Json] = {
    "steps": maybe("integer", "Denoising steps.", minimum=1),
    "cfg": maybe("number", "Guidance scale; 1 = off.", minimum=0, maximum=100),
    "schedule": maybe("string", "Noise levels of the steps.", enum=list(SCHEDULE_OPTIONS)),
    "negative": maybe("string", "What must not be in the picture."),
    "seed": maybe("integer", "The same seed draws the same picture; else one is chosen."),
    "fast": maybe("boolean", "As `inkstone draw --fast`."),
    "enhance": maybe("boolean", "The text encoder rewrites the prompt first."),
    "strength": maybe("number", "How much of the picture is drawn new.", minimum=0, maximum=1),
    "layers": maybe("integer", "Of Qwen-Image-Layered."),
    "lora": _LORA,
    "control": _CONTROL,
    "control_model": _TEXTS | {"description": "Names of controls."},
    "control_fit": maybe("string", "As `inkstone draw --control-fit`."),
    "region": _TEXTS | {"description": "PROMPT:x,y,width,height, or a list."},
    "region_method": maybe("string", "As `inkstone draw --region-method`."),
    "reference_cache": maybe("string", "As `inkstone draw --reference-cache`."),
    "cache": maybe("string", "A step cache: NAME:THRESHOLD."),
    "variety": _TEXTS | {"description": "NAME:AMOUNT, or a list."},
    "upscale": maybe("number", "Enlarges the drawing by this factor."),
    "upscale_strength": maybe("number", "How much is redrawn then."),
}
_SIZE = maybe("string", "WIDTHxHEIGHT, or auto.")
_COMMON: dict[str, Json] = {
    "prompt": a("string", "What is to be drawn, or changed."),
    "model": maybe("string", "A name of GET /v1/models; else the default."),
    "n": maybe("integer", "Pictures.", minimum=1),
}
_NOTHING = maybe("string", "Changes nothing here.")
_IMAGE: dict[str, Json] = {
    **_COMMON,
    "size": _SIZE,
    "response_format": maybe("string", enum=["", *RESPONSE_FORMATS]),
    "output_format": maybe("string", enum=["", *FORMATS]),  # "" as null: of forms
    "output_compression": maybe("integer", "Quality of jpeg, webp.", minimum=0, maximum=100),
    "background": maybe(
        "string",
        "opaque: on white where the result is transparent; transparent: of layers only.",
        enum=["", *BACKGROUNDS],
    ),
    "stream": maybe("boolean", "Events rather than one answer."),
    "partial_images": maybe("integer", "Of a stream.", minimum=0, maximum=3),
    **{name: _NOTHING for name in IGNORED},
    "inkstone": {
        "description": "The options of Inkstone.",
        "anyOf": [an_object({**OPTIONS, "size": _SIZE}), a("null")],
    },
}
_FILE = a("string", format="binary")
_FORM = {
    **_COMMON,
    **{name: a("string", schema.get("description", "")) for name, schema in _IMAGE.items()},
    "stream": a("string", enum=["true", "false"]),
    "image": {"anyOf": [_FILE, a("array", items=_FILE)]},
    "mask": _FILE,
}
GENERATION = an_object(_IMAGE, "prompt")
EDIT = an_object({**_IMAGE, "image": _PICTURES, "images": _PICTURES, "mask": _MASK}, "prompt")
EDIT_FORM = a("object", properties=_FORM, required=["prompt", "image"])
ORDER = an_object(
    {
        **_COMMON,
        **OPTIONS,
        "batch": maybe("integer", "Another name of n.", minimum=1),
        "size": _SIZE,
        "image": _PICTURES,
        "images": _PICTURES,
        "mask": _MASK,
    },
    "prompt",
)
GRAPH = an_object(
    {
        "graph": a("object", "An API or UI graph of ComfyUI."),
        "set": maybe("object", "NODE.INPUT: VALUE."),
        "pictures": maybe(
            "object", "Names in the graph: base64 or data URLs.", additionalProperties=_PICTURE
        ),
    },
    "graph",
)
_SECONDS = a("object", "Seconds of each stage.", additionalProperties={"type": "number"})
NOTES = a(
    "array", "What the drawing warns of, such as a prompt whose end is not used.", items=a("string")
)
JOB = an_object(
    {
        "id": a("string"),
        "object": a("string", enum=["job"]),
        "created": a("integer"),
        "state": a("string", enum=[QUEUED, RUNNING, DONE, FAILED, CANCELLED]),
        "place": {"type": ["integer", "null"]},
        "step": a("integer"),
        "steps": a("integer"),
        "seed": {"type": ["integer", "null"]},
        "seconds": {"anyOf": [_SECONDS, a("null")]},
        "cached": a("boolean"),
        "error": {"type": ["string", "null"]},
        "notes": NOTES,
        "files": a("array", items=a("string")),
        "preview": maybe("string", "Where it is asked for with ?preview=true."),
    },
    *("id", "object", "created", "state", "place", "step", "steps", "seed", "seconds", "error"),
    *("cached", "notes", "files"),
)
_IMAGE = an_object(
    {
        "b64_json": a("string"),
        "url": a("string"),
        "revised_prompt": a("string", "The prompt as it was enhanced, where that was asked for."),
    }
)
IMAGES = an_object(
    {
        "created": a("integer"),
        "data": a("array", items=_IMAGE),
        "output_format": a("string", enum=list(FORMATS)),
        "inkstone": an_object(
            {
                "id": a("string"),
                "seed": {"type": ["integer", "null"]},
                "seconds": _SECONDS,
                "notes": NOTES,
            },
            *("id", "seed", "seconds", "notes"),
        ),
    },
    *("created", "data", "output_format", "inkstone"),
)
MODEL = an_object(
    {
        "id": a("string"),
        "object": a("string", enum=["model"]),
        "created": a("integer"),
        "owned_by": a("string"),
    },
    *("id", "object", "created", "owned_by"),
)
STATUS = an_object({"status": a("string")}, "status")


def a_list(of: dict[str, Json], **more: Json) -> dict[str, Json]:
    """OpenAI's form of a list."""
    properties = {"object": a("string", enum=["list"]), "data": a("array", items=of), **more}
    return an_object(properties, *properties)
