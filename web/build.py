"""Writes the help pages that ComfyUI's page shows: `python web/build.py`.

Words come from pages.py, names and tooltips from the node schemas and locales/zh/nodeDefs.json,
pictures from docs/pictures (tests/help_pictures.py takes them from a running page). A test fails
when a page is missing or drifts.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HEADS = {
    "en": ("Inputs", "| input | what it is |", "Outputs", "optional"),
    "zh": ("输入", "| 输入 | 说明 |", "输出", "可选"),
}


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
    return json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))


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


def page(schema: object, language: str, text: str, zh: dict) -> str:
    """One page in Markdown."""
    told = zh if language == "zh" else {}
    inputs, head, outputs, optional = HEADS[language]
    lines = [f"# {told.get('display_name', schema.display_name)}", "",
             told.get("description", schema.description), "",
             f"![{schema.display_name}](pictures/{schema.node_id}.jpg)", "", text, "",
             f"## {inputs}", "", head, "|---|---|"]  # fmt: skip
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
    texts, zh, made = words(), translations(), {}
    for name, schema in schemas().items():
        for language, text in zip(("en", "zh"), texts.get(name, ("", ""))):
            made[f"{name}/{language}.md"] = page(schema, language, text, zh.get(name, {}))
    return made


if __name__ == "__main__":
    for path, content in render_all().items():
        (HERE / "docs" / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / "docs" / path).write_text(content, encoding="utf-8")
