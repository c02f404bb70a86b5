"""Writes tests/support/pages: what a ComfyUI page makes of our graphs and of the official ones.

    python -m tests.support.record_pages --server URL --python PYTHON --templates FOLDER

The server needs tests/support/newer_nodes as a pack. FOLDER is `templates` of the package
comfyui-workflow-templates-json (MIT License, Copyright Comfy Org): its Qwen-Image graphs are kept
without their layout, with the page's answers and the interfaces of their classes.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from .ui_graphs import feature_graphs

HERE = Path(__file__).resolve().parent
PAGES = HERE / "pages"
LAYOUT = (
    "pos",
    "size",
    "flags",
    "color",
    "bgcolor",
    "shape",
    "label",
    "localized_name",
    "slot_index",
    "bounding",
    "ds",
    "groups",
    "config",
    "frontendVersion",
)
KEPT_OPTIONS = (
    "default",
    "min",
    "forceInput",
    "control_after_generate",
    "dynamicPrompts",
    "image_upload",
    "template",
    "key",
    "inputs",
    "required",
    "optional",
)


def answers(server: str, python: str, graphs: dict[str, dict]) -> dict[str, dict]:
    """The page's API graphs, without titles; a graph that it refuses is left out."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "in.json"), Path(folder, "out.json")
        files[0].write_text(json.dumps(graphs), "utf-8")
        script = HERE / "page_convert.py"
        subprocess.run([python, script, "--server", server, *files], check=True)
        graphs = json.loads(files[1].read_text("utf-8"))
    for name in [n for n, api in graphs.items() if isinstance(api.get("error"), str)]:
        print(f"{name}: the page says {graphs.pop(name)['error']}")
    for api in graphs.values():
        for entry in api.values():
            entry.pop("_meta", None)
    return graphs


def without_layout(value):
    """A workflow without what only drawing needs."""
    if isinstance(value, dict):
        return {k: without_layout(v) for k, v in value.items() if k not in LAYOUT}
    return [without_layout(v) for v in value] if isinstance(value, list) else value


def reduced(interface: dict) -> dict:
    """An interface without tooltips and file lists: of choices the first is kept, their default."""
    groups = {
        name: {key: _reduced_spec(spec) for key, spec in group.items()}
        for name, group in interface["input"].items()
        if name in ("required", "optional")
    }
    return {"input": groups, "output": interface["output"], "output_node": interface["output_node"]}


def _reduced_spec(spec: list) -> list:
    kind = spec[0][:1] if isinstance(spec[0], list) else spec[0]
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    kept = {k: v for k, v in options.items() if k in KEPT_OPTIONS}
    choices = options.get("options")
    if choices:
        dynamic = isinstance(choices[0], dict)
        kept["options"] = choices if dynamic else choices[:1]
    return [kind, kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--templates", type=Path, required=True)
    a = parser.parse_args()
    PAGES.mkdir(exist_ok=True)
    with urllib.request.urlopen(a.server + "/object_info") as answer:
        info = json.loads(answer.read())
    features = answers(a.server, a.python, feature_graphs())
    official = {
        p.stem: json.loads(p.read_text("utf-8"))
        for p in sorted(a.templates.glob("*.json"))
        if "qwen" in p.stem.lower() and not p.stem.startswith(("api_", "llm_"))
    }
    converted = answers(a.server, a.python, official)
    used = {
        e["class_type"] for api in (*features.values(), *converted.values()) for e in api.values()
    }
    classes = {name: reduced(info[name]) for name in sorted(used)}
    _write("features.json", json.dumps(features, indent=1, ensure_ascii=False) + "\n")
    _write("object_info.json", json.dumps(classes, ensure_ascii=False, separators=(",", ":")))
    pairs = {n: {"ui": without_layout(official[n]), "api": api} for n, api in converted.items()}
    packed = lzma.compress(json.dumps(pairs, ensure_ascii=False).encode(), preset=9)
    (PAGES / "templates.json.xz").write_bytes(packed)
    print(f"{len(features)} features, {len(converted)} templates, {len(classes)} classes")


def _write(name: str, text: str) -> None:
    (PAGES / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
