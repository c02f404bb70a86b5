"""Fields of a form -> the object that JSON has.

Clients write what is nested with brackets. OpenAI's Python client makes inkstone[lora][name] of an
object, inkstone[region][] of each item of a list, and of a list of objects all types, then all
pictures: inkstone[control][][type] twice, inkstone[control][][picture] twice. Others number the
items, inkstone[control][0][type].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias, Union

from ....files.json_text import parse_json
from ...draw.option_values import FLAGS, NUMBERS
from ...node_types import Json
from ..desk.refusal import Refusal
from .requests import IMAGE_FIELDS, check_values, json_body

Tree: TypeAlias = dict[str, Union["Tree", list[str]]]  # by what stands in brackets; texts

_OWN = re.compile(r"inkstone((?:\[[A-Za-z0-9_-]{0,40}\]){1,4})")
_NUMBER = re.compile(r"-?[0-9]{1,300}(\.[0-9]{1,300})?([eE][-+]?[0-9]{1,3})?")
_NUMBERS = ("n", "output_compression", "partial_images")
_COMPOUND = ("lora", "control", "control_model", "region", "variety")  # lists, objects
_MAY_BE_EMPTY = ("prompt", "negative")  # texts; of others an empty one is none
_MOST_TEXT = 1 << 20  # of what holds no pictures


def form_texts(fields: Mapping[str, list[str]]) -> dict[str, Json]:
    """The texts of a form as JSON has them; inkstone is JSON, or has brackets. Raises Refusal."""
    data: dict[str, Json] = {}
    tree: Tree = {}
    for name, texts in fields.items():
        match = _OWN.fullmatch(name)
        if match:
            _put(tree, match[1][1:-1].split("]["), texts, name)
            continue
        if len(texts) > 1:
            raise Refusal(f"{name[:60]}: expected it once.", param=name[:60])
        if texts[0] or name in _MAY_BE_EMPTY or name not in IMAGE_FIELDS:
            data[name] = _plain(name, texts[0])
    own = {name: _option(name, node) for name, node in tree.items() if not _is_unset(name, node)}
    whole = data.get("inkstone", {})
    for name in own:
        if name in whole:
            raise Refusal(f"inkstone: {name} is given twice.", param=name)
    return data | ({"inkstone": whole | own} if own else {})


def _plain(name: str, text: str) -> Json:
    """The value of a field without brackets."""
    if name == "inkstone":
        return json_body(text.encode("utf-8", "surrogateescape"), "inkstone")
    if len(text) > _MOST_TEXT:
        raise Refusal(f"{name[:60]}: expected at most {_MOST_TEXT >> 20} MiB.", param=name[:60])
    if name in _NUMBERS:
        return _number(name, text)
    return _flag(name, text) if name == "stream" else text


def _put(tree: Tree, keys: list[str], texts: list[str], name: str) -> None:
    """Puts the texts of a field to their place."""
    for key in keys[:-1]:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):
            raise _twice(name)
        tree = inner
    if keys[-1] in tree:
        raise _twice(name)
    tree[keys[-1]] = texts


def _twice(name: str) -> Refusal:
    return Refusal(
        f"{name}: it is given in two ways, whole and in parts. Send one of them.", param="inkstone"
    )


def _is_unset(name: str, node: Tree | list[str]) -> bool:
    return node == [""] and name not in _MAY_BE_EMPTY


def _option(name: str, node: Tree | list[str]) -> Json:
    """The value of an option of ours."""
    where = f"inkstone[{name}]"
    if isinstance(node, dict):
        return _value(where, node)
    text = _once(where, node)
    if name in FLAGS:
        return _flag(name, text)
    if name in NUMBERS:
        return _number(name, text)
    if name not in _COMPOUND or text[:1] not in ("[", "{"):
        return text
    check_values(text.encode("utf-8", "surrogateescape"), where)
    try:
        return parse_json(text)
    except ValueError:
        return text


def _value(where: str, node: Tree | list[str]) -> Json:
    """What the fields that begin so say together."""
    if isinstance(node, list):
        return _once(where, node)
    numbers = [key for key in node if key.isdecimal()]
    if list(node) == [""]:
        return _items(f"{where}[]", node[""])
    if "" in node or 0 < len(numbers) < len(node):
        raise Refusal(
            f"{where} is a list and an object at once, or a list in two ways. Send one of them.",
            param="inkstone",
        )
    if numbers:
        return [_value(f"{where}[{key}]", node[key]) for key in sorted(numbers, key=int)]
    return {key: _value(f"{where}[{key}]", inner) for key, inner in node.items()}


def _items(where: str, node: Tree | list[str]) -> list[Json]:
    """The items of a list whose fields come one after another. Raises Refusal where they cannot
    be told apart.
    """
    if isinstance(node, list):
        return list(node)
    columns = {}
    for key, inner in node.items():
        if not key or key.isdecimal():
            raise _unclear(where)
        columns[key] = _items(f"{where}[{key}]", inner)
    if len({len(column) for column in columns.values()}) != 1:
        raise _unclear(where)
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _unclear(where: str) -> Refusal:
    front = where.partition("[]")[0]
    return Refusal(
        f"{where}: what belongs to which item cannot be seen, since not all have the same fields. "
        f"Number them, such as {front}[0][name], or send the field inkstone as JSON.",
        param="inkstone",
    )


def _once(where: str, texts: list[str]) -> str:
    if len(texts) > 1:
        raise Refusal(f"{where}: expected it once.", param=where)
    return texts[0]


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise Refusal(f"{name} is {text[:40]!r}: expected true or false.", param=name)
    return text.lower() == "true"


def _number(name: str, text: str) -> float | int:
    if not _NUMBER.fullmatch(text):
        raise Refusal(f"{name} is {text[:40]!r}: expected a number.", param=name)
    return int(text) if text.lstrip("-").isdecimal() else float(text)
