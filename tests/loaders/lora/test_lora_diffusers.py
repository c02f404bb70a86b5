"""LoRA files that diffusers and PEFT wrote themselves, drawn by diffusers and by us."""

import pytest
import torch

from inkstone.loaders.lora.adapters import Adapter, apply_loras
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas

from ...support import tiny
from ...support.oracle import measured, relative

peft = pytest.importorskip("peft", reason="PEFT is what diffusers draws LoRAs with")

PROMPT = "a red cat on a mat, and a prompt that is longer than the dropped head of the template"
TARGETS = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_v_proj",
    "net.2",
    "img_mod.1",
    "proj_out",
    "linear_1",
]
CONFIGS = {
    "LoRA": dict(r=4, lora_alpha=6),
    "rsLoRA": dict(r=4, lora_alpha=2, use_rslora=True),
    "alpha of one layer": dict(r=4, lora_alpha=4, alpha_pattern={"to_q": 12, "img_mod.1": 1}),
    "ranks": dict(r=4, lora_alpha=4, rank_pattern={"to_q": 7}),
    "DoRA": dict(r=4, lora_alpha=6, use_dora=True),
    "bias": dict(r=4, lora_alpha=6, lora_bias=True),
}


def randomised(pipe, config):
    """A random adapter on the pipeline's network, and its state."""
    pipe.transformer.add_adapter(peft.LoraConfig(target_modules=TARGETS, **config))
    with torch.no_grad():
        for name, p in pipe.transformer.named_parameters():
            if "lora_magnitude" in name:
                p.mul_(1 + 0.2 * torch.randn_like(p))
            elif "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.5 * p.shape[-1] ** -0.5)
    return peft.get_peft_model_state_dict(pipe.transformer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(5)
    return tiny.save(tiny.pipeline("even"), tmp_path_factory.mktemp("d") / "model")


def ours(folder, path, strength=1.0):
    bundle = load_all(folder, LoadOptions(torch.float32))
    model, text, _ = apply_loras(
        bundle.model, bundle.text_encoder, [Adapter(load_lora(path), strength)]
    )
    levels = sigmas(model.schedule, 3, 6 * 4)
    return denoise(model, text.encode(PROMPT).states, None, Request(96, 64, levels, seed=5))


def theirs(pipe):
    return tiny.reference(pipe, PROMPT, None, (96, 64), dict(steps=3, cfg=1.0), [5])[0]


def opened(folder):
    from diffusers import QwenImagePipeline

    return QwenImagePipeline.from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_file_that_diffusers_saved(name, folder, tmp_path):
    torch.manual_seed(6)
    pipe = opened(folder)
    plain = theirs(pipe)
    state = randomised(pipe, CONFIGS[name])
    pipe.save_lora_weights(
        tmp_path,
        transformer_lora_layers=state,
        transformer_lora_adapter_metadata=pipe.transformer.peft_config["default"].to_dict(),
    )
    want = theirs(pipe)
    got = ours(folder, tmp_path / "pytorch_lora_weights.safetensors")
    error, effect = measured(got, want), relative(plain, want)
    assert error < 1e-4 and effect > 0.02, f"{name}: error {error:.2e}, effect {effect:.2e}"


@pytest.mark.slow
def test_the_same_file_loaded_by_both(folder, tmp_path):
    """diffusers' own load_lora_weights, with a strength."""
    torch.manual_seed(7)
    pipe = opened(folder)
    pipe.save_lora_weights(
        tmp_path,
        transformer_lora_layers=randomised(pipe, CONFIGS["LoRA"]),
        transformer_lora_adapter_metadata=pipe.transformer.peft_config["default"].to_dict(),
    )
    fresh = opened(folder)
    fresh.load_lora_weights(tmp_path, adapter_name="a")
    fresh.set_adapters(["a"], [0.6])
    got = ours(folder, tmp_path / "pytorch_lora_weights.safetensors", 0.6)
    error = measured(got, theirs(fresh))
    assert error < 1e-4, f"relative error {error:.2e}"


@pytest.mark.slow
def test_kohya_file_loaded_by_both(folder, tmp_path):
    """Names with underscores and alpha tensors: diffusers converts them, we look them up."""
    from ...support.oracle import save_file

    torch.manual_seed(8)
    pipe = opened(folder)
    tensors = {}
    for name, module in pipe.transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(("to_q", "add_k_proj", "net.2")):
            n, k = module.weight.shape
            flat = "lora_unet_" + name.replace(".", "_")
            tensors[f"{flat}.lora_down.weight"] = torch.randn(4, k) * 0.3 * k**-0.5
            tensors[f"{flat}.lora_up.weight"] = torch.randn(n, 4)
            tensors[f"{flat}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "k.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="k.safetensors")
    error = measured(ours(folder, tmp_path / "k.safetensors"), theirs(pipe))
    assert error < 1e-4, f"relative error {error:.2e}"


@pytest.mark.slow
def test_raw_peft_folder(folder, tmp_path):
    """As PEFT itself saves: base_model.model. and an adapter_config.json."""
    torch.manual_seed(9)
    pipe = opened(folder)
    net = peft.get_peft_model(
        pipe.transformer, peft.LoraConfig(target_modules=TARGETS, r=4, lora_alpha=6)
    )
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.5 * p.shape[-1] ** -0.5)
    net.save_pretrained(tmp_path)
    error = measured(ours(folder, tmp_path / "adapter_model.safetensors"), theirs(pipe))
    assert error < 1e-4, f"relative error {error:.2e}"


def test_text_encoder_lora(folder, tmp_path):
    """A LoRA on the language model: states as PEFT's, the plain encoder untouched."""
    torch.manual_seed(10)
    pipe = opened(folder)
    bundle = load_all(folder, LoadOptions(torch.float32))
    plain = bundle.text_encoder.encode(PROMPT).states
    config = peft.LoraConfig(target_modules=["q_proj", "o_proj", "up_proj"], r=4, lora_alpha=6)
    net = peft.get_peft_model(pipe.text_encoder.model.language_model, config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p) * 0.5 * p.shape[-1] ** -0.5)
    state = peft.get_peft_model_state_dict(net)
    from ...support.oracle import save_file

    tensors = {
        "text_encoder." + n.removeprefix("base_model.model."): t for n, t in state.items()
    } | {
        n.split(".lora_")[0].replace("base_model.model.", "text_encoder.") + ".alpha": torch.tensor(
            6.0
        )
        for n in state
    }
    save_file(tensors, tmp_path / "te.safetensors")
    adapter = Adapter(load_lora(tmp_path / "te.safetensors"))
    model, text, lines = apply_loras(bundle.model, bundle.text_encoder, [adapter])
    with torch.no_grad():
        want = pipe.encode_prompt(PROMPT)[0]
    got = text.encode(PROMPT).states
    error, effect = measured(got, want), relative(plain, want)
    assert error < 1e-5 and effect > 0.02, f"error {error:.2e}, effect {effect:.2e}"
    assert torch.equal(bundle.text_encoder.encode(PROMPT).states, plain)
    assert model is bundle.model and lines == [
        "te.safetensors: 6 of 6 modules, rank 4, alpha 6, strength 1 (text encoder)"
    ]
    assert torch.equal(text.encode(PROMPT).states, got), "its own prefix is kept apart"
    off = bundle.text_encoder.with_loras([Adapter(adapter.lora, 0.0)])
    assert torch.equal(off.encode(PROMPT).states, plain)
