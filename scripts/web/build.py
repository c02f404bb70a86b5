"""Writes the help pages that ComfyUI's page shows, and locales/zh-TW: `python
scripts/web/build.py`.

Words come from pages.py, names and tooltips from the node schemas and locales/zh/nodeDefs.json,
pictures from docs/pictures (tests/support/help_pictures.py takes them from a running page). All
that is said in zh-TW is said in zh first: traditional.json has the counterpart of every text
(traditional.py fills it). A test fails when a page or a counterpart is missing or drifts.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEADS = {
    "en": ("Inputs", "| input | what it is |", "Outputs", "optional"),
    "zh": ("输入", "| 输入 | 说明 |", "输出", "可选"),
    "zh-TW": ("輸入", "| 輸入 | 說明 |", "輸出", "選填"),
}
LOCALES = ("main.json", "nodeDefs.json")


def key_of(name: str) -> str:
    """An input's id as the page looks it up in translations."""
    return name.replace(".", "_")


def words() -> dict[str, tuple[str, str]]:
    """PAGES of pages.py."""
    spec = importlib.util.spec_from_file_location("inkstone_help_pages", HERE / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PAGES


def translations() -> dict[str, dict]:
    """locales/zh/nodeDefs.json."""
    return _chinese("nodeDefs.json")


def _chinese(file: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / "zh" / file).read_text("utf-8"))


def chinese_texts() -> list[str]:
    """Every text that is said in zh, once each, in order."""
    told = [text for file in LOCALES for text in _leaves(_chinese(file))]
    return list(dict.fromkeys([*told, *(zh for _, zh in words().values())]))


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


def schemas() -> dict[str, object]:
    """Schema of every node by its id."""
    if "inkstone" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "inkstone", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules["inkstone"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["inkstone"])
    from inkstone.nodes import NODES

    return {s.node_id: s for s in (node.define_schema() for node in NODES)}


def page(schema: object, language: str, text: str, told: dict) -> str:
    """One page in Markdown; told: what the language's nodeDefs.json has of the node."""
    inputs, head, outputs, optional = HEADS[language]
    lines = [
        f"# {told.get('display_name', schema.display_name)}",
        "",
        told.get("description", schema.description),
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
        own = told.get("inputs", {}).get(key_of(item.id), {})
        name = own.get("name", item.display_name or item.id)
        note = f" ({optional})" if item.optional else ""
        tip = own.get("tooltip", item.tooltip).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| **{name}**{note} | {tip} |")
    lines += ["", f"## {outputs}", ""]
    for index, item in enumerate(schema.outputs):
        name = told.get("outputs", {}).get(str(index), {}).get("name", item.display_name)
        lines.append(f"- **{name}** ({item.io_type})")
    return "\n".join(lines) + "\n"


def render_all() -> dict[str, str]:
    """Path below web/docs -> text."""
    texts, zh, change, made = words(), translations(), taiwan(), {}
    for name, schema in schemas().items():
        en_text, zh_text = texts[name]
        said = {
            "en": (en_text, {}),
            "zh": (zh_text, zh[name]),
            "zh-TW": (change(zh_text), _mapped(zh[name], change)),
        }
        for language, (text, told) in said.items():
            made[f"{name}/{language}.md"] = page(schema, language, text, told)
    return made


def render_locales() -> dict[str, str]:
    """Path below locales -> text, of what is built."""
    change = taiwan()
    return {
        f"zh-TW/{file}": json.dumps(_mapped(_chinese(file), change), ensure_ascii=False, indent=2)
        + "\n"
        for file in LOCALES
    }


if __name__ == "__main__":
    for folder, files in (
        (ROOT / "web" / "docs", render_all()),
        (ROOT / "locales", render_locales()),
    ):
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
