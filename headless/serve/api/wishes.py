"""The form in which a client wants its pictures: in a request, or in the address of a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from ...node_types import Json
from ..desk.refusal import Refusal
from ..desk.settings import RESPONSE_FORMATS

# they change nothing here; texts
IGNORED = "quality style moderation user safety_identifier input_fidelity complexity".split()
FORMATS = ("png", "jpeg", "webp")
BACKGROUNDS = ("auto", "opaque", "transparent")
_BEST = 100  # quality of jpeg and webp where none is asked for
_MOST_PARTIAL = 3


@dataclass(frozen=True)
class Wish:
    """What an answer shall be."""

    address: bool = False  # where the pictures are, rather than themselves
    format: str = "png"
    quality: int = _BEST
    opaque: bool = False  # without transparency
    stream: bool = False
    partial: int = 0
    notes: tuple[str, ...] = ()  # what of a request changes nothing

    def at(self, address: str) -> str:
        """The address of a result in this form, from that of the PNG which is kept."""
        query: dict[str, Json] = {}
        if self.format != "png" and self.quality != _BEST:
            query["output_compression"] = self.quality
        if self.opaque:
            query["background"] = "opaque"
        stem, _, suffix = address.rpartition(".")
        if suffix != "png":  # no picture
            return address
        return f"{stem}.{self.format}" + (f"?{urlencode(query)}" if query else "")


def wish_of(data: Mapping[str, Json], layered: bool = False) -> Wish:
    """The form of an answer, of the fields of a request. layered: the result has transparent
    layers. Raises Refusal.
    """
    _one_of(data, "response_format", RESPONSE_FORMATS)
    _one_of(data, "output_format", FORMATS)
    _check_background(data, layered)
    for name in IGNORED:
        if not isinstance(data.get(name, ""), (str, type(None))):
            raise Refusal(f"{name}: expected a text.", param=name)
    stream = data.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise Refusal("stream: expected true or false.", param="stream")
    address = data.get("response_format") == "url"
    if stream and address:
        raise Refusal(
            "response_format is url and stream is true: the events of a stream hold the pictures "
            "themselves, as b64_json. Leave one of the two out.",
            param="response_format",
        )
    return Wish(
        address=address,
        format=data.get("output_format") or "png",
        quality=_whole(data, "output_compression", _BEST, 100),
        opaque=data.get("background") == "opaque",
        stream=bool(stream),
        partial=_whole(data, "partial_images", 0, _MOST_PARTIAL),
        notes=_notes(data),
    )


def _notes(data: Mapping[str, Json]) -> tuple[str, ...]:
    """Sentences of what was asked for and has no effect."""
    notes = []
    png = data.get("output_format") in (None, "png")
    if png and data.get("output_compression") is not None:
        notes.append(
            "output_compression has no effect on PNG: name the output_format jpeg or webp."
        )
    if data.get("partial_images") and not data.get("stream"):
        notes.append("partial_images has no effect without stream: true.")
    return tuple(notes)


def wish_of_address(suffix: str, query: Mapping[str, str]) -> Wish:
    """The form of a result at an address of `Wish.at`. Raises Refusal."""
    data: dict[str, Json] = {"output_format": suffix, "background": query.get("background")}
    quality = query.get("output_compression")
    if quality is not None:
        short = quality.isascii() and quality.isdecimal() and len(quality) <= 3
        data["output_compression"] = int(quality) if short else quality
    return wish_of(data)


def _check_background(data: Mapping[str, Json], layered: bool) -> None:
    _one_of(data, "background", BACKGROUNDS)
    if data.get("background") != "transparent":
        return
    if not layered:
        raise Refusal(
            "background is transparent: only Qwen-Image-Layered draws transparency, of a picture "
            'that is sent to /v1/images/edits with {"inkstone": {"layers": 4}}. Expected auto or '
            "opaque.",
            param="background",
        )
    if data.get("output_format") == "jpeg":
        raise Refusal(
            "background is transparent, and jpeg has no transparency: ask for png or webp.",
            param="output_format",
        )


def _whole(data: Mapping[str, Json], name: str, usual: int, most: int) -> int:
    value = data.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Refusal(f"{name}: expected a whole number from 0 to {most}.", param=name)
    return value


def _one_of(data: Mapping[str, Json], name: str, choices: tuple[str, ...]) -> None:
    value = data.get(name)
    if value is not None and value not in choices:
        raise Refusal(
            f"{name} is {str(value)[:60]!r}: expected {' or '.join(choices)}.", param=name
        )
