"""One run of a graph: only what the target nodes need, in order, with a cache by content.

A node's content key is a digest of its class, constants and fingerprint, and of its ancestors'
keys: equal keys mean equal results, whatever the node ids.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from ...errors import InkstoneError
from ...files.png import ensure_writable
from ...host import directories, headless, progress
from ...host.api import io
from ...host.headless import HeadlessHost
from ...host.model_folders import model_stamp
from ..node_types import Json, NodeClass, NodeClasses, Value
from ..notes import noted, repeat
from .api_graph import Graph, Link, Node, to_api
from .events import Event, NodeError, OnEvent, RunResult
from .input_values import schema_of
from .invoke import as_node_output, awaited, guarded, inference, overrides, with_hidden
from .result_cache import ResultCache
from .validation import output_nodes, validate


@dataclasses.dataclass(frozen=True)
class Blocked:
    """The value of all outputs of a node that blocked the nodes after it."""

    reason: str


Outputs: TypeAlias = "tuple[Value, ...] | Blocked"


class GraphRun:
    """One run: the state between its nodes."""

    def __init__(
        self,
        nodes: NodeClasses,
        cache: ResultCache[Outputs],
        graph: Graph,
        host: HeadlessHost,
        emit: OnEvent,
        links: Sequence[Link] | None = None,
    ) -> None:
        """links: the outputs to compute; None: those of the output nodes."""
        self.nodes, self.cache = nodes, cache
        self.host, self.emit = host, emit
        sources = None if links is None else list(dict.fromkeys(link.node for link in links))
        self.graph = validate(graph, self.nodes, targets=sources)
        self.targets = output_nodes(self.graph, self.nodes) if sources is None else sources
        self.links = tuple(links or ())
        self.schemas = {key: schema_of(self.nodes[n.class_type]) for key, n in self.graph.items()}
        self.hidden: dict[str, Json] = {"PROMPT": to_api(graph)}
        self.keys: dict[str, str] = {}
        self.unread: dict[str, list[int]] = {}
        self.values: dict[str, Outputs] = {}
        self.result = RunResult()
        self.last = False  # no run comes after it: values leave with their last reader
        self.readers: Counter[tuple[str, int]] = Counter()  # nodes to come, by what they read

    def execute(self) -> RunResult:
        """Run the target nodes and all that they need."""
        started = time.perf_counter()
        if not self.links:
            self._check_output_folder(self.targets)
        order = self.identify()
        self.emit(Event("start", data={"nodes": order}))
        self.cache.drop_unused({self.keys[key] for key in order})
        if self.last:
            self._count_readers()
        try:
            for target in self.targets:
                self._resolve(target)
        finally:
            if self.last:
                self.cache.drop_unused(())  # some are no longer whole
        self.result.seconds = time.perf_counter() - started
        self.emit(Event("done", data={"seconds": self.result.seconds}))
        return self.result

    def identify(self) -> list[str]:
        """The nodes that are needed, in their order, with their content keys."""
        order = self._order(self.targets)
        self.unread = self._unread(order)
        for key in order:
            self._refuse_unsupported(key)
            self.keys[key] = self._content_key(key)
        return order

    def _check_output_folder(self, targets: list[str]) -> None:
        """Fail early if a picture could not be saved after minutes of work."""
        classes = [self.nodes[self.graph[key].class_type] for key in targets]
        if any(getattr(node_class, "WRITES_TO", "output") == "output" for node_class in classes):
            ensure_writable(directories.output_directory())

    def _order(self, targets: list[str]) -> list[str]:
        """The targets and all their ancestors, ancestors first (the graph has no cycle)."""
        order: dict[str, None] = {}
        stack = list(reversed(targets))
        while stack:
            parents = [link.node for link in self.graph[stack[-1]].links().values()]
            missing = [key for key in parents if key not in order]
            if missing:
                stack.extend(missing)
            else:
                order[stack.pop()] = None
        return list(order)

    def _unread(self, order: Sequence[str]) -> dict[str, list[int]]:
        """Unconnected output slots, of the nodes whose class skips such outputs (SKIPS_UNREAD).
        Empty if a sampler may read a negative prompt that the positive one carries.
        """
        for key in order:
            needs = getattr(self.nodes[self.graph[key].class_type], "needs_negative", None)
            if needs is not None and needs(self.graph[key].inputs):
                return {}
        read = {(link.node, link.slot) for link in self.links}
        for key in order:
            read |= {(link.node, link.slot) for link in self.graph[key].links().values()}
        return {
            key: [slot for slot in slots if (key, slot) not in read]
            for key in order
            if (slots := getattr(self.nodes[self.graph[key].class_type], "SKIPS_UNREAD", ()))
        }

    def value(self, link: Link) -> Value:
        """A computed output."""
        values = self.values[link.node]
        if isinstance(values, Blocked):
            reason = InkstoneError(f"It stopped the graph: {values.reason}")
            raise NodeError(self.graph[link.node], reason)
        return values[link.slot]

    def _refuse_unsupported(self, key: str) -> None:
        schema, node = self.schemas[key], self.graph[key]
        if schema.is_input_list or any(out.is_output_list for out in schema.outputs or []):
            raise NodeError(node, InkstoneError("Nodes with list sockets do not run headless."))

    def _content_key(self, key: str) -> str:
        """A digest of the class, its constants and fingerprint, and its ancestors' digests."""
        node, schema = self.graph[key], self.schemas[key]
        inputs = {
            name: ["link", self.keys[value.node], value.slot] if isinstance(value, Link) else value
            for name, value in node.inputs.items()
        }
        fixed = io.Hidden.unique_id in (schema.hidden or []) or schema.not_idempotent
        parts = [
            node.class_type,
            inputs,
            self._fingerprint(node),
            self._stamps(node),
            key if fixed else None,
            [str(path) for path in (*self.host.models, self.host.input)],
            [self.host.device, self.host.memory],
            self.unread.get(key),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()

    def _stamps(self, node: Node) -> list[Json]:
        """What the system keeps of the files that a loader names: a file that was replaced is
        loaded again.
        """
        files = getattr(self.nodes[node.class_type], "FILES", {})
        names = node.constants(list(files))
        return [model_stamp(files[i].folder, name) for i, name in names.items() if name]

    def _fingerprint(self, node: Node) -> Value:
        node_class = self.nodes[node.class_type]
        if not overrides(node_class, "fingerprint_inputs"):
            return None
        names = list(inspect.signature(node_class.fingerprint_inputs).parameters)
        constants = node.constants(names)
        return guarded(node, lambda: node_class.fingerprint_inputs(**constants))

    def _resolve(self, target: str) -> None:
        """Compute `target` after its ancestors, without recursion."""
        stack = [target]
        while stack:
            key = stack[-1]
            if key in self.values or self._from_cache(key):
                stack.pop()
            elif missing := self._missing(key):
                stack.extend(reversed(missing))
            else:
                self._compute(key)
                if self.last:
                    self._release(key)
                stack.pop()

    def _sources(self, key: str) -> set[tuple[str, int]]:
        """The outputs that a node reads, by content key and slot."""
        return {(self.keys[link.node], link.slot) for link in self.graph[key].links().values()}

    def _count_readers(self) -> None:
        """Count the nodes that will run, by what they read; drop results that none of them does."""
        stack, run = list(self.targets), set[str]()
        while stack:
            key = stack.pop()
            if key not in run and self.keys[key] not in self.cache:
                run.add(key)
                stack.extend(link.node for link in self.graph[key].links().values())
        self.readers.update(source for key in run for source in self._sources(key))
        read = {content for content, _ in self.readers}
        self.cache.drop_unused(read | {self.keys[target] for target in self.targets})
        self._keep_read(read)

    def _release(self, key: str) -> None:
        """Drop what this node was the last to read: a picture may take hundreds of megabytes."""
        sources = self._sources(key)
        self.readers.subtract(sources)
        self._keep_read({content for content, slot in sources if not self.readers[content, slot]})

    def _keep_read(self, contents: set[str]) -> None:
        """Of these results, keep the outputs that a node to come reads."""
        contents = contents - {self.keys[target] for target in self.targets}
        for content in contents & self.cache.keys():
            self.cache.replace(content, self._read_of(content, self.cache[content]))
        for node in [node for node in self.values if self.keys[node] in contents]:
            self.values[node] = self._read_of(self.keys[node], self.values[node])

    def _read_of(self, content: str, values: Outputs) -> Outputs:
        if isinstance(values, Blocked):
            return values
        slots = enumerate(values)
        return tuple(value if self.readers[content, slot] else None for slot, value in slots)

    def _from_cache(self, key: str) -> bool:
        if self.schemas[key].is_output_node or self.keys[key] not in self.cache:
            return False
        self.values[key] = self.cache[self.keys[key]]
        repeat(self.cache.notes.get(self.keys[key], ()))
        self.result.cached.append(key)
        self.emit(Event("cached", key))
        return True

    def _missing(self, key: str) -> list[str]:
        """Ids of nodes that must run before this one: lazy inputs only if it requests them."""
        node = self.graph[key]
        lazy = {item.id for item in self.schemas[key].inputs or [] if item.lazy}
        open_links = {
            name: link.node for name, link in node.links().items() if link.node not in self.values
        }
        missing = [source for name, source in open_links.items() if name not in lazy]
        if missing or not open_links:
            return missing
        inputs = self._inputs(node)
        if any(isinstance(value, Blocked) for value in inputs.values()):
            return []
        node_class = self._class_for_run(key)
        names = guarded(node, lambda: node_class.check_lazy_status(**inputs)) or []
        return [open_links[name] for name in names if name in open_links]

    def _inputs(self, node: Node) -> dict[str, Value]:
        """The node's inputs by name; None for a link that was not computed."""
        return {
            name: self._linked(value) if isinstance(value, Link) else value
            for name, value in node.inputs.items()
        }

    def _linked(self, link: Link) -> Value:
        values = self.values.get(link.node)
        return values[link.slot] if isinstance(values, tuple) else values

    def _class_for_run(self, key: str) -> NodeClass:
        node_class = self.nodes[self.graph[key].class_type]
        return with_hidden(node_class, self.schemas[key], self.hidden | {"UNIQUE_ID": key})

    def _compute(self, key: str) -> None:
        node, inputs = self.graph[key], self._inputs(self.graph[key])
        blocked = next((value for value in inputs.values() if isinstance(value, Blocked)), None)
        if blocked is not None:
            self.values[key], self.result.blocked[key] = blocked, blocked.reason
            return
        progress.throw_if_interrupted()
        about = {"class_type": node.class_type, "title": node.title}
        self.emit(Event("executing", key, about | {"unread": self.unread.get(key, [])}))
        started, node_class = time.perf_counter(), self._class_for_run(key)
        host, schema = self._reporting_host(key), self.schemas[key]
        with noted() as notes, headless.using(host), inference(schema):
            result = guarded(node, lambda: awaited(node_class.execute(**inputs)))
            output = as_node_output(result)
        self._store(key, output)
        self.cache.note(self.keys[key], notes)
        seconds = time.perf_counter() - started
        self.emit(Event("executed", key, {"ui": self.result.outputs.get(key), "seconds": seconds}))

    def _reporting_host(self, key: str) -> HeadlessHost:
        """The host of the run; its progress also becomes events of this node."""

        def report(value: int, total: int, preview: Value) -> None:
            if self.host.on_progress is not None:
                self.host.on_progress(value, total, preview)
            self.emit(Event("progress", key, {"value": value, "max": total, "preview": preview}))

        unread = frozenset(self.unread.get(key, ()))
        return dataclasses.replace(self.host, on_progress=report, unread=unread)

    def _store(self, key: str, output: io.NodeOutput) -> None:
        node, schema = self.graph[key], self.schemas[key]
        if output.expand is not None:
            raise NodeError(
                node, InkstoneError("Nodes that expand into a graph do not run headless.")
            )
        count = len(schema.outputs or [])
        if output.block_execution is not None:
            self.values[key] = Blocked(output.block_execution)
            self.result.blocked[key] = output.block_execution
        elif len(output.args) not in (count, 0) or (
            count and not output.args and output.ui is None
        ):
            got = f"Its execute() must return {count} values, got {len(output.args)}."
            raise NodeError(node, InkstoneError(got))
        else:
            self.values[key] = tuple(output.args) or (None,) * count
        if not schema.is_output_node:
            node_class = self.nodes[node.class_type]
            keep = getattr(node_class, "KEEP_RESULTS", False)
            if hasattr(node_class, "FILES") and not node.links():
                name = json.dumps([node.class_type, node.inputs], sort_keys=True, default=repr)
                self.cache.store_model(self.keys[key], self.values[key], name)
            else:
                self.cache.store(self.keys[key], self.values[key], keep)
        self.result.executed.append(key)
        if output.ui is not None:
            self.result.outputs[key] = (
                output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
            )
