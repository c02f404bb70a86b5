"""A node class as ComfyUI's page sees it: its widgets in order, from a schema or `/object_info`.

A workflow file stores the values of a node's widgets as a bare list: reading one needs this order.
Facts of the page that are encoded here: required inputs come before optional ones; a number named
seed or with control_after_generate has one more place in the list, a combo with it two; upload
buttons come after the required widgets; a choice (DynamicCombo) is followed by the widgets of the
chosen key only; growing inputs have no place.
"""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import InkstoneError
from ...files.json_text import parse_json
from ...files.paths import read_regular
from ..graph.input_values import (
    SEED_NAMES,
    WIDGET_TYPES,
    default_value,
    is_widget,
    schema_of,
    socket_type,
)
from ..node_types import Json, NodeClass
from .parse_ui import as_list, as_object

log = logging.getLogger(__name__)

# widget types of the page that are neither plain nor sockets -> (keeps a place, is sent, default)
ODD = {
    "IMAGECOMPARE": (False, True, ["", ""]),
    "COLOR": (True, True, "#ffffff"),
    "MARKDOWN": (True, True, ""),
    "TEXTAREA": (True, True, ""),
    "AUDIO_UI": (False, False, ""),
    "AUDIO_RECORD": (True, True, ""),
    "WEBCAM": (True, True, ""),
    "LOAD_3D": (True, True, ""),
    "PREVIEW_3D": (True, True, ""),
}
CHOICE, GROWING = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
_UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload")
_MAX_BYTES = 64 << 20  # of an object_info: a server with hundreds of packs stays below
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Widget:
    """An input with a widget. place: it has one in the list; sent: it is part of the API graph.

    controls: further places, for the "control after generate" of a seed or combo.
    """

    name: str
    kind: str
    default: Json = None
    place: bool = True
    sent: bool = True
    controls: int = 0
    dynamic: bool = False  # the text may have {a|b} and comments
    choices: Mapping[str, tuple[Widget | Socket, ...]] | None = None
    has_control: bool = False  # the class declares control_after_generate


@dataclass(frozen=True)
class Socket:
    """An input that takes links only. places: those of a forced socket in old files."""

    name: str
    kind: str
    places: int = 0


@dataclass(frozen=True)
class Interface:
    """A class: its inputs in the page's order, the types of its outputs, its display name."""

    name: str
    inputs: tuple[Widget | Socket, ...] = ()
    outputs: tuple[str, ...] = ()
    title: str = ""
    required: tuple[str, ...] = ()  # sockets that have to be connected

    def rest(self, positional: list[Json]) -> list[Json]:
        """What follows the declared widgets' values in a positional list."""
        rest = list(positional)
        for _ in _read(self.inputs, rest, ""):
            pass
        return rest

    def values(self, positional: list[Json]) -> Iterator[tuple[Widget, Json]]:
        """(widget, value) from a positional list; widgets beyond its end have their defaults."""
        yield from _read(self.inputs, list(positional), "")


def _read(
    inputs: tuple[Widget | Socket, ...], rest: list[Json], prefix: str
) -> Iterator[tuple[Widget, Json]]:
    for item in inputs:
        if isinstance(item, Socket):
            continue
        widget = replace(item, name=prefix + item.name) if prefix else item
        value = item.default
        if item.place and rest:
            value = rest.pop(0)
            del rest[: item.controls]
        yield widget, value
        if item.choices is not None:
            yield from _read(item.choices.get(str(value), ()), rest, f"{widget.name}.")


# ---- from our schemas ----------------------------------------------------------------------------


def interface_of(node_class: NodeClass) -> Interface:
    """The interface of one of our node classes or stand-ins."""
    schema = schema_of(node_class)
    items = sorted(schema.inputs or [], key=lambda item: bool(item.optional))
    inputs: list[Widget | Socket] = []
    uploads = False
    for item in items:
        if not is_widget(item):
            forced = int(bool(getattr(item, "force_input", None)))
            inputs.append(Socket(item.id, socket_type(item), forced))
            continue
        kind = socket_type(item)
        has_control = bool(getattr(item, "control_after_generate", None))
        controls = _controls(kind, item.id, has_control)
        dynamic = bool(getattr(item, "dynamic_prompts", None))
        inputs.append(
            Widget(
                item.id,
                kind,
                default_value(item),
                controls=controls,
                dynamic=dynamic,
                has_control=has_control,
            )
        )
        uploads = uploads or getattr(item, "upload", None) is not None
    if uploads:
        inputs.append(_upload())
    outputs = tuple(socket_type(item) for item in schema.outputs or [])
    required = tuple(i.id for i in items if not i.optional and not is_widget(i))
    return Interface(schema.node_id, tuple(inputs), outputs, schema.display_name or "", required)


def _controls(kind: str, name: str, has_control: bool) -> int:
    if kind == "COMBO":
        return 2 if has_control else 0
    return int(kind == "INT" and (has_control or name in SEED_NAMES))


def _upload() -> Widget:
    return Widget("upload", "UPLOAD", sent=False)


# ---- from a server's object_info -----------------------------------------------------------------


def read_interfaces(source: str) -> dict[str, Interface]:
    """All classes of an `/object_info` file or of a server's address. Raises InkstoneError.

    Only addresses of this machine are fetched (http on the loopback); save other lists to a file.
    """
    data = _fetch(source) if source.startswith(("http:", "https:")) else _from_file(source)
    if not isinstance(data, dict) or not any(_is_class(entry) for entry in data.values()):
        raise InkstoneError(
            f"{source}: expected the JSON of a ComfyUI server's /object_info (class -> inputs), "
            f"got {type(data).__name__}. Save it with: curl http://127.0.0.1:8188/object_info"
        )
    read: dict[str, Interface] = {}
    for name, info in data.items():
        if _is_class(info):
            try:
                read[name] = parse_interface(name, info)
            except InkstoneError as error:  # one pack's fault must not stop all others
                log.warning("%s: the class %.60r is left out: %s", source, name, error)
    return read


