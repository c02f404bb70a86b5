"""Writes help pages and locales/zh-TW of ComfyUI's page, and zh-TW.json of the server's page.

    python scripts/web/build.py

Texts come from pages.py, names and tooltips from the node schemas and locales/zh/nodeDefs.json,
pictures from docs/pictures (tests/support/help_pictures.py takes them from a running page). Every
text of zh-TW has its source in zh: traditional.json has the counterpart of every text
(traditional.py fills it). A test fails when a page or a counterpart is missing or drifts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.nodes import NODES
from scripts.package import ROOT
from scripts.web.pages import PAGES

HERE = Path(__file__).resolve().parent
SERVED = ROOT / "headless" / "serve" / "web"
HEADS = {
    "en": ("Inputs", "| input | what it is |", "Outputs", "optional"),
    "zh": ("输入", "| 输入 | 说明 |", "输出", "可选"),
    "zh-TW": ("輸入", "| 輸入 | 說明 |", "輸出", "選填"),
}
LOCALES = ("main.json", "nodeDefs.json", "commands.json", "settings.json")


def key_of(name: str) -> str:
    """An input's id as the page looks it up in translations."""
    return name.replace(".", "_")


def translations() -> dict[str, Any]:
    """locales/zh/nodeDefs.json."""
    return _chinese("nodeDefs.json")


def _chinese(file: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / "zh" / file).read_text("utf-8"))


def chinese_texts() -> list[str]:
    """Every text of zh, once each, in order."""
    texts = [text for file in LOCALES for text in _leaves(_chinese(file))]
    texts += [zh for _, zh in PAGES.values()]
    return list(dict.fromkeys([*texts, *_served().values()]))


def _served() -> dict[str, str]:
    """The Chinese texts of the server's page."""
    texts: dict[str, str] = json.loads((SERVED / "zh.json").read_text("utf-8"))
    return texts


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for item in value.values():
            yield from _leaves(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same tree with every text changed."""
    if isinstance(value, str):
        return change(value)
    return {key: _mapped(item, change) for key, item in value.items()}


def taiwan() -> Callable[[str], str]:
    """A text of zh -> its counterpart; KeyError where traditional.json lacks it."""
    table = json.loads((HERE / "traditional.json").read_text("utf-8"))
    return table.__getitem__


def schemas() -> dict[str, Any]:  # the schema class is ComfyUI's, or ours without it
    """Schema of every node by its id."""
    return {s.node_id: s for s in (node.define_schema() for node in NODES)}


def page(schema: Any, language: str, text: str, locale: dict[str, Any]) -> str:
    """One page in Markdown; locale: the node's part of the language's nodeDefs.json."""
    inputs, head, outputs, optional = HEADS[language]
    lines = [
        f"# {locale.get('display_name', schema.display_name)}",
        "",
        locale.get("description", schema.description),
        "",
        f"![{schema.display_name}](pictures/{schema.node_id}.jpg)",
        "",
        text,
        "",
        f"## {inputs}",
        "",
        head,
        "|---|---|",
    ]
    for item in schema.inputs:
        if _repeats(item.id, schema):
            continue
        own = locale.get("inputs", {}).get(key_of(item.id), {})
        name = own.get("name", item.display_name or item.id)
        note = f" ({optional})" if item.optional else ""
        tip = own.get("tooltip", item.tooltip).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| **{name}**{note} | {tip} |")
    lines += ["", f"## {outputs}", ""]
    for index, item in enumerate(schema.outputs):
        name = locale.get("outputs", {}).get(str(index), {}).get("name", item.display_name)
        lines.append(f"- **{name}** ({item.io_type})")
    return "\n".join(lines) + "\n"


def _repeats(name: str, schema: Any) -> bool:
    """True for an input of the second and later rows of a table: "lora_2", where "lora_1" is."""
    stem, _, number = name.rpartition("_")
    ids = {item.id for item in schema.inputs}
    return number.isdecimal() and number != "1" and f"{stem}_1" in ids


def render_all() -> dict[str, str]:
    """Path below web/docs -> text."""
    zh, change, pages = translations(), taiwan(), {}
    for name, schema in schemas().items():
        en_text, zh_text = PAGES[name]
        languages = {
            "en": (en_text, {}),
            "zh": (zh_text, zh[name]),
            "zh-TW": (change(zh_text), _mapped(zh[name], change)),
        }
        for language, (text, locale) in languages.items():
            pages[f"{name}/{language}.md"] = page(schema, language, text, locale)
    return pages


def render_locales() -> dict[str, str]:
    """Path below locales -> text, of the files that are built."""
    change = taiwan()
    return {
        f"zh-TW/{file}": json.dumps(_mapped(_chinese(file), change), ensure_ascii=False, indent=2)
        + "\n"
        for file in LOCALES
    }


def render_served() -> dict[str, str]:
    """File of the server's page -> text."""
    texts = _mapped(_served(), taiwan())
    return {"zh-TW.json": json.dumps(texts, ensure_ascii=False, indent=1) + "\n"}


if __name__ == "__main__":
    for folder, files in (
        (SERVED, render_served()),
        (ROOT / "web" / "docs", render_all()),
        (ROOT / "locales", render_locales()),
    ):
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
