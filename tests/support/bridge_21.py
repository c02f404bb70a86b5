"""Qwen-Image-2.1 on core's samplers in a ComfyUI, against our own sampler with core's sigmas.

Imported by bridge_parity.py alone, in ComfyUI's own Python. No core that can be had for the tests
has a network of 2.1; ours is compared with the reference elsewhere.
"""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from bridge_core import ROOT, conditioning, relative

from inkstone.headless.core_nodes.models import core_model
from inkstone.headless.core_nodes.sampling import scheduled
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes.bridge import nodes
from inkstone.sampling.noise import noise
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise

STEPS, SEED, SIDES = 4, 3, (8, 12)
PICTURES = [
    torch.randn(1, 64, *sides, generator=torch.Generator().manual_seed(n))
    for n, sides in enumerate([(4, 6), (6, 4)])
]


class Both:
    """A run of one prompt on core's samplers and on ours."""

    def __init__(self) -> None:
        self.models = load_all(ROOT / "qwen-image-2.1", LoadOptions(torch.float32))
        self.patcher = nodes.ToModel.execute(self.models.model).result[0]
        self.sigmas = comfy.samplers.calculate_sigmas(
            self.patcher.get_model_object("model_sampling"), "simple", STEPS
        )

    def prompts(self, lengths, pictures, slots):
        joint = self.models.model.network.config.joint
        more = {"reference_latents": pictures} if pictures else {}
        more |= {"image_slots": slots} if slots else {}
        return [conditioning(n, 1 + i, joint, **more) for i, n in enumerate(lengths)]

    def core(self, lengths=(9, 5), pictures=(), slots=(), cfg=3.0, batch=1, **more):
        patcher, name = more.get("patcher", self.patcher), more.get("name", "euler")
        start = torch.cat([noise(SEED + k, 1, *SIDES, 64, 1) for k in range(batch)])
        with torch.inference_mode():
            return comfy.sample.sample(
                patcher,
                start.reshape(batch, 64, *SIDES),
                STEPS,
                cfg,
                name,
                "simple",
                *self.prompts(lengths, list(pictures), list(slots)),
                torch.zeros(batch, 64, *SIDES),
                disable_pbar=True,
                seed=SEED,
            )

    def ours(self, lengths=(9, 5), pictures=(), slots=(), cfg=3.0, batch=1, model=None):
        positive, negative = (p[0][0] for p in self.prompts(lengths, (), ()))
        request = Request(
            width=16 * SIDES[1],
            height=16 * SIDES[0],
            sigmas=self.sigmas,
            seed=SEED,
            batch=batch,
            cfg=cfg,
            references=tuple(z[:, :, None] for z in pictures),
            slots=tuple(slots),
        )
        return denoise(model or self.models.model, positive, negative, request)[:, :, 0]

    def difference(self, **run) -> float:
        return relative(self.core(**run), self.ours(**run))


def with_cache(patcher, device):
    """As core's cache node sets it."""
    patcher = patcher.clone()
    options = patcher.model_options["transformer_options"]
    options["qwen_image21_cache"] = {"device": device, "dtype": "default"}
    return patcher


def loras(both: Both) -> dict[str, object]:
    """A LoRA of core's loader in both spellings of the MLP, and of ours."""
    g, c = torch.Generator().manual_seed(6), both.models.model.network.config
    at, state = "transformer_blocks.1.", {}
    for layer, (out, into) in {
        "attn.to_q": (c.width, c.width),
        "img_mlp.gate_up": (2 * c.ff, c.width),
    }.items():
        state[f"{at}{layer}.lora_A.weight"] = torch.randn(4, into, generator=g) * into**-0.5
        state[f"{at}{layer}.lora_B.weight"] = torch.randn(out, 4, generator=g) * 0.3
    path = ROOT / "fused.safetensors"
    save_safetensors(path, state, {})
    adapter = Adapter(load_lora(path), 0.7)
    ours = both.ours(model=both.models.model.with_loras([adapter]))
    split = dict(state)
    down, up = (split.pop(f"{at}img_mlp.gate_up.lora_{x}.weight") for x in "AB")
    for part, rows in zip(("gate_layer", "proj"), up.chunk(2)):
        layer = f"{at}img_mlp.{part}"
        split |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": rows}
    figures: dict[str, object] = {}
    for name, weights in (("fused", state), ("split", split)):
        named = {f"diffusion_model.{key}": x for key, x in weights.items()}
        patcher, _ = comfy.sd.load_lora_for_models(both.patcher, None, named, 0.7, 0.0)
        figures[f"2.1: LoRA, {name}"] = relative(both.core(patcher=patcher), ours)
    return figures | {"moved by the LoRA of 2.1": relative(ours, both.ours())}


def family_21() -> dict[str, object]:
    """Core's samplers on a model of 2.1."""
    both = Both()
    one, two = PICTURES[:1], PICTURES
    kept = both.core(pictures=two, slots=(2, 4))
    off = both.core(pictures=two, slots=(2, 4), patcher=with_cache(both.patcher, "off"))
    host = both.core(pictures=two, slots=(2, 4), patcher=with_cache(both.patcher, "cpu"))
    other = both.core(pictures=two, slots=(3, 4))
    core_sigmas = scheduled(core_model(both.models.model), "simple", STEPS)
    return {
        "2.1: text to image": both.difference(),
        "2.1: cfg 1": both.difference(cfg=1.0),
        "2.1: batch of 2": both.difference(batch=2),
        "2.1: two texts in one batch": both.difference(lengths=(7, 7)),
        "2.1: one reference": both.difference(pictures=one, slots=(2,)),
        "2.1: two references": relative(kept, both.ours(pictures=two, slots=(2, 4))),
        "2.1: one of two behind the text": relative(
            both.core(lengths=(7, 7), pictures=two, slots=(2,)),
            both.ours(lengths=(7, 7), pictures=two, slots=(2, 7)),
        ),
        "2.1: heun against euler": relative(both.core(name="heun"), both.core()),
        "2.1: sigmas without ComfyUI": float((core_sigmas - both.sigmas).abs().max()),
        "2.1: kept and computed again": [torch.equal(kept, off), torch.equal(kept, host)],
        "moved by the place of a picture of 2.1": relative(other, kept),
        **loras(both),
    }
