"""Tiny node classes without torch models, for the tests of the executor."""

from __future__ import annotations

from inkstone.headless.core_nodes.registry import CORE_NODES
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.host import progress
from inkstone.host.api import io

CALLS: list[str] = []
Thing = io.Custom("INKSTONE_THING")


class Number(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Number",
            display_name="A number",
            inputs=[
                io.Int.Input("seed", default=1, min=0, max=100),
                io.Int.Input("size", default=32, min=16, max=64, step=16),
                io.Float.Input("scale", default=1.0, min=0.0, max=2.0, step=0.1),
                io.Combo.Input("mode", options=["plain", "double"], default="plain"),
                io.Boolean.Input("flip", default=False, optional=True),
            ],
            outputs=[Thing.Output(display_name="thing"), io.Int.Output(display_name="number")],
        )

    @classmethod
    def execute(cls, seed, size, scale, mode, flip=False):
        CALLS.append(f"Number {seed}")
        value = seed * scale * (2 if mode == "double" else 1) * (-1 if flip else 1)
        return io.NodeOutput({"value": value}, int(value))


class Add(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Add",
            inputs=[
                Thing.Input("a"),
                Thing.Input("b", optional=True),
                io.Int.Input("extra", default=0),
                io.String.Input("text", default="", multiline=True),
            ],
            outputs=[Thing.Output("thing")],
        )

    @classmethod
    async def execute(cls, a, extra, text, b=None):
        CALLS.append("Add")
        return io.NodeOutput({"value": a["value"] + (b or {"value": 0})["value"] + extra})


class Switch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Switch",
            inputs=[
                io.Boolean.Input("on", default=True),
                Thing.Input("yes", lazy=True, optional=True),
                Thing.Input("no", lazy=True, optional=True),
            ],
            outputs=[Thing.Output("thing")],
        )

    @classmethod
    def check_lazy_status(cls, on, yes=None, no=None):
        return ["yes" if on else "no"]

    @classmethod
    def execute(cls, on, yes=None, no=None):
        CALLS.append("Switch")
        return io.NodeOutput(yes if on else no)


class Work(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Work",
            inputs=[Thing.Input("thing"), io.Int.Input("steps", default=3, min=1, max=1000)],
            outputs=[Thing.Output("done")],
        )

    @classmethod
    def execute(cls, thing, steps):
        bar = progress.Progress(steps)
        for index in range(steps):
            bar.update(index + 1)
        if thing["value"] == 13:
            raise RuntimeError("unlucky")
        if thing["value"] == 66:
            return io.NodeOutput(block_execution="not this one")
        return io.NodeOutput(thing)


class Show(io.ComfyNode):
    WRITES_TO = None

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Show",
            is_output_node=True,
            inputs=[Thing.Input("thing"), io.String.Input("label", default="x", optional=True)],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, thing, label="x"):
        CALLS.append("Show")
        return io.NodeOutput(
            ui={
                "value": [thing["value"]],
                "id": [cls.hidden.unique_id],
                "text": [label],
                "prompt": [cls.hidden.prompt is not None],
            }
        )


ALL = {node.__name__: node for node in (Number, Add, Switch, Work, Show)} | CORE_NODES


def number(seed=1, **inputs):
    values = {"seed": seed, "size": 32, "scale": 1.0, "mode": "plain"} | inputs
    return {"class_type": "Number", "inputs": values}


def show(source, slot=0):
    return {"class_type": "Show", "inputs": {"thing": [source, slot]}, "_meta": {"title": "Result"}}


def add(a, b=None, extra=0):
    inputs = {"a": [a, 0], "extra": extra, "text": ""} | ({"b": [b, 0]} if b else {})
    return {"class_type": "Add", "inputs": inputs}


def work(source, steps=3):
    return {"class_type": "Work", "inputs": {"thing": [source, 0], "steps": steps}}


def empty_image(width=8, height=6, batch=1, color=0xFF8000):
    sizes = {"width": width, "height": height, "batch_size": batch, "color": color}
    return {"class_type": "EmptyImage", "inputs": sizes}


def save(source, prefix="sub/pic"):
    inputs = {"images": [source, 0], "filename_prefix": prefix}
    return {"class_type": "SaveImage", "inputs": inputs}


def run(data, host, on_event=None):
    return Executor(ALL).run(parse_graph(data), host, on_event)
