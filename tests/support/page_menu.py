"""Our menu in ComfyUI's page on the official templates, and our part of its settings dialog."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from .page_desk import LOCALE, ROOT, Desk, Wrong, workflow
from .page_messages import _run
from .page_widgets import API

CORE = {"UNETLoader", "CLIPLoader", "VAELoader"}
OURS = {"InkstoneLoadDiffusionModel", "InkstoneLoadTextEncoder", "InkstoneLoadVAE"}
# Classes of all nodes, those in subgraphs too.
KINDS = """() => { const all = []; const go = graph => { for (const n of graph._nodes) {
    all.push(n.type); if (n.subgraph) go(n.subgraph); } };
    go(app.rootGraph ?? app.graph); return all; }"""
COMMAND = "async id => { await app.extensionManager.command.execute(id); }"
TOLD = """() => [...document.querySelectorAll(
        '[data-sonner-toast], .p-toast-message, [role=alert]')].map(e => e.innerText).join('\\n')"""
QUIET = """() => { app.extensionManager.toast.removeAll?.();
    for (const e of document.querySelectorAll('[role=dialog] button[aria-label=Close]'))
        e.click(); }"""
SETTING = "async ([id, value]) => { await app.extensionManager.setting.set(id, value); }"
LABELS = """() => app.extensionManager.command.commands
    .filter(c => c.id.startsWith('Inkstone.')).map(c => c.id)"""


def official(desk: Desk) -> list[str]:
    """Names of the official templates of Qwen-Image's weights that the server has."""
    groups = desk.get("/templates/index.json")
    names = [item["name"] for group in groups for item in group["templates"]]
    return [n for n in names if "qwen" in n.lower() and not n.startswith(("api_", "llm_"))]


def exchanges(desk: Desk) -> str:
    """Use Inkstone loaders on every official template: each loader of Qwen-Image becomes two nodes
    of ours, nothing else changes, one undo brings the graph back.
    """
    names, exchanged, kept = official(desk), 0, []
    if len(names) < 10:
        raise Wrong(f"only {names} are official templates")
    for name in names:
        desk.page.evaluate(QUIET)
        desk.show(desk.get(f"/templates/{name}.json"), 500)
        before, kinds = desk.page.evaluate(API), Counter(desk.page.evaluate(KINDS))
        desk.page.evaluate(COMMAND, "Inkstone.UseLoaders")
        desk.page.wait_for_timeout(700)
        count = _exchanged(desk, name, before, kinds)
        exchanged += count
        kept += [] if count else [name]
        if not count:
            continue
        desk.page.evaluate(COMMAND, "Comfy.Undo")
        desk.page.wait_for_timeout(900)
        if (after := desk.page.evaluate(API)) != before:
            changed = [k for k in {*after, *before} if after.get(k) != before.get(k)]
            raise Wrong(f"{name}: one undo does not bring back {changed}")
    desk.shoot("exchanged")
    if kept:
        raise Wrong(f"nothing was exchanged in {kept}")
    return f"{exchanged} loaders in {len(names) - len(kept)} of {len(names)} templates, each undone"


def _exchanged(desk: Desk, name: str, before: dict[str, Any], kinds: Counter[str]) -> int:
    """The number of exchanged loaders; Wrong if anything else changed."""
    after, now = desk.page.evaluate(API), Counter(desk.page.evaluate(KINDS))
    gone = sum((kinds - now).values())
    if set(kinds - now) - CORE or sum((now - kinds).values()) != 2 * gone:
        raise Wrong(f"{name}: {kinds - now} became {now - kinds}")
    if sum(now[kind] for kind in OURS) != gone:
        raise Wrong(f"{name}: {gone} loaders gone, ours now {now}")
    others = {k: v for k, v in before.items() if v.get("class_type") not in CORE}
    if changed := [key for key, node in others.items() if after.get(key) != node]:
        raise Wrong(f"{name}: the nodes {changed} changed")
    files = sorted(str(v["inputs"]) for v in before.values() if v.get("class_type") in CORE)
    text = " ".join(str(v["inputs"]) for v in after.values())
    lost = [
        f for f in files for part in f.split("'") if part.endswith("tensors") and part not in text
    ]
    if lost:
        raise Wrong(f"{name}: files that nothing names any more: {lost}")
    told = desk.page.evaluate(TOLD)
    if gone and f"{gone} loaders exchanged" not in told:
        raise Wrong(f"{name}: {gone} loaders exchanged, the page says {told!r}")
    return gone


