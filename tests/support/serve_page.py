"""Uses the server's page in headless Chromium as people do, and says what went wrong.

    python tests/support/serve_page.py --server URL [--locked URL --key KEY] [--axe axe.min.js]

Prints one JSON object: name of a check -> "" or what was wrong. --locked is a server that asks
for a key. Run by a Python with Playwright; nothing of Inkstone is imported.

Unusual: no wait_for_function, which needs eval, which the policy of the page forbids.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

try:
    from browser_check import CHROMIUM_FLAGS, find_chromium
except ImportError:
    from .browser_check import CHROMIUM_FLAGS, find_chromium

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
STAR, CIRCLE = "a blue star on a yellow background", "a red circle on a white background"
PATIENCE = 60_000  # milliseconds
COUNT_WHITE = """async text => {
    const image = new Image(); image.src = text; await image.decode();
    const c = new OffscreenCanvas(image.width, image.height).getContext('2d');
    c.drawImage(image, 0, 0);
    const d = c.getImageData(0, 0, image.width, image.height).data;
    let white = 0; for (let k = 0; k < d.length; k += 4) white += d[k] > 127;
    return [image.width, image.height, white]; }"""
AXE = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations.map(
    v => v.id + ': ' + v.nodes.map(n => n.html.slice(0, 90)).join(' '))"""
GIVE = """([kind, bytes]) => {
    const data = new DataTransfer(), raw = Uint8Array.from(atob(bytes), c => c.charCodeAt(0));
    data.items.add(new File([raw], 'a.png', {type: 'image/png'}));
    const event = kind === 'drop' ? new DragEvent('drop', {dataTransfer: data, bubbles: true})
        : new ClipboardEvent('paste', {clipboardData: data, bubbles: true});
    document.body.dispatchEvent(event); }"""
FOCUS = """() => { const n = document.activeElement, s = getComputedStyle(n.closest('.drop') || n);
    return [n.id || n.dataset.t || n.textContent || n.tagName, s.outlineStyle !== 'none']; }"""
REACHABLE = """() => [...document.querySelectorAll('button, input, select, textarea, summary, a')]
    .filter(n => n.checkVisibility() && !n.disabled).map(n => n.id || n.dataset.t || n.textContent)
"""


def png(side: int) -> bytes:
    """A grey square."""
    rows = zlib.compress((b"\0" + b"\x80\x80\x80" * side) * side)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", rows)]
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, data in [*chunks, (b"IEND", b"")]:
        whole += struct.pack(">I", len(data)) + kind + data
        whole += struct.pack(">I", zlib.crc32(kind + data))
    return whole


