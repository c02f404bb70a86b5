"""The page at `/` and its files: without a build step and without anything from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .... import __version__
from ....sampling.geometry import SIZES, SIZES_21
from ...node_types import Json
from ..desk.refusal import Refusal
from ..desk.settings import Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ..desk.desk import Desk

FOLDER = Path(__file__).parent.with_name("web")
INDEX, FACTS = "index.html", "facts.json"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
SMALL = ((128, 128), (160, 96), (96, 160))  # canvases of the embedded model
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def page(desk: Desk, request: Request) -> Response:
    """GET /: a page to draw with."""
    from starlette.responses import HTMLResponse

    return HTMLResponse((FOLDER / INDEX).read_text("utf-8"), headers=_HEADERS)


async def page_file(desk: Desk, request: Request) -> Response:
    """GET /page/NAME: a file of the page."""
    from starlette.responses import JSONResponse, Response

    name = request.path_params["name"]
    if name == FACTS:
        return JSONResponse(facts(desk.limits), headers=_HEADERS)
    files = {file.name: file for file in FOLDER.iterdir() if file.suffix in _TYPES}
    if name not in files:
        raise Refusal("There is no such file of the page.", 404)
    kind = _TYPES[files[name].suffix]
    return Response(files[name].read_bytes(), media_type=kind, headers=_HEADERS)


def facts(limits: Limits) -> dict[str, Json]:
    """What the form has to know: the limits, and sizes that models were trained at."""
    sizes = dict.fromkeys([*SIZES.values(), *SIZES_21.values()])
    return {
        "version": __version__,
        "pixels": limits.pixels,
        "pictures": limits.pictures,
        "steps": limits.steps,
        "sizes": [f"{w}x{h}" for w, h in sizes if w * h <= limits.pixels],
        "small": [f"{w}x{h}" for w, h in SMALL],
    }
