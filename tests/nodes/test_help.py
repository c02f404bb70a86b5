"""Every node has a help page with a picture, a Chinese name for all it shows, aliases, defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from inkstone.headless.graph.input_values import is_widget
from inkstone.host import api as host_module
from inkstone.nodes import NODES
from scripts.web import build

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# characters that Taiwan does not write, and that our zh texts are full of
SIMPLIFIED = set("载图层编码权给随机样张种调节点显类强应来线设变则数个为这与网络输")
# what is called the same in Chinese
SAME = {"vae", "lora", "dtype", "cfg", "latent", "sigmas", "VAE", "LoRA", "CFG", "Latent", "Sigmas"}


SCHEMAS = {schema.node_id: schema for schema in (node.define_schema() for node in NODES)}


def test_no_schema_is_refused_by_the_host():
    """One refused schema and ComfyUI loads none of our nodes."""
    for node in NODES:
        node.GET_SCHEMA()


def test_pages_are_what_the_builder_writes():
    made = build.render_all()
    kept = {p.relative_to(DOCS).as_posix(): p.read_text("utf-8") for p in DOCS.rglob("*.md")}
    assert sorted(kept) == sorted(made), "run python scripts/web/build.py"
    assert [p for p in made if kept[p] != made[p]] == [], "run python scripts/web/build.py"


def test_every_chinese_text_has_its_counterpart_for_taiwan():
    table = json.loads((ROOT / "scripts" / "web" / "traditional.json").read_text("utf-8"))
    wanted = build.chinese_texts()
    assert [text for text in wanted if not table.get(text)] == [], (
        "run python scripts/web/traditional.py"
    )
    assert sorted(set(table) - set(wanted)) == [], "no zh text says this any more"
    simplified = {text: sorted(set(text) & SIMPLIFIED) for text in table.values()}
    assert {text: found for text, found in simplified.items() if found} == {}


def test_locales_are_what_the_builder_writes():
    for name, text in build.render_locales().items():
        assert (ROOT / "locales" / name).read_text("utf-8") == text, (
            "run python scripts/web/build.py"
        )


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_node_has_words_and_a_picture(name):
    from PIL import Image

    en, zh = build.PAGES[name]
    assert len(en) > 40 and CHINESE.search(zh) and not CHINESE.search(en)
    picture = DOCS / "pictures" / f"{name}.jpg"
    assert picture.is_file(), f"{name}: run tests/support/help_pictures.py on a server"
    assert picture.stat().st_size < 60_000
    assert min(Image.open(picture).size) >= 60


def test_no_page_for_what_does_not_exist():
    assert set(build.PAGES) == set(SCHEMAS)
    assert {p.stem for p in (DOCS / "pictures").glob("*.jpg")} == set(SCHEMAS)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_chinese_is_whole(name):
    schema, translated = SCHEMAS[name], build.translations().get(name)
    assert translated, f"{name} is not in locales/zh/nodeDefs.json"
    key = build.key_of
    wanted = {key(item.id) for item in schema.inputs}
    grown = {item.id.split(".")[0] for item in schema.inputs if "." in item.id}
    assert set(translated["inputs"]) == wanted | grown, name
    assert set(translated["outputs"]) == {str(i) for i in range(len(schema.outputs))}
    assert CHINESE.search(translated["display_name"]) and CHINESE.search(translated["description"])
    for item, words in translated["inputs"].items():
        assert CHINESE.search(words["tooltip"]), f"{name}.{item}"
        same = words["name"] in SAME or re.fullmatch(r"LoRA \d+|VAE|LoRA", words["name"])
        assert CHINESE.search(words["name"]) or same, f"{name}.{item}: {words['name']}"


def test_chinese_categories():
    translated = json.loads((ROOT / "locales" / "zh" / "main.json").read_text("utf-8"))
    parts = {part for schema in SCHEMAS.values() for part in schema.category.split("/")}
    assert parts <= set(translated["nodeCategories"])
    own = {i.get_io_type() for s in SCHEMAS.values() for i in s.inputs}
    assert {kind for kind in own if kind.startswith("INKSTONE_")} <= set(translated["dataTypes"])


# script -> the file with its Chinese, and what each entry has
SCRIPTS = {"menu": ("commands.json", ["label"]), "settings": ("settings.json", ["name", "tooltip"])}


def test_chinese_of_the_menu_and_the_settings():
    """The page looks up a command or a setting by its id, with _ for each dot."""
    scripts = {name: (ROOT / "web" / f"{name}.js").read_text("utf-8") for name in SCRIPTS}
    for name, (file, fields) in SCRIPTS.items():
        ids = re.findall(r'\bid: "(Inkstone\.\w+)"', scripts[name])
        translated = json.loads((ROOT / "locales" / "zh" / file).read_text("utf-8"))
        assert sorted(translated) == sorted(i.replace(".", "_") for i in ids) and ids
        for words in translated.values():
            assert sorted(words) == fields and all(CHINESE.search(w) for w in words.values())
    stored = (ROOT / "host" / "settings.py").read_text("utf-8")
    for name in re.findall(r'\bid: "(Inkstone\.\w+)"', scripts["settings"]):
        assert f'"{name}"' in stored, f"host/settings.py does not read {name}"
    words = (ROOT / "web" / "words.js").read_text("utf-8")
    tables = re.findall(r"^  \S+: \{\n(.*?)^  \}", words, re.M | re.S)
    names = [set(re.findall(r"^    (\w+):", table, re.M)) for table in tables]
    assert len(names) == 3 and names[1] == names[2]
    assert names[0] - names[1] == {"use", "check", "failed"}  # the page's, and a name


def test_no_translation_for_what_does_not_exist():
    assert set(build.translations()) == set(SCHEMAS)


def test_every_node_is_found_by_other_words_and_has_defaults(monkeypatch):
    asked = {}
    plain = host_module.schema

    def seen(**fields):
        old = fields.get("is_deprecated", False)  # the page hides these
        asked[fields["node_id"]] = fields.get("search_aliases", []) or old
        return plain(**fields)

    for node in NODES:
        module = __import__(node.__module__, fromlist=["schema"])
        monkeypatch.setattr(module, "schema", seen)
        schema = node.define_schema()
        assert asked[schema.node_id], f"{schema.node_id} has no search aliases"
        for item in schema.inputs:
            if is_widget(item) and item.get_io_type() != "COMBO":  # a list of files may be empty
                assert item.default is not None, f"{schema.node_id}.{item.id} has no default"


def test_comfyui_finds_the_pages():
    import inkstone

    assert (ROOT / inkstone.WEB_DIRECTORY / "docs").is_dir()
    assert (ROOT / "web" / "inkstone.js").is_file()
