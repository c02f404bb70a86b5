"""Our nodes on the headless host, with the embedded model: sockets, progress, interruption,
messages.
"""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.core_nodes.registry import CORE_NODES
from inkstone.headless.graph.input_values import is_widget
from inkstone.headless.graph.invoke import overrides
from inkstone.host.headless import HeadlessHost, Interrupted, using
from inkstone.loaders.models.load import load_all
from inkstone.nodes import NODES, extension
from inkstone.nodes.canvas import CUSTOM, EmptyLatent
from inkstone.nodes.decode import Decode
from inkstone.nodes.encode import EncodePrompt
from inkstone.nodes.load import LoadAll, LoadDiffusionModel, load_options
from inkstone.nodes.sample import Denoise
from inkstone.nodes.schedule import SCHEDULES, ScheduleSigmas

HIDDEN_ROWS = {f"_{n}"[-2:] for n in range(2, 13)}  # of a table: the page shows those in use


@pytest.fixture(scope="module")
def models():
    return load_all(None)


def values(output):
    return output.result


def prepared(models, steps=3, size=("custom", 96, 64), batch=1):
    latent = values(EmptyLatent.execute(CUSTOM, size[1], size[2], batch))[0]
    sigmas = values(ScheduleSigmas.execute(models.model, latent, steps, SCHEDULES[0]))[0]
    positive, negative = values(
        EncodePrompt.execute(models.text_encoder, "a red circle on a white background", "")
    )
    return latent, sigmas, positive, negative


def test_int8_is_offered_where_a_diffusion_model_is_loaded():
    offered = {}
    for node in NODES:
        inputs = {i.id: i for i in node.define_schema().inputs}
        if "dtype" in inputs:
            offered[node.ID] = "int8" in inputs["dtype"].options
    assert {name for name, int8 in offered.items() if int8} == {LoadAll.ID, LoadDiffusionModel.ID}
    assert len(offered) == 5
    options = load_options("int8")
    assert options.int8 and options.dtype is None and not load_options("auto").int8
    assert LoadAll.fingerprint_inputs("x", "int8") != LoadAll.fingerprint_inputs("x", "auto")


def test_listening_starts_with_the_extension_or_an_executor_not_at_import():
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "import tests.conftest, inkstone.nodes\n"
        "from inkstone.headless.graph.executor import Executor\n"
        "from inkstone.kernels import interrupt\n"
        "at_import = interrupt.listen(None)\n"
        "inkstone.nodes.extension()\n"
        "in_comfyui = interrupt.listen(None)\n"
        "Executor({})\n"
        "print(at_import, type(in_comfyui).__name__, type(interrupt.listen(None)).__name__)"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["None", "Heartbeat", "Heartbeat"]


def test_every_node_has_tooltips_and_few_widgets():
    listed = asyncio.run(extension().get_node_list())
    assert listed == NODES
    for node in NODES:
        schema = node.define_schema()
        assert schema.node_id.startswith("Inkstone") and schema.description, schema.node_id
        assert all(i.tooltip for i in schema.inputs), schema.node_id
        shown = [i for i in schema.inputs if is_widget(i) and i.id[-2:] not in HIDDEN_ROWS]
        assert len(shown) <= 8, schema.node_id


def test_sockets_are_comfyuis_own(models):
    latent, sigmas, positive, negative = prepared(models)
    assert latent["samples"].shape == (1, 16, 1, 8, 12)
    assert sigmas.dtype == torch.float32 and sigmas[0] == 1 and sigmas[-1] == 0
    assert positive[0][0].shape[0] == 1 and isinstance(positive[0][1], dict)
    out = values(
        Denoise.execute(
            models.model, positive, sigmas=sigmas, latent=latent, seed=5, cfg=2.0, negative=negative
        )
    )[0]
    image = values(Decode.execute(models.vae, out))[0]
    assert out["samples"].shape == (1, 16, 1, 8, 12) and image.shape == (1, 64, 96, 3)
    assert image.dtype == torch.float32 and 0 <= image.min() and image.max() <= 1
    assert latent["samples"].abs().max() == 0, "an input was changed in place"


