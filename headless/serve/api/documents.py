"""What OpenAPI says of each route: bodies, answers, errors. The schemas: schemas.py."""

from __future__ import annotations

from ...node_types import Json
from . import schemas
from .schemas import a, a_list, an_object

SECURITY: list[dict[str, list[str]]] = [{"key": []}]
_REASONS = {
    400: "The request is wrong; the message says what was expected.",
    401: "The API key is missing or wrong.",
    403: "A page of another site, another name of this machine, or not allowed by this server.",
    404: "There is none of that name.",
    408: "The request came too slowly.",
    409: "The job was cancelled, or its result has expired.",
    413: "The request is too large.",
    415: "The body has another type.",
    429: "The queue is full; Retry-After says in how many seconds to try again.",
    500: "A fault of the server.",
    503: "The server is starting or stopping, or has no more connections.",
}
_ANYWHERE = (400, 403, 408, 413, 500, 503)  # a header that is no header, a body that nobody reads
_SENT = (415, 429)  # with a body that is read
SCHEMAS = {
    "Error": schemas.ERROR,
    "Job": schemas.JOB,
    "Images": schemas.IMAGES,
    "Model": schemas.MODEL,
}


def _ref(name: str) -> dict[str, Json]:
    assert name in SCHEMAS
    return {"$ref": f"#/components/schemas/{name}"}


def _json_of(schema: Json, kind: str = "application/json") -> dict[str, Json]:
    return {kind: {"schema": schema}}


def _errors(*statuses: int) -> dict[int, Json]:
    answers: dict[int, Json] = {
        status: {"description": _REASONS[status], "content": _json_of(_ref("Error"))}
        for status in sorted((*_ANYWHERE, *statuses))
    }
    if 429 in answers:
        seconds = {"description": "Seconds.", "schema": a("integer", minimum=1), "required": True}
        answers[429]["headers"] = {"Retry-After": seconds}
    return answers


def _body(*contents: dict[str, Json]) -> dict[str, Json]:
    merged = {kind: schema for content in contents for kind, schema in content.items()}
    return {"required": True, "content": merged}


def _path(*names: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": a("string", minLength=1)}
        for name in names
    ]


def _answer(content: dict[str, Json], *errors: int, status: int = 200) -> dict[int, Json]:
    return {status: {"description": "Done.", "content": content}, **_errors(*errors)}


def _listing(of: dict[str, Json], **more: Json) -> dict[str, Json]:
    return {"responses": _answer(_json_of(a_list(of, **more)), 401)}


_EVENT = {"event": a("string"), "data": a("string", "JSON; at a job's end [DONE].")}
_EVENTS = _json_of(an_object(_EVENT, "data"), "text/event-stream")
_DRAWN = _answer(_json_of(_ref("Images")) | _EVENTS, 401, 404, 409, *_SENT)
_NAMED = an_object({"id": a("string")}, "id")
_JOB = _json_of(_ref("Job"))
_RESULTS: dict[str, Json] = {
    kind: {} for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
}
_PAGE_FILES: dict[str, Json] = {
    kind: {} for kind in ("text/css", "text/javascript", "application/json")
}


def _query(name: str, schema: dict[str, Json]) -> dict[str, Json]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


_PREVIEW = _query("preview", a("string", enum=["true", "false"]))
_FORM_OF_RESULT = [
    _query("output_compression", a("integer", "Of .jpeg and .webp.", minimum=0, maximum=100)),
    _query("background", a("string", "opaque: on white.", enum=["auto", "opaque"])),
]
OPERATIONS: dict[tuple[str, str], dict[str, Json]] = {
    ("POST", "/v1/images/generations"): {
        "requestBody": _body(_json_of(schemas.GENERATION)),
        "responses": _DRAWN,
    },
    ("POST", "/v1/images/edits"): {
        "requestBody": _body(
            {"multipart/form-data": {"schema": schemas.EDIT_FORM}}, _json_of(schemas.EDIT)
        ),
        "responses": _DRAWN,
    },
    ("GET", "/v1/models"): _listing(_ref("Model")),
    ("GET", "/v1/models/{name:path}"): {
        "parameters": _path("name"),
        "responses": _answer(_json_of(_ref("Model")), 401, 404),
    },
    ("GET", "/v1/loras"): _listing(_NAMED),
    ("GET", "/v1/controls"): _listing(_NAMED, types=a("array", items=a("string"))),
    ("POST", "/v1/jobs"): {
        "requestBody": _body(_json_of(schemas.ORDER)),
        "responses": _answer(_JOB, 401, 404, *_SENT, status=202),
        "status": 202,
    },
    ("POST", "/v1/graphs"): {
        "requestBody": _body(_json_of(schemas.GRAPH)),
        "responses": _answer(_JOB, 401, *_SENT, status=202),
        "status": 202,
    },
    ("GET", "/v1/jobs/{id}"): {
        "parameters": [*_path("id"), _PREVIEW],
        "responses": _answer(_JOB, 401, 404),
    },
    ("GET", "/v1/jobs/{id}/events"): {
        "parameters": _path("id"),
        "responses": _answer(_EVENTS, 401, 404),
    },
    ("DELETE", "/v1/jobs/{id}"): {"parameters": _path("id"), "responses": _answer(_JOB, 401, 404)},
    ("GET", "/v1/files/{id}/{name}"): {
        "parameters": [*_path("id", "name"), *_FORM_OF_RESULT],
        "responses": _answer(_RESULTS, 404),
        "secured": False,
    },
    ("GET", "/health"): {"responses": _answer(_json_of(schemas.STATUS)), "secured": False},
    ("GET", "/ready"): {
        "responses": _answer(_json_of(schemas.STATUS))
        | {
            503: {
                "description": _REASONS[503],
                "content": _json_of({"anyOf": [schemas.STATUS, _ref("Error")]}),
            }
        },
        "secured": False,
    },
    ("GET", "/metrics"): {"responses": _answer({"text/plain": {}}, 401)},
    ("GET", "/"): {"responses": _answer({"text/html": {}}), "secured": False},
    ("GET", "/page/{name}"): {
        "parameters": _path("name"),
        "responses": _answer(_PAGE_FILES, 404),
        "secured": False,
    },
}