def checks(desk: Desk) -> str:
    """Check this graph: a graph that runs with its memory, one whose files are missing."""
    desk.page.evaluate(QUIET)
    desk.show(workflow("text_to_image_embedded"))
    good = _told(desk, "Models and sockets are in order", "Memory at 128x128")
    desk.page.evaluate(QUIET)
    desk.page.evaluate(
        f"() => {{ const n = {desk.node('InkstoneDenoise')};"
        "n.disconnectInput(n.inputs.findIndex(i => i.name == 'positive')); }"
    )
    _told(desk, "will not run here", "nothing is connected to positive")
    desk.page.evaluate(QUIET)
    # no shipped graph names its model, so that there is no placeholder of it
    desk.show(desk.get("/templates/image_qwen_image_edit.json"))
    absent = "qwen_image_edit_fp8_e4m3fn.safetensors: not in models/"
    bad = _told(desk, "will not run here", absent)
    for words in (good, bad):
        if "/" in words.replace("models/", "").replace("https://", "").split("get it from")[0]:
            raise Wrong(f"a folder of this machine is named: {words!r}")
    desk.page.evaluate(QUIET)
    return "memory of a graph that runs; an input and files that are missing"


def _told(desk: Desk, *parts: str) -> str:
    desk.page.evaluate(COMMAND, "Inkstone.Check")
    desk.page.wait_for_timeout(2500)
    told = desk.page.evaluate(TOLD)
    desk.shoot("checked")
    if missing := [part for part in parts if part not in told]:
        raise Wrong(f"the page does not say {missing}: {told!r}")
    return told


def chinese(desk: Desk) -> str:
    """The menu and the settings in Chinese, the entry chosen with the mouse."""
    page = desk.page
    desk.fresh((LOCALE, "zh"))
    try:
        desk.show(workflow("text_to_image_embedded"))
        page.locator("[data-testid=comfy-menu-button], .comfy-menu-button-wrapper").first.click()
        page.wait_for_timeout(800)
        page.get_by_role("menuitem").get_by_text("Inkstone", exact=True).first.hover()
        page.wait_for_timeout(800)
        desk.shoot("menu-zh")
        if "改用 Inkstone 加载器" not in desk.text():
            raise Wrong("the menu has no Chinese entry for the loaders")
        page.get_by_text("检查此工作流", exact=True).first.click()
        page.wait_for_timeout(2500)
        if "模型和接口都没有问题" not in (told := page.evaluate(TOLD)):
            raise Wrong(f"the entry that was clicked says {told!r}")
        page.evaluate(COMMAND, "Comfy.ShowSettingsDialog")
        page.wait_for_timeout(2000)
        page.get_by_role("dialog").get_by_text("Inkstone", exact=True).first.click()
        page.wait_for_timeout(1000)
        desk.shoot("settings-zh")
        data = json.loads((ROOT / "locales" / "zh" / "settings.json").read_text("utf-8"))
        if missing := [v["name"] for v in data.values() if v["name"] not in desk.text()]:
            raise Wrong(f"settings without their Chinese: {missing}")
        return f"two entries, one clicked, and {len(data)} settings"
    finally:
        desk.fresh((LOCALE, "en"))


def settings(desk: Desk) -> str:
    """A memory limit that is too small stops a run and is named; previews can be switched off."""
    desk.show(workflow("text_to_image_embedded"))
    try:
        desk.page.evaluate(SETTING, ["Inkstone.MemoryLimit", 0.05])
        desk.page.wait_for_timeout(500)
        start = desk.log.stat().st_size
        desk.page.evaluate(f"() => {{ {desk.node('InkstoneDenoise')}.widgets[0].value++; }}")
        end, log = _run(desk), desk.log.read_bytes()[start:].decode("utf-8", "replace")
        if end != "execution_error" or "memory limit of the settings is 0.05 GB" not in log:
            raise Wrong(f"with a limit of 0.05 GB the run ended with {end}; log: {log[-800:]}")
    finally:
        desk.page.evaluate(SETTING, ["Inkstone.MemoryLimit", 0])
    previews = []
    for on in (False, True):
        desk.page.evaluate(SETTING, ["Inkstone.Previews", on])
        desk.page.wait_for_timeout(500)
        desk.page.evaluate("""() => { window.pictures = 0; if (window.counts) return;
            window.counts = true;
            for (const kind of ['b_preview', 'b_preview_with_metadata'])
                app.api.addEventListener(kind, () => window.pictures++); }""")
        desk.page.evaluate(f"() => {{ {desk.node('InkstoneDenoise')}.widgets[0].value++; }}")
        if (end := _run(desk)) != "execution_success":
            raise Wrong(f"without a limit the run ended with {end}")
        previews.append(desk.page.evaluate("() => window.pictures"))
    if previews[0] or not previews[1]:
        raise Wrong(f"previews switched off and on: {previews}")
    return f"0.05 GB refused and in the log; previews off and on: {previews}"