def test_core_latents_are_taken(models):
    """EmptySD3LatentImage gives 4-D zeros."""
    core = values(CORE_NODES["EmptySD3LatentImage"].execute(96, 64, 1))[0]
    _, sigmas, positive, _ = prepared(models)
    ours = values(EmptyLatent.execute(CUSTOM, 96, 64, 1))[0]
    a, b = (
        values(Denoise.execute(models.model, positive, sigmas=sigmas, latent=x, seed=5, cfg=1.0))[
            0
        ]["samples"]
        for x in (core, ours)
    )
    assert torch.equal(a, b)


def test_padding_mask_of_a_core_encoder_is_honoured(models):
    latent, sigmas, positive, _ = prepared(models)
    states = positive[0][0]
    padded = torch.cat([states, torch.full_like(states[:, :4], 9.0)], dim=1)
    mask = torch.arange(padded.shape[1])[None] < states.shape[1]
    a = values(
        Denoise.execute(models.model, positive, sigmas=sigmas, latent=latent, seed=5, cfg=1.0)
    )[0]["samples"]
    b = values(
        Denoise.execute(
            models.model,
            [[padded, {"attention_mask": mask}]],
            sigmas=sigmas,
            latent=latent,
            seed=5,
            cfg=1.0,
        )
    )[0]["samples"]
    assert torch.equal(a, b)


def test_progress_and_interruption_between_blocks(models):
    latent, sigmas, positive, _ = prepared(models, steps=4)
    seen, host = (
        [],
        HeadlessHost(on_progress=lambda value, total, preview: seen.append((value, total))),
    )
    with using(host):
        Denoise.execute(models.model, positive, sigmas=sigmas, latent=latent, seed=5, cfg=1.0)
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        blocks = []
        network = models.model.network
        hook = network.transformer_blocks[2].register_forward_hook(
            lambda *a: (blocks.append(1), host.interrupt.set())
        )
        try:
            with pytest.raises(Interrupted):
                Denoise.execute(
                    models.model, positive, sigmas=sigmas, latent=latent, seed=5, cfg=1.0
                )
        finally:
            hook.remove()
    assert len(blocks) == 1, "stopped before the next block, not at the end of the step"


def test_previews_show_the_picture_to_come(models):
    """The last preview is the picture at an eighth of its size, by the folder's own factors."""
    latent, sigmas, positive, _ = prepared(models, steps=4)
    seen = []
    with using(HeadlessHost(on_progress=lambda value, total, preview: seen.append(preview))):
        drawn = values(
            Denoise.execute(models.model, positive, sigmas=sigmas, latent=latent, seed=5, cfg=1.0)
        )[0]
    picture = values(Decode.execute(models.vae, drawn))[0][0]  # [H,W,3]
    height, width = picture.shape[:2]
    assert [p.size for p in seen] == [(width, height)] * 4
    last = torch.from_numpy(np.array(seen[-1])).float() / 255
    error = (last - picture).abs().mean().item()
    assert error < 0.08, f"preview and picture differ by {error:.3f} of full scale"
    with using(HeadlessHost(on_progress=lambda value, total, preview: seen.append(preview))):
        bare = replace(models.model, preview=None)
        Denoise.execute(bare, positive, sigmas=sigmas, latent=latent, seed=5, cfg=1.0)
    fitted = torch.from_numpy(np.array(seen[-1])).float() / 255
    error = (fitted - picture).abs().mean().item()
    assert error < 0.13, f"fitted to the VAE's chart it differs by {error:.3f} of full scale"
    with using(HeadlessHost(on_progress=lambda *a: seen.append(a[2]), previews=False)):
        Denoise.execute(bare, positive, sigmas=sigmas, latent=latent, seed=5, cfg=1.0)
    assert seen[8:] == [None] * 4


