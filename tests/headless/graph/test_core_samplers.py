"""Core's loaders, samplers and switches without ComfyUI, on the embedded model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from inkstone.headless.core_nodes.models import CoreModel
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.core_nodes.sampling import scheduled
from inkstone.headless.core_nodes.values import resolution
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.events import NodeError
from inkstone.headless.graph.executor import Executor
from inkstone.headless.workflow.switches import settle_switches
from inkstone.host.headless import HeadlessHost

CFG = 2.0


def graph(**sampler) -> dict[str, dict]:
    """Core's nodes behind our bridges."""

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    settings = {"seed": 5, "steps": 3, "cfg": CFG, "sampler_name": "euler", "scheduler": "simple"}
    prompts = {"positive": ["5", 0], "negative": ["6", 0], "latent_image": ["7", 0]}
    return {
        "1": node("InkstoneLoadAll", folder="embedded (ships with Inkstone)", dtype="float32"),
        "2": node("InkstoneToModel", model=["1", 0]),
        "3": node("InkstoneToCLIP", text_encoder=["1", 1]),
        "4": node("InkstoneToVAE", vae=["1", 2]),
        "5": node("CLIPTextEncode", clip=["3", 0], text="a red circle"),
        "6": node("CLIPTextEncode", clip=["3", 0], text=""),
        "7": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "8": node("KSampler", model=["2", 0], denoise=1.0, **prompts, **settings | sampler),
        "9": node("VAEDecode", samples=["8", 0], vae=["4", 0]),
        "10": node("SaveImageAdvanced", images=["9", 0], filename_prefix="x", format="png"),
    }


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor(node_classes())


@pytest.fixture
def draw(executor, tmp_path):
    host = HeadlessHost(input=tmp_path, output=tmp_path, temp=tmp_path, device="cpu")

    def run(nodes: dict[str, dict]) -> np.ndarray:
        done = executor.run(parse_graph(nodes), host)
        (image,) = done.outputs["10"]["images"]
        return np.asarray(Image.open(tmp_path / image["filename"])).astype(int)

    return run


def advanced(sigmas: str) -> dict[str, dict]:
    """The same run by SamplerCustomAdvanced."""
    nodes = graph()
    for key, kind, inputs in (
        ("20", "RandomNoise", {"noise_seed": 5}),
        ("21", "KSamplerSelect", {"sampler_name": "euler"}),
        ("22", "ManualSigmas", {"sigmas": sigmas}),
        (
            "23",
            "CFGGuider",
            {"model": ["2", 0], "positive": ["5", 0], "negative": ["6", 0], "cfg": CFG},
        ),
        (
            "8",
            "SamplerCustomAdvanced",
            {
                "noise": ["20", 0],
                "guider": ["23", 0],
                "sampler": ["21", 0],
                "sigmas": ["22", 0],
                "latent_image": ["7", 0],
            },
        ),
    ):
        nodes[key] = {"class_type": kind, "inputs": inputs}
    return nodes


def test_both_samplers_of_core_draw_the_same(draw):
    plain = draw(graph())
    assert plain.shape == (128, 128, 3) and plain.std() > 5
    levels = scheduled(CoreModel(None, math.exp(1.15)), "simple", 3)
    same = draw(advanced(", ".join(f"{x:.9f}" for x in levels.tolist())))
    assert np.array_equal(plain, same)
    other = draw(advanced("1.0, 0.6, 0.3, 0"))
    assert not np.array_equal(plain, other)


def test_sigmas_are_cores():
    """Its formula for constant shifts: e^1.15 of the first family, 3 of ModelSamplingAuraFlow."""
    first = scheduled(CoreModel(None, math.exp(1.15)), "simple", 4).tolist()
    e = math.exp(1.15)
    want = [e / (e + 1 / t - 1) for t in (1, 0.75, 0.5, 0.25)] + [0]
    assert max(abs(a - b) for a, b in zip(first, want, strict=True)) < 1e-6
    shifted = CoreModel(None, 3.0, 1000)
    assert scheduled(shifted, "simple", 3)[1] == pytest.approx(3 * 0.667 / (1 + 2 * 0.667))
    half = scheduled(shifted, "simple", 4, 0.5)
    assert len(half) == 5 and half[0] == pytest.approx(3 * 0.5 / 2)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"sampler_name": "dpmpp_2m"}, "'dpmpp_2m' runs in ComfyUI only: expected euler here"),
        ({"scheduler": "beta"}, "scheduler 'beta' runs in ComfyUI only: expected simple here"),
        ({"cfg": 0.0}, "cfg is 0: expected 1"),
        ({"denoise": 0.0}, "denoise is 0: expected more than 0"),
    ],
)
def test_what_runs_in_comfyui_only_is_named(draw, settings, words):
    nodes = graph()
    nodes["8"]["inputs"] |= settings
    with pytest.raises(NodeError, match=words):
        draw(nodes)
    nodes = graph()
    nodes["10"]["inputs"]["format.bit_depth"] = "16-bit"
    with pytest.raises(NodeError, match="asks for png, 16-bit: expected png, 8-bit, sRGB"):
        draw(nodes)


def test_a_constant_switch_leaves_its_other_branch_out():
    nodes = {
        "1": {"class_type": "PrimitiveBoolean", "inputs": {"value": False}},
        "2": {"class_type": "UNETLoader", "inputs": {"unet_name": "absent.sft"}},
        "3": {
            "class_type": "ComfySwitchNode",
            "inputs": {"switch": ["1", 0], "on_false": "a", "on_true": ["2", 0]},
        },
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }
    settled = settle_switches(parse_graph(nodes), node_classes())
    assert set(settled) == {"3", "4"}
    assert settled["3"].class_type == "PrimitiveStringMultiline"
    assert settled["3"].inputs == {"value": "a"}
    nodes["1"]["inputs"]["value"] = True
    taken = settle_switches(parse_graph(nodes), node_classes())
    assert set(taken) == {"2", "4"} and taken["4"].links()["source"].node == "2"


def test_a_computed_switch_chooses_during_the_run(executor, tmp_path):
    """Only the chosen branch is computed: the other's node would fail."""
    nodes = {
        "1": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
        "2": {
            "class_type": "ComfySwitchNode",
            "inputs": {"switch": ["3", 0], "on_false": ["4", 0], "on_true": ["5", 0]},
        },
        "3": {"class_type": "ComfySwitchNode", "inputs": {"switch": True, "on_true": ["6", 0]}},
        "4": {"class_type": "PrimitiveString", "inputs": {"value": "no"}},
        "5": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
        "6": {"class_type": "PrimitiveBoolean", "inputs": {"value": False}},
    }
    nodes["3"]["inputs"]["on_false"] = ["6", 0]
    host = HeadlessHost(input=tmp_path, output=tmp_path, temp=tmp_path, device="cpu")
    done = executor.run(parse_graph(nodes), host)
    assert done.outputs["1"]["text"] == ("no",)


@pytest.mark.parametrize(
    "ratio, megapixels, multiple, size",
    [
        ("1:1 (Square)", 1.0, 8, (1024, 1024)),
        ("16:9 (Widescreen)", 1.0, 8, (1368, 768)),
        ("3:4 (Portrait Standard)", 2.0, 32, (1248, 1664)),
    ],
)
def test_resolutions_are_cores(ratio, megapixels, multiple, size):
    assert resolution(ratio, megapixels, multiple).args == size
