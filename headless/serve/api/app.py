"""The application: routes with their documents, errors in OpenAI's form, the gate around it.

FastAPI reads the types of its endpoints, so this file must not postpone annotations.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .... import __version__
from ..desk.desk import UNEXPECTED, Desk
from ..desk.refusal import Refusal, error_document
from . import routes
from .documents import OPERATIONS, SCHEMAS, SECURITY
from .gate import Gate
from .keys import Keys
from .page import page, page_file

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

Handler = Callable[[Desk, Any], Awaitable[Any]]
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/images/generations", routes.generations),
    ("POST", "/v1/images/edits", routes.edits),
    ("GET", "/v1/models", routes.models),
    ("GET", "/v1/models/{name:path}", routes.model),
    ("GET", "/v1/loras", routes.loras),
    ("GET", "/v1/controls", routes.controls),
    ("POST", "/v1/jobs", routes.new_job),
    ("POST", "/v1/graphs", routes.new_graph),
    ("GET", "/v1/jobs/{id}", routes.job),
    ("GET", "/v1/jobs/{id}/events", routes.job_progress),
    ("DELETE", "/v1/jobs/{id}", routes.end_job),
    ("GET", "/v1/files/{id}/{name}", routes.file),
    ("GET", "/health", routes.health),
    ("GET", "/ready", routes.ready),
    ("GET", "/metrics", routes.metrics),
    ("GET", "/", page),
    ("GET", "/page/{name}", page_file),
)


def build_app(desk: Desk, keys: Keys) -> Gate:
    """The ASGI application of a desk. Its state: `gate.api`, the FastAPI object."""
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.routing import Match

    api = FastAPI(
        title="Inkstone",
        version=__version__,
        description="Qwen-Image behind OpenAI's image routes, and a queue of jobs.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )

    async def on_refusal(request: Any, error: Any) -> Any:
        desk.refused[error.status] += 1
        return JSONResponse(error.document(), error.status, error.headers)

    async def on_http(request: Any, error: Any) -> Any:
        message, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 404:
            message = "There is no such route: GET /openapi.json lists them."
        if error.status_code == 405:  # the framework names the methods of one route of the path
            fits = [route for route in api.routes if route.matches(request.scope)[0] != Match.NONE]
            headers["Allow"] = ", ".join(
                sorted({m for route in fits for m in getattr(route, "methods", ())})
            )
            message = f"This route has no such method: expected {headers['Allow']}."
        return JSONResponse(error_document(message, error.status_code), error.status_code, headers)

    async def on_gone(request: Any, error: Any) -> Any:  # nobody reads this
        return JSONResponse(error_document("The client has gone.", 499), 499)

    async def on_fault(request: Any, error: Any) -> Any:
        desk.refused[500] += 1
        return JSONResponse(error_document(UNEXPECTED, 500), 500)

    api.add_exception_handler(Refusal, on_refusal)
    api.add_exception_handler(HTTPException, on_http)
    api.add_exception_handler(ClientDisconnect, on_gone)
    api.add_exception_handler(Exception, on_fault)
    for method, path, handler in ROUTES:
        _add(api, desk, method, path, handler)
    api.openapi_schema = _described(api.openapi(), keys)
    return Gate(api, desk.call, keys, desk.check_room, desk.refused)


def _described(document: dict[str, Any], keys: Keys) -> dict[str, Any]:
    """OpenAPI with the schemas, and with the key where one is asked for."""
    parts = document.setdefault("components", {})
    parts["schemas"] = parts.get("schemas", {}) | SCHEMAS
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    if not keys.asked:
        for path in document["paths"].values():
            for operation in path.values():
                operation.pop("security", None)
    return document


def _add(api: "FastAPI", desk: Desk, method: str, path: str, handler: Handler) -> None:
    from starlette.requests import Request
    from starlette.responses import Response

    async def endpoint(request: Request) -> Response:
        answer: Response = await handler(desk, request)
        return answer

    async def without_body(request: Request) -> Response:
        answer = await handler(desk, request)
        bare = Response(status_code=answer.status_code)
        bare.raw_headers = answer.raw_headers  # its length too
        return bare

    if method == "GET":
        api.add_api_route(path, without_body, methods=["HEAD"], include_in_schema=False)
    document = OPERATIONS[method, path]
    extra: dict[str, Any] = {
        name: document[name] for name in ("requestBody", "parameters") if name in document
    }
    if document.get("secured", True):
        extra["security"] = SECURITY
    api.add_api_route(
        path,
        endpoint,
        methods=[method],
        response_model=None,
        response_class=Response,
        name=handler.__name__,
        summary=(handler.__doc__ or "").strip(),
        openapi_extra=extra,
        responses=document["responses"],
        status_code=document.get("status", 200),
    )
