"""Targets: graphs, node lists, jobs, journals, prompts, options, poses, answers with boxes."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

from inkstone.controlnet.preprocess.keypoints import canvas_of, read_people
from inkstone.files.png import read_text_chunks
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.draw.option_values import parse_values
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.queue.job_line import parse_object, read_defaults
from inkstone.headless.queue.jobs import in_order, read_jobs
from inkstone.headless.queue.journal import Results
from inkstone.headless.workflow.check import check_file
from inkstone.headless.workflow.load import interfaces, read_graph_file
from inkstone.headless.workflow.memory_estimate import memory_lines
from inkstone.headless.workflow.node_info import read_interfaces
from inkstone.headless.workflow.pin import write_pinned
from inkstone.headless.workflow.set_inputs import apply_settings
from inkstone.headless.workflow.text_templates import expand_choices, fill_places
from inkstone.headless.workflow.to_inkstone import to_inkstone
from inkstone.headless.workflow.to_ui import ui_from_api
from inkstone.host.headless import HeadlessHost, using
from inkstone.loaders.lora.adapters import parse_blocks
from inkstone.pipeline.find_boxes import read_boxes
from inkstone.sampling.prompt_tags import prompt_tags

from .files import emptied, folder, split, written

_NODE_LIST = Path(__file__).resolve().parents[1] / "support" / "pages" / "object_info.json"


@functools.lru_cache(maxsize=1)
def _classes() -> dict:
    return interfaces(node_classes()) | read_interfaces(str(_NODE_LIST))


def _host() -> HeadlessHost:
    for name in ("models", "input", "output"):
        (folder() / name).mkdir(exist_ok=True)
    return HeadlessHost(
        models=(folder() / "models",), input=folder() / "input", output=folder() / "output"
    )


def fuzz_graph(data: bytes) -> None:
    """`inkstone check`: a graph file of either form, checked and planned."""
    file = read_graph_file(written("graph.json", data))
    with using(_host()):
        verdict, graph = check_file(file)
        json.dumps(vars(verdict))
        if file.ui is not None:
            write_pinned(file, graph, folder() / "pinned.json")
        if graph is not None and not verdict.missing:
            memory_lines(graph)


def fuzz_convert(data: bytes) -> None:
    """`inkstone convert`: a workflow of the page -> the API graph."""
    file = read_graph_file(written("workflow.json", data))
    json.dumps(file.as_api(_classes(), ran=False))


def fuzz_to_inkstone(data: bytes) -> None:
    """`inkstone convert --to-inkstone`."""
    file = read_graph_file(written("official.json", data))
    with using(_host()):
        graph, _ = to_inkstone(file.ui if file.ui is not None else file.api or {})
    json.dumps(graph)


def fuzz_to_ui(data: bytes) -> None:
    """An API graph -> the workflow that the page shows."""
    file = read_graph_file(written("api.json", data))
    classes = node_classes()
    with using(_host()):
        json.dumps(ui_from_api(file.api or {}, classes))


def fuzz_set_input(data: bytes) -> None:
    """`--set NODE.INPUT=VALUE` on a graph."""
    setting, graph = split(data, 2)
    file = read_graph_file(written("set.json", graph))
    parsed = parse_graph(file.as_api(_classes()))
    apply_settings(parsed, [setting.decode("utf-8", "replace")], node_classes(), file.ui)


def fuzz_object_info(data: bytes) -> None:
    """A server's node list, and a workflow read by it."""
    for interface in read_interfaces(str(written("object_info.json", data))).values():
        list(interface.values([1, "two", None, {}, [3], 4.5, True]))
        interface.rest([1, "two"])


def fuzz_png_text(data: bytes) -> None:
    """The texts of a PNG, and the graph in them."""
    path = written("picture.png", data)
    read_text_chunks(path)
    read_graph_file(path)


def fuzz_jobs(data: bytes) -> None:
    """A file of jobs, and defaults for it."""
    defaults, lines = split(data, 2)
    path = written("defaults.json", defaults or b"{}")
    in_order(read_jobs(written("jobs.jsonl", lines), read_defaults(path), lambda job: None))


def fuzz_journal(data: bytes) -> None:
    """The results of an earlier run in a queue's folder."""
    home = emptied("queue")
    (home / "results.jsonl").write_bytes(data)
    jobs = read_jobs(written("one.jsonl", b'{"id": "a", "prompt": "x"}'), {})
    with Results(home) as results:
        results.is_done(jobs[0]), results.has_failed(jobs[0])


def fuzz_prompt(data: bytes) -> None:
    """Tags and choices in a prompt, places in a file name."""
    text = data.decode("utf-8", "replace")
    prompt_tags(text)
    expand_choices(text)
    fill_places(text, {"a": {"b": text[:10]}})


def fuzz_options(data: bytes) -> None:
    """Values of `draw`'s options, as a job line gives them; block strengths of a LoRA."""
    text = data.decode("utf-8", "replace")
    values = parse_values(parse_object(text))
    for value in values.values():
        if isinstance(value, str):
            parse_blocks(value)


def fuzz_keypoints(data: bytes) -> None:
    """Poses as JSON."""
    text = data.decode("utf-8", "replace")
    read_people(text, (640, 480))
    canvas_of(text)


logging.getLogger("inkstone").addHandler(logging.NullHandler())


def fuzz_boxes(data: bytes) -> None:
    """An answer of the text encoder with boxes in it."""
    width, height = 333, 71
    text = data.decode("utf-8", "replace")
    for box in read_boxes(text, "thing", (308, 84), (width, height)).boxes:
        left, top, right, bottom = box.span
        assert 0 <= left < right <= width and 0 <= top < bottom <= height and box.label
