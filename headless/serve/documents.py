"""What OpenAPI says of each route: bodies, answers, errors."""

from __future__ import annotations

from ..draw.options import SCHEDULE_OPTIONS
from ..node_types import Json
from .requests import FORMATS

SECURITY: list[dict[str, list[str]]] = [{"key": []}]
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REASONS = {
    400: "The request is wrong; the message says what was expected.",
    401: "The API key is missing or wrong.",
    403: "A page of another site, or another name of this machine.",
    404: "There is none of that name.",
    408: "The request came too slowly.",
    409: "The job was cancelled.",
    413: "The request is too large.",
    415: "The body has another type.",
    429: "The queue is full; Retry-After says in how many seconds to try again.",
    500: "A fault of the server.",
    503: "The server is starting or stopping.",
}


def _errors(*statuses: int) -> dict[int, Json]:
    return {
        status: {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": _ERROR}},
        }
        for status in statuses
    }


def _object(properties: dict[str, Json], required: tuple[str, ...] = ()) -> dict[str, Json]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _is(kind: str, text: str = "", **more: Json) -> dict[str, Json]:
    return {"type": kind, **({"description": text} if text else {}), **more}


_LORA = {
    "description": 'LoRAs by name: "NAME", "NAME:STRENGTH", {"name":, "strength":} or a list.',
    "anyOf": [{"type": "string"}, {"type": "object"}, {"type": "array", "items": {}}],
}
_CONTROL = {
    "description": '{"type": "canny", "picture": base64, "strength": 1, "start": 0, "end": 1}, or '
    "a list of these.",
    "anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}],
}
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
OPTIONS: dict[str, Json] = {
    "steps": _is("integer", "Denoising steps.", minimum=1),
    "cfg": _is("number", "Guidance scale; 1 = off.", minimum=0, maximum=100),
    "schedule": _is("string", "Noise levels of the steps.", enum=list(SCHEDULE_OPTIONS)),
    "negative": _is("string", "What must not be in the picture."),
    "seed": _is("integer", "The same seed draws the same picture; else one is chosen.", minimum=0),
    "fast": _is("boolean", "As `inkstone draw --fast`."),
    "enhance": _is("boolean", "The text encoder rewrites the prompt first."),
    "strength": _is("number", "How much of the picture is drawn new, 0 to 1."),
    "layers": _is("integer", "Of Qwen-Image-Layered."),
    "lora": _LORA,
    "control": _CONTROL,
    "control_model": _TEXTS | {"description": "Names of controls."},
    "control_fit": _is("string", "As `inkstone draw --control-fit`."),
    "region": _TEXTS | {"description": "PROMPT:x,y,width,height, or a list."},
    "region_method": _is("string", "As `inkstone draw --region-method`."),
    "reference_cache": _is("string", "As `inkstone draw --reference-cache`."),
    "cache": _is("string", "A step cache: NAME:THRESHOLD."),
    "variety": _TEXTS | {"description": "NAME:AMOUNT, or a list."},
    "upscale": _is("number", "Enlarges the drawing by this factor."),
    "upscale_strength": _is("number", "How much is redrawn then."),
}
_COMMON: dict[str, Json] = {
    "prompt": _is("string", "What is to be drawn, or changed."),
    "model": _is("string", "A name of GET /v1/models; else the default."),
    "n": _is("integer", "Pictures.", minimum=1),
    "size": _is("string", "WIDTHxHEIGHT, or auto."),
}
_IMAGE: dict[str, Json] = {
    **_COMMON,
    "response_format": _is("string", enum=["b64_json", "url"]),
    "output_format": _is("string", enum=list(FORMATS)),
    "output_compression": _is("integer", "Quality of jpeg and webp.", minimum=0, maximum=100),
    "background": _is("string", enum=["auto", "opaque"]),
    "stream": _is("boolean", "Events rather than one answer."),
    "partial_images": _is("integer", "Of a stream.", minimum=0, maximum=3),
    "quality": _is("string", "Changes nothing here."),
    "style": _is("string", "Changes nothing here."),
    "moderation": _is("string", "Changes nothing here."),
    "user": _is("string", "Changes nothing here."),
    "inkstone": _object(OPTIONS) | {"description": "The options of Inkstone."},
}
_PICTURE = _is("string", "base64 or a data URL; no address, no path.")
_PICTURES = {"anyOf": [_PICTURE, {"type": "array", "items": _PICTURE}]}
_FILE = _is("string", format="binary")
_FORM = {
    **_IMAGE,
    "image": {"anyOf": [_FILE, {"type": "array", "items": _FILE}]},
    "mask": _FILE,
    "input_fidelity": _is("string", "Changes nothing here."),
}
_JOB = _object(
    {
        "id": _is("string"),
        "object": _is("string"),
        "created": _is("integer"),
        "state": _is("string", enum=["queued", "running", "done", "failed", "cancelled"]),
        "place": {"type": ["integer", "null"]},
        "step": _is("integer"),
        "steps": _is("integer"),
        "seed": {"type": ["integer", "null"]},
        "seconds": {"type": ["object", "null"]},
        "error": {"type": ["string", "null"]},
        "files": _is("array", items={"type": "string"}),
        "preview": {"type": ["string", "null"]},
    },
    ("id", "state", "files"),
)
_IMAGES = _object(
    {
        "created": _is("integer"),
        "data": _is("array", items=_object({"b64_json": _is("string"), "url": _is("string")})),
        "output_format": _is("string"),
        "inkstone": _is("object"),
    },
    ("created", "data"),
)