def test_previews_of_a_batch_show_every_picture(models):
    latent, sigmas, positive, _ = prepared(models, steps=2, batch=3)
    seen = []
    with using(HeadlessHost(on_progress=lambda value, total, preview: seen.append(preview))):
        Denoise.execute(models.model, positive, sigmas=sigmas, latent=latent, seed=5, cfg=1.0)
    height, width = latent["samples"].shape[-2] * 8, latent["samples"].shape[-1] * 8
    assert seen[-1].size == (2 * width, 2 * height)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(positive="two"), "2 entries"),
        (dict(positive="references"), "2 reference pictures for embedded-edit, which takes 1"),
        (dict(positive="wide"), "text encoder"),
        (dict(latent="channels"), "4 channels, this model's have 16"),
        (dict(latent="mask"), "mask is empty"),
        (dict(cfg=4.0, positive="bare"), "negative prompt"),
        (dict(cfg=float("nan")), "CFG"),
        (dict(seed=-1), "Seed"),
        (dict(model="vae"), "Inkstone Load Diffusion Model"),
    ],
)
def test_wrong_wires_are_refused(models, change, words):
    latent, sigmas, positive, _ = prepared(models)
    args = dict(
        model=models.model, positive=positive, sigmas=sigmas, latent=latent, seed=1, cfg=1.0
    )
    states = positive[0][0]
    made = {
        "two": positive * 2,
        "references": [[states, {"reference_latents": [latent["samples"]] * 2}]],
        "bare": [[states, {}]],  # as a core node gives it
        "wide": [[torch.zeros(1, 4, 3584), {}]],
        "channels": {"samples": torch.ones(1, 4, 8, 8)},
        "mask": {**latent, "noise_mask": torch.zeros(1, 64, 96)},
        "vae": models.vae,
    }
    for key, value in change.items():
        args[key] = made[value] if isinstance(value, str) else value
    with pytest.raises(InkstoneError, match=words):
        Denoise.execute(**args)


def test_fingerprints_take_what_comfyui_gives_them():
    """All widgets of the node by name: an error there is logged, and the node runs every time."""
    nodes = [node for node in NODES if overrides(node, "fingerprint_inputs")]
    for node in nodes:
        inputs = node.define_schema().inputs
        widgets = {item.id: getattr(item, "default", None) for item in inputs if is_widget(item)}
        assert node.fingerprint_inputs(**widgets) == node.fingerprint_inputs(**widgets), node.ID
    assert len(nodes) >= 4


class AlphaVAE:
    """A VAE that draws alpha: the latent's first channel, 1 where it is above."""

    mean, std = torch.zeros(1, 16, 1, 1), torch.ones(1, 16, 1, 1)

    def decode(self, z):
        layers = z.transpose(1, 2).flatten(0, 1)
        alpha = layers[:, :1].clamp(0, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
        colour = torch.linspace(0.1, 0.9, 3).view(1, 3, 1, 1).expand(-1, -1, *alpha.shape[2:])
        return torch.cat([colour.expand(len(alpha), -1, -1, -1), alpha], 1).movedim(1, -1)


def test_alpha_that_says_nothing_is_left_out_and_said(caplog, monkeypatch):
    """RGBA where something is transparent; RGB where a decoder gives nearly 1 everywhere; layers
    keep theirs."""
    monkeypatch.setattr("inkstone.nodes.sockets.require_models", lambda **models: None)
    opaque = torch.full((1, 16, 1, 4, 6), 0.98)
    clear = opaque.clone()
    clear[..., 2:] = 0
    layers = opaque.expand(-1, -1, 2, -1, -1)
    with caplog.at_level("INFO"):
        for latent, channels in ((opaque, 3), (clear, 4), (layers, 4)):
            caplog.clear()
            picture = values(Decode.execute(AlphaVAE(), {"samples": latent}))[0]
            assert picture.shape[1:] == (32, 48, channels)
            said = caplog.text
            assert ("RGB:" in said) == (latent is opaque), said
            assert ("66.7 % of it is transparent" in said) == (latent is clear), said