class Visit:
    """One reader at the page."""

    def __init__(self, page: Page, axe: str | None) -> None:
        self.page, self._axe = page, axe
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("console", lambda m: m.type == "error" and self.faults.append(f"console: {m.text}"))

    def expect(self, good: object, text: str) -> None:
        """Notes what is wrong."""
        if not good:
            self.faults.append(text)

    def open(self, url: str) -> None:
        """The page, ready."""
        self.page.goto(url)
        self.page.wait_for_selector("#tiny:not([hidden])", state="attached")  # the offers are there

    def ask(self, prompt: str, steps: int, **more: str) -> None:
        """Fills the form and draws."""
        self.page.fill("#prompt", prompt)
        self.page.evaluate("() => { document.getElementById('more').open = true; }")
        for name, value in {"steps": str(steps), **more}.items():
            self.page.fill(f"#{name}", value)
        self.page.click("#draw")

    def wait(self, expression: str) -> None:
        """Until it holds."""
        for _ in range(PATIENCE // 50):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        self.faults.append(f"never: {expression}")

    def done(self, count: int = 1) -> None:
        """Waits for that many finished jobs."""
        self.page.wait_for_selector(f"#jobs li.done >> nth={count - 1}")

    def look(self, state: str) -> None:
        """What holds in every state: nothing is cut off at the side, and axe finds nothing."""
        wide, has = self.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        self.expect(wide <= has, f"{state}: {wide} pixels wide, of {has}")
        if self._axe:
            self.page.evaluate(self._axe + "; 0")
            for violation in self.page.evaluate(AXE):
                self.faults.append(f"{state}: axe: {violation}")


def draws(visit: Visit, url: str) -> None:
    """Preview, result, its file and its graph, with progress for screen readers."""
    page = visit.page
    visit.open(url)
    visit.look("empty")
    page.evaluate(
        """() => { window.heard = []; new MutationObserver(() => heard.push(
        document.getElementById('live').textContent)).observe(
        document.getElementById('live'), {childList: true, subtree: true}); }"""
    )
    visit.ask(STAR, 60, n="2")
    page.wait_for_selector("#image[src^='data:image/jpeg']")
    visit.look("drawing")
    visit.done()
    page.wait_for_selector("#image[src^='v1/files/']")
    visit.wait("() => document.getElementById('image').naturalWidth === 128")
    visit.look("result")
    heard = page.evaluate("() => heard")
    visit.expect(any("Done" in h and STAR in h for h in heard), f"announced: {heard}")
    visit.expect(len(heard) < 9, f"{len(heard)} announcements of 60 steps: {heard}")
    visit.expect(page.locator("#jobs .thumbs img").count() == 2, "expected two thumbnails")
    with page.expect_download() as wait:
        page.click("#save")
    visit.expect(re.fullmatch(r"inkstone_\d+\.png", wait.value.suggested_filename), "PNG's name")
    with page.expect_download() as wait:
        page.click("#graph")
    graph = json.loads(Path(wait.value.path()).read_text("utf-8"))
    visit.expect(graph.get("nodes") and "links" in graph, f"no graph of the page: {list(graph)}")
    visit.expect(not page.locator("#notes").is_visible(), "there is nothing to say of it")
    visit.ask("tree", 1, n="1")
    visit.done(2)
    page.wait_for_selector("#notes li >> text=not trained on tree")
    visit.look("notes")


def uses_again(visit: Visit, url: str) -> None:
    """The settings and the seed come back, and draw the same picture; a reload keeps the list."""
    page = visit.page
    visit.open(url)
    visit.ask(CIRCLE, 2, negative="blur")
    visit.done()
    page.reload()
    visit.done()
    visit.expect(page.input_value("#prompt") == "", "the form is not empty after a reload")
    page.click("#jobs .thumbs button")
    page.click("#again")
    seed = page.locator("#status").inner_text().split()[-1]
    got = [page.input_value(f"#{name}") for name in ("prompt", "steps", "negative", "seed")]
    visit.expect(got == [CIRCLE, "2", "blur", seed], f"settings: {got}, seed {seed}")
    visit.expect(not page.is_checked("#fresh"), "the seed is not kept")
    page.click("#draw")
    visit.done(2)
    states = page.locator("#jobs .state").all_inner_texts()
    visit.expect(all(text.endswith(seed) for text in states), f"seeds: {states}")
    page.click("#tidy")
    page.wait_for_selector("#nojobs:not([hidden])")
    page.reload()
    page.wait_for_selector("#nojobs:not([hidden])")


def stops(visit: Visit, url: str) -> None:
    """A queue of two: the one that waits is shown with its place, the running one is stopped."""
    page = visit.page
    visit.open(url)
    visit.ask(CIRCLE, 100, n="4")
    visit.ask(STAR, 2, n="1")
    page.wait_for_selector("#jobs li.queued")
    visit.expect("place 1" in page.locator("#jobs li.queued .state").inner_text(), "no place")
    page.wait_for_selector("#jobs li.running progress:not([hidden])")
    visit.look("queue")
    page.click("#jobs li.running .act")
    page.wait_for_selector("#jobs li.cancelled", timeout=10_000)
    visit.done()


def edits(visit: Visit, url: str) -> None:
    """A mask by brush, eraser, undo, invert, numbers and file; what is sent is what was marked."""
    page, sent = visit.page, []
    visit.open(url)
    page.on("request", lambda r: r.method == "POST" and sent.append(r.post_data_json))
    page.set_input_files("#picture", {"name": "a.png", "mimeType": "image/png", "buffer": png(64)})
    page.wait_for_selector("#masking:not([hidden])")
    visit.expect(page.is_hidden("#shape"), "a size is asked for, which the picture has")
    page.locator("#paint").evaluate("n => n.scrollIntoView({block: 'center', behavior: 'instant'})")
    box = page.locator("#paint").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 20, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    page.click("#undo")
    visit.expect(page.is_disabled("#undo"), "undo has left strokes")
    page.click("#masking summary")
    for name, value in {"left": 8, "top": 16, "across": 60, "down": 10}.items():
        page.fill(f"#{name}", str(value))
    page.click("#mark")
    visit.expect("64 × 64" in page.locator("#mask-error").inner_text(), "no error of a rectangle")
    page.fill("#across", "24")
    page.click("#mark")
    visit.expect(page.is_hidden("#mask-error"), "the error stays")
    page.click("#invert")
    page.click("#invert")
    visit.look("mask")
    visit.ask("make the background cyan", 1)
    visit.done()
    size = page.evaluate(COUNT_WHITE, sent[-1]["mask"])
    visit.expect(size == [64, 64, 240], f"the mask that was sent: {size}")
    file = {"name": "m.png", "mimeType": "image/png", "buffer": png(8)}
    page.set_input_files("#maskfile", file)
    visit.wait("() => !document.getElementById('undo').disabled")
    page.click("#edit")
    visit.wait("() => document.getElementById('undo').disabled")
    visit.ask("make the star green", 1)
    visit.done(2)
    visit.expect("mask" not in sent[-1] and sent[-1]["image"], "an unpainted picture has a mask")


def takes_pictures(visit: Visit, url: str) -> None:
    """Drop and paste; a large picture is made smaller; what is no picture is refused."""
    page, grey = visit.page, base64.b64encode(png(600)).decode()
    visit.open(url)
    page.evaluate(GIVE, ["drop", grey])
    page.wait_for_selector("#photos li")
    visit.expect(page.input_value("#side") == "256", "the embedded model works at 256 pixels")
    page.evaluate(GIVE, ["paste", grey])
    page.wait_for_selector("#photos li >> nth=1")
    page.click("#photos button >> nth=1")
    page.click("#photos button")
    visit.expect(page.is_hidden("#masking"), "the mask stays without a picture")
    page.set_input_files("#picture", {"name": "a.txt", "mimeType": "image/png", "buffer": b"text"})
    page.wait_for_selector("#picture-error:not([hidden])")
    visit.expect("a.txt" in page.locator("#picture-error").inner_text(), "which file?")


def refuses(visit: Visit, url: str) -> None:
    """An error stands beside its field, which has the focus."""
    page = visit.page
    visit.open(url)
    page.click("#draw")
    page.wait_for_selector("#prompt-error:not([hidden])")
    visit.expect(page.evaluate("() => document.activeElement.id") == "prompt", "focus: prompt")
    visit.ask(STAR, 5000)
    page.wait_for_selector("#steps-error:not([hidden])")
    visit.expect(page.evaluate("() => document.activeElement.id") == "steps", "focus: steps")
    visit.expect(page.is_hidden("#prompt-error"), "the error before it stays")
    visit.look("error")
    visit.faults = [f for f in visit.faults if "status of 400" not in f]  # Chromium's own line


def speaks_chinese(visit: Visit, url: str) -> None:
    """In the browser's language, and the other one at a click."""
    page = visit.page
    visit.open(url)
    visit.expect(page.locator("#draw").inner_text() == "绘制", "the button is not Chinese")
    visit.expect(page.evaluate("() => document.documentElement.lang") == "zh-CN", "lang")
    visit.ask(STAR, 1)
    visit.done()
    visit.look("Chinese")
    visible = page.locator("main").inner_text().replace(STAR, "")
    words = set(re.findall(r"[A-Za-z]{2,}", visible))
    words -= {"LoRA", "CFG", "PNG", "ComfyUI", "Ctrl", "Enter", "Canny"}
    visit.expect(not words, f"English words: {words}")
    page.select_option("#language", "zh-TW")
    visit.expect(page.locator("#draw").inner_text() == "繪製", "the button is not Traditional")
    page.reload()
    visit.done()
    visit.expect(page.locator("#draw").inner_text() == "繪製", "the language is not kept")
    page.select_option("#language", "en")
    visit.expect(page.locator("#draw").inner_text() == "Draw", "the button is not English")
    visit.expect("Done" in page.locator("#jobs .state").inner_text(), "the list is not English")


def works_by_keyboard(visit: Visit, url: str) -> None:
    """Every control is reached by Tab with a visible focus; drawing and stopping need no mouse."""
    page, reached = visit.page, {}
    visit.open(url)
    page.evaluate("() => { document.getElementById('more').open = true; }")
    wanted = set(page.evaluate(REACHABLE))
    for _ in range(len(wanted) + 8):
        page.keyboard.press("Tab")
        name, visible = page.evaluate(FOCUS)
        reached[name] = visible
    visit.expect(wanted <= reached.keys(), f"not reached: {wanted - reached.keys()}")
    dull = [name for name in wanted if reached.get(name) is False]
    visit.expect(not dull, f"focus cannot be seen: {dull}")
    page.focus("#prompt")
    page.keyboard.type(CIRCLE)
    page.keyboard.press("Control+Enter")
    visit.done()
    page.focus("#jobs .act")
    page.keyboard.press("Enter")
    page.wait_for_selector("#nojobs:not([hidden])")
    visit.expect(page.evaluate("() => document.activeElement.id") == "line", "the focus is lost")


def fits_a_phone(visit: Visit, url: str) -> None:
    """390 pixels wide in every state; no motion where none is wanted."""
    page = visit.page
    visit.open(url)
    visit.look("empty")
    motion = "() => getComputedStyle(document.getElementById('wait')).animationName"
    visit.expect(page.evaluate(motion) == "none", "motion that is not wanted")
    visit.ask("W" * 200, 1)
    visit.done()
    visit.look("long prompt")
    page.click("#edit")
    page.wait_for_selector("#masking:not([hidden])")
    page.click("#masking summary")
    page.click("#addcontrol")
    visit.look("mask")
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, input:not([type=checkbox]), select')]
        .filter(n => n.checkVisibility() && n.getBoundingClientRect().height < 43)
        .map(n => n.id || n.textContent)"""
    )
    visit.expect(set(small) <= {"broad"}, f"too small for a finger: {small}")


def asks_for_a_key(visit: Visit, url: str, key: str) -> None:
    """A wrong key gets a sentence, the right one stays for the tab."""
    page = visit.page
    page.goto(url)
    page.wait_for_selector("#keyfield:not([hidden])")
    visit.look("key")
    page.fill("#key", "wrong" * 5)
    page.click("#usekey")
    page.wait_for_selector("#key-error:not([hidden])")
    page.fill("#key", key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#keyfield", state="hidden")
    page.reload()
    page.wait_for_selector("#examples button")
    visit.ask(STAR, 1)
    visit.done()
    visit.faults = [f for f in visit.faults if "status of 401" not in f]  # Chromium's own line


@contextmanager
def visiting(browser: Browser, axe: str | None, check: Callable) -> Iterator[Visit]:
    """A new reader, with what the check needs."""
    phone, chinese = check is fits_a_phone, check is speaks_chinese
    context = browser.new_context(
        viewport=PHONE if phone else DESK,
        color_scheme="dark" if phone or chinese else "light",
        reduced_motion="reduce" if phone else "no-preference",
        locale="zh-CN" if chinese else "en-US",
    )
    try:
        yield Visit(context.new_page(), axe)
    finally:
        context.close()


CHECKS = (
    draws,
    uses_again,
    stops,
    edits,
    takes_pictures,
    refuses,
    speaks_chinese,
    works_by_keyboard,
    fits_a_phone,
    asks_for_a_key,
)


def main() -> int:
    """Runs all checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--locked")
    parser.add_argument("--key", default="")
    parser.add_argument("--axe", type=Path)
    arguments = parser.parse_args()
    axe = arguments.axe and arguments.axe.read_text("utf-8")
    results: dict[str, str] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(CHROMIUM_FLAGS)
        )
        for check in CHECKS:
            with visiting(browser, axe, check) as visit:
                try:
                    if check is not asks_for_a_key:
                        check(visit, arguments.server)
                    elif arguments.locked:
                        check(visit, arguments.locked, arguments.key)
                except Exception as error:  # a check that breaks off is a fault like others
                    visit.faults.append(f"{type(error).__name__}: {str(error)[:400]}")
                results[check.__name__] = "\n".join(visit.faults)
        browser.close()
    json.dump(results, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