def _json_of(schema: Json) -> dict[str, Json]:
    return {"application/json": {"schema": schema}}


def _body(*contents: dict[str, Json]) -> dict[str, Json]:
    merged = {kind: schema for content in contents for kind, schema in content.items()}
    return {"required": True, "content": merged}


def _path(*names: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]


def _answer(schema: Json, *errors: int, status: int = 200) -> dict[int, Json]:
    return {
        status: {"description": "Done.", "content": _json_of(schema)},
        **_errors(401, 403, *errors),
    }


_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
_DRAWN = _answer(_IMAGES, 400, 404, 408, 409, 413, 415, 429, 500, 503)
_DRAWN[200]["content"] |= _EVENTS
_LIST = _object({"object": _is("string"), "data": _is("array", items={"type": "object"})})
_CONTROLS = _object(
    {**_LIST["properties"], "types": _is("array", items={"type": "string"})}, ("data", "types")
)
_STATUS = _object({"status": _is("string")})
_PAGE_FILES: dict[str, Json] = {
    kind: {} for kind in ("text/css", "text/javascript", "application/json")
}
_PREVIEW = {
    "name": "preview",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": ["true", "false"]},
}
OPERATIONS: dict[tuple[str, str], dict[str, Json]] = {
    ("POST", "/v1/images/generations"): {
        "requestBody": _body(_json_of(_object(_IMAGE, ("prompt",)))),
        "responses": _DRAWN,
    },
    ("POST", "/v1/images/edits"): {
        "requestBody": _body(
            {"multipart/form-data": {"schema": _object(_FORM, ("prompt", "image"))}},
            _json_of(_object({**_IMAGE, "image": _PICTURES, "mask": _PICTURE}, ("prompt",))),
        ),
        "responses": _DRAWN,
    },
    ("GET", "/v1/models"): {"responses": _answer(_LIST)},
    ("GET", "/v1/models/{name:path}"): {
        "parameters": _path("name"),
        "responses": _answer({"type": "object"}, 404),
    },
    ("GET", "/v1/loras"): {"responses": _answer(_LIST)},
    ("GET", "/v1/controls"): {"responses": _answer(_CONTROLS)},
    ("POST", "/v1/jobs"): {
        "requestBody": _body(
            _json_of(
                _object({**_COMMON, **OPTIONS, "image": _PICTURES, "mask": _PICTURE}, ("prompt",))
            )
        ),
        "responses": _answer(_JOB, 400, 404, 408, 413, 415, 429, 503, status=202),
        "status": 202,
    },
    ("POST", "/v1/graphs"): {
        "requestBody": _body(
            _json_of(
                _object(
                    {
                        "graph": _is("object", "An API or UI graph of ComfyUI."),
                        "set": _is("object", "NODE.INPUT: VALUE."),
                        "pictures": _is("object", "Names in the graph: base64 or data URLs."),
                    },
                    ("graph",),
                )
            )
        ),
        "responses": _answer(_JOB, 400, 408, 413, 415, 429, 503, status=202),
        "status": 202,
    },
    ("GET", "/v1/jobs/{id}"): {
        "parameters": [*_path("id"), _PREVIEW],
        "responses": _answer(_JOB, 404),
    },
    ("GET", "/v1/jobs/{id}/events"): {
        "parameters": _path("id"),
        "responses": {200: {"description": "Events.", "content": _EVENTS}} | _errors(401, 403, 404),
    },
    ("DELETE", "/v1/jobs/{id}"): {"parameters": _path("id"), "responses": _answer(_JOB, 404)},
    ("GET", "/v1/files/{id}/{name}"): {
        "parameters": _path("id", "name"),
        "responses": {200: {"description": "A picture.", "content": {"image/png": {}}}}
        | _errors(403, 404),
        "secured": False,
    },
    ("GET", "/health"): {"responses": _answer(_STATUS), "secured": False},
    ("GET", "/ready"): {
        "responses": _answer(_STATUS)
        | {503: {"description": _REASONS[503], "content": _json_of(_STATUS)}},
        "secured": False,
    },
    ("GET", "/metrics"): {
        "responses": {200: {"description": "Metrics.", "content": {"text/plain": {}}}}
        | _errors(401, 403)
    },
    ("GET", "/"): {
        "responses": {200: {"description": "The page.", "content": {"text/html": {}}}},
        "secured": False,
    },
    ("GET", "/page/{name}"): {
        "parameters": _path("name"),
        "responses": {200: {"description": "A file of the page.", "content": _PAGE_FILES}}
        | _errors(403, 404),
        "secured": False,
    },
}