def _is_class(entry: Json) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("input"), dict)


def _from_file(source: str) -> Json:
    try:
        return parse_json(read_regular(Path(source), _MAX_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InkstoneError(
            f"Cannot read the object_info {source}: {reason}. Check the path."
        ) from error


def _fetch(source: str) -> Json:
    if not _is_here(source):
        raise InkstoneError(
            f"{source}: only http://127.0.0.1:PORT is fetched. Save the /object_info of another "
            "machine to a file and give the file."
        )
    url = (
        source
        if urlsplit(source).path.rstrip("/").endswith("object_info")
        else (source.rstrip("/") + "/object_info")
    )
    try:
        with _opener().open(url, timeout=30) as answer:
            return parse_json(answer.read(_MAX_BYTES))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise InkstoneError(f"No object_info from {url}: {error}. Is the server up?") from error


class _OnThisMachine(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where an address may point in the first place."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not _is_here(newurl):
            raise InkstoneError(
                f"{req.full_url} sends on to {newurl[:200]!r}, which is not http://127.0.0.1:PORT. "
                "It was not fetched: save that list to a file and give the file."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """No proxy: it could be on another machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _OnThisMachine)


def _is_here(url: str) -> bool:
    """True for plain http on the loopback."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and parts.hostname in _LOOPBACK
    except ValueError:  # no address at all, such as http://[
        return False


def parse_interface(name: str, info: Mapping[str, Json]) -> Interface:
    """The interface of one class from its entry in /object_info. Raises InkstoneError."""
    groups, order = info["input"], as_object(info.get("input_order"), "input_order")
    inputs: list[Widget | Socket] = []
    required: list[str] = []

    for group in ("required", "optional"):
        specs = groups.get(group)
        if not isinstance(specs, dict):
            continue
        listed = as_list(order.get(group), f"input_order.{group}")
        names = [key for key in listed if isinstance(key, str) and key in specs]
        upload = False
        for key in [*names, *(key for key in specs if key not in names)]:
            kind, options = _spec(specs[key])
            if kind != GROWING:
                inputs.append(item := _item(key, kind, options))
                if group == "required" and isinstance(item, Socket):
                    required.append(key)
            upload = upload or any(options.get(flag) for flag in _UPLOADS)
        if upload:
            inputs.append(_upload())
    outputs = as_list(info.get("output"), "output")
    kinds = tuple(kind if isinstance(kind, str) else "COMBO" for kind in outputs)
    title = info.get("display_name")
    return Interface(name, tuple(inputs), kinds, str(title or ""), tuple(required))


def _spec(spec: Json) -> tuple[str, dict[str, Json]]:
    """(type, options) of an input: [type, {options}?]; the type may be the list of choices."""
    spec = spec if isinstance(spec, list) and spec else ["*"]
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if isinstance(spec[0], list):
        return "COMBO", {"options": spec[0], **options}
    return str(spec[0]), options


def _item(name: str, kind: str, options: dict[str, Json]) -> Widget | Socket:
    if options.get("forceInput"):
        return Socket(name, kind, 1 + int(bool(options.get("control_after_generate"))))
    if kind not in (*WIDGET_TYPES, *ODD, CHOICE):
        return Socket(name, kind)
    if kind == CHOICE:
        listed = as_list(options.get("options"), f"the options of {name}")
        choices = {key: children for key, children in map(_option, listed)}
        return Widget(name, "COMBO", next(iter(choices), None), choices=choices)
    if kind in ODD:
        place, sent, default = ODD[kind]
        return Widget(name, kind, default=options.get("default", default), place=place, sent=sent)
    has_control = bool(options.get("control_after_generate"))
    dynamic = kind == "STRING" and bool(options.get("dynamicPrompts"))
    return Widget(
        name,
        kind,
        _default(kind, options),
        controls=_controls(kind, name, has_control),
        dynamic=dynamic,
        has_control=has_control,
    )


def _option(option: Json) -> tuple[str, tuple[Widget | Socket, ...]]:
    """(key, inputs) of one choice; its seeds have no "control after generate" by default."""
    option = option if isinstance(option, dict) else {}
    groups = as_object(option.get("inputs"), "the inputs of an option")
    children: list[Widget | Socket] = []
    for group in ("required", "optional"):
        for name, spec in as_object(groups.get(group), f"{group} inputs of an option").items():
            kind, options = _spec(spec)
            item = _item(name, kind, options)
            if isinstance(item, Widget) and name in SEED_NAMES:
                has_control = bool(options.get("control_after_generate"))
                item = Widget(item.name, item.kind, item.default, controls=int(has_control))
            children.append(item)
    return str(option.get("key")), tuple(children)


def _default(kind: str, options: dict[str, Json]) -> Json:
    """The value that the page shows in a new widget."""
    if options.get("default") is not None:
        return options["default"]
    if kind == "COMBO":
        return next(iter(as_list(options.get("options"), "options")), None)
    if kind in ("INT", "FLOAT"):
        least = options.get("min", 0)
        return max(0, least) if isinstance(least, (int, float)) else 0
    return {"BOOLEAN": False}.get(kind, "")
