"""LoRA as a side branch against LoRA merged into the weights, for every method, on a tiny model."""

import gc
import logging

import pytest
import torch

from inkstone.kernels.linear import Linear
from inkstone.kernels.lora import BaseLayer, branch_of
from inkstone.loaders.lora import file as lora_module
from inkstone.loaders.lora.adapters import Adapter, copied_bytes
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.quant.fp8 import Fp8Storage
from inkstone.quant.gguf_storage import GGUFStorage
from inkstone.quant.gguf_types import BY_NAME
from inkstone.quant.int_quant import RowScaledStorage
from inkstone.quant.storage import PlainStorage
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import QWEN, sigmas

from ...support import lora_files as files
from ...support.oracle import measured, relative

RESIDENT = [m for m in files.SHAPES if m not in files.TABLE]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


@pytest.fixture(scope="module")
def state():
    return files.random_state()


@pytest.fixture(scope="module")
def model(state, tmp_path_factory):
    return load_diffusion_model(files.write_model(tmp_path_factory.mktemp("m") / "t", state))


NO_HOOKS = Hooks()


def drawn(model, hooks=NO_HOOKS, steps=2):
    text = torch.randn(1, 7, files.CONFIG.joint, generator=torch.Generator().manual_seed(2))
    request = Request(96, 64, sigmas(QWEN, steps, 24), seed=3)
    return denoise(model, text, None, request, hooks)


def adapter(tmp_path, layers, strength=1.0, name="l", **more):
    return Adapter(
        load_lora(files.write_lora(tmp_path / f"{name}.safetensors", layers)), strength, **more
    )


def branches_of(model):
    return [m.branches for m in model.network.modules() if isinstance(m, Linear)]


@pytest.mark.parametrize("method", files.METHODS)
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_side_branch_equals_merged(method, strength, model, state, tmp_path):
    """Every linear layer, those of the modulation table and the unread ones included."""
    layers = files.layers_for(method, state)
    got = drawn(model.with_loras([adapter(tmp_path, layers, strength)]))
    whole = files.merged_state(state, [(layers, strength)])
    want = drawn(load_diffusion_model(files.write_model(tmp_path / "merged", whole)))
    error, effect = measured(got, want), relative(drawn(model), want)
    assert error < 1e-5, f"{method}: relative error {error:.2e}"
    assert effect > 1e-2, f"the LoRA changes only {effect:.2e}: this test would see nothing"


def fp8(weight):
    scale = weight.abs().max() / 448
    return Fp8Storage((weight / scale).to(torch.float8_e4m3fn), torch.float8_e4m3fn, scale)


def int8(weight):
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return RowScaledStorage("int8", (weight / scale).round().to(torch.int8), scale, 8, 0)


def q4_0(weight):
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    raw = torch.from_numpy(quantize(weight.numpy(), GGMLQuantizationType.Q4_0))
    return GGUFStorage(raw, BY_NAME["Q4_0"], tuple(weight.shape))


STORAGES = {
    "bf16": lambda w: PlainStorage(w.bfloat16()),
    "fp8 scaled": fp8,
    "int8": int8,
    "Q4_0": q4_0,
}


@pytest.mark.slow
@pytest.mark.parametrize("method", files.METHODS)
@pytest.mark.parametrize("storage", STORAGES)
def test_side_branch_of_packed_weights(method, storage, state, tmp_path):
    layers = files.layers_for(method, state, RESIDENT)
    model = load_diffusion_model(files.write_model(tmp_path / "plain", state))
    packed = dict(state)
    for name, module in model.network.named_modules():
        if isinstance(module, Linear):
            module.hold(STORAGES[storage](module.weight.detach()))
            packed[f"{name}.weight"] = module.dequantize()
    got = drawn(model.with_loras([adapter(tmp_path, layers, 0.7)]))
    whole = files.merged_state(packed, [(layers, 0.7)])
    want = drawn(load_diffusion_model(files.write_model(tmp_path / "merged", whole)))
    error = measured(got, want)
    assert error < 1e-5, f"{method} on {storage}: relative error {error:.2e}"


def test_bf16_stays_near_the_merged_weights(state, tmp_path):
    folder = files.write_model(tmp_path / "plain", state)
    layers = files.layers_for("low_rank", state)
    got = drawn(
        load_diffusion_model(folder, LoadOptions(torch.bfloat16)).with_loras(
            [adapter(tmp_path, layers, 0.7)]
        )
    )
    whole = files.merged_state(state, [(layers, 0.7)])
    want = drawn(load_diffusion_model(files.write_model(tmp_path / "merged", whole)))
    error = measured(got, want)
    assert error < 2e-2, f"relative error {error:.2e}"


def test_two_at_once_are_the_sum(model, state, tmp_path):
    """LoRAs of different ranks, methods and reach; in one stack and in two in a row."""
    specs = [
        ("low_rank", None, 0.8),
        ("peft", RESIDENT[:9], -0.5),
        ("loha", RESIDENT[5:], 0.4),
        ("dora_rows", RESIDENT[3:20], 0.6),
        ("dora_columns", RESIDENT[8:12], 0.3),
    ]
    layers = [(files.layers_for(method, state, on), s) for method, on, s in specs]
    stack = [adapter(tmp_path, one, s, f"l{i}") for i, (one, s) in enumerate(layers)]
    whole = files.merged_state(state, layers)
    want = drawn(load_diffusion_model(files.write_model(tmp_path / "merged", whole)))
    for with_loras in (model.with_loras(stack), model.with_loras(stack[:2]).with_loras(stack[2:])):
        error = measured(drawn(with_loras), want)
        assert error < 1e-5, f"relative error {error:.2e}"


def test_plain_loras_share_one_pair_of_products(model, state, tmp_path):
    one, two = (
        adapter(tmp_path, files.layers_for(m, state, RESIDENT), 1.0, m)
        for m in ("low_rank", "peft")
    )
    with model.with_loras([one, two]).adapted():
        active = [b for b in branches_of(model) if b]
        assert all(len(b) == 1 and b[0].down.shape[0] == 7 for b in active) and active
        assert len(active) == len(branches_of(model)), "every layer of the network has its branch"


def test_strength_0_leaves_no_trace(model, state, tmp_path):
    plain = drawn(model)
    layers = files.layers_for("dora_rows", state)
    off = model.with_loras([adapter(tmp_path, layers, 0.0)])
    with off.adapted():
        assert not any(branches_of(model))
    assert torch.equal(drawn(off), plain)
    blocked = model.with_loras(
        [
            adapter(
                tmp_path, files.layers_for("peft", state, RESIDENT[2:8]), 1.0, "b", blocks="0-99:0"
            )
        ]
    )
    assert torch.equal(drawn(blocked), plain)


@pytest.mark.slow
def test_strength_changes_without_reading(model, state, tmp_path, monkeypatch):
    """The file is read once, even when nobody holds the model with LoRA meanwhile."""
    reads = []
    real = lora_module.open_weights
    monkeypatch.setattr(lora_module, "open_weights", lambda p: reads.append(p) or real(p))
    layers = files.layers_for("low_rank", state)
    path = files.write_lora(tmp_path / "l.safetensors", layers)
    before = {n: t.clone() for n, t in model.network.state_dict().items()}
    for strength in (0.2, 0.9):
        got = drawn(model.with_loras([Adapter(load_lora(path), strength)]))
        whole = files.merged_state(state, [(layers, strength)])
        merged = load_diffusion_model(files.write_model(tmp_path / f"m{strength}", whole))
        assert relative(got, drawn(merged)) < 1e-5
        gc.collect()
    assert reads == [path]
    after = model.network.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items()), "base weights were touched"


def test_a_file_that_changed_is_read_again(model, state, tmp_path):
    first = adapter(tmp_path, files.layers_for("peft", state, RESIDENT[:4]))
    again = adapter(tmp_path, files.layers_for("low_rank", state, RESIDENT[:5]))
    assert first.lora is not again.lora and len(again.lora.model) == 5


def test_tables_are_kept_per_lora(model, state, tmp_path):
    """A LoRA that leaves modulation alone shares the plain table; another gets its own."""
    levels = torch.tensor([1.0, 0.5])
    plain = model.modulation(levels)
    apart = model.with_loras([adapter(tmp_path, files.layers_for("peft", state, RESIDENT))])
    assert apart.modulation(levels) is plain
    mods = files.layers_for("peft", state, files.TABLE)
    inside = [model.with_loras([adapter(tmp_path, mods, s, "m")]) for s in (0.5, 0.6)]
    tables = [m.modulation(levels) for m in inside]
    assert not torch.equal(tables[0].img[1], tables[1].img[1])
    assert inside[1].modulation(levels) is tables[1] and model.modulation(levels) is not tables[1]


@pytest.mark.parametrize("spec", ["0:0.5,2:2", "0-0:.5, 1-1: 1, 2-9:2.0", "0-2:9,0:.5,1:1,2-2:2"])
def test_block_strengths(spec, model, state, tmp_path):
    layers = files.layers_for("low_rank", state)
    factor = {"0": 0.5, "1": 1.0, "2": 2.0}
    strength = {m: 0.6 * factor.get((m.split(".") + [""])[1], 1.0) for m in layers}
    each = [({m: parts}, strength[m]) for m, parts in layers.items()]
    whole = files.merged_state(state, each)
    want = drawn(load_diffusion_model(files.write_model(tmp_path / "merged", whole)))
    got = drawn(model.with_loras([adapter(tmp_path, layers, 0.6, blocks=spec)]))
    assert relative(got, want) < 1e-5


def test_the_network_is_free_after_a_fault(model, state, tmp_path):
    with_loras = model.with_loras([adapter(tmp_path, files.layers_for("low_rank", state))])
    plain, attached = drawn(model), []

    def stop(step, block):
        attached.append(all(branches_of(model)))
        if block == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(with_loras, Hooks(on_block=stop))
    assert attached == [True, True] and not any(branches_of(model))
    assert torch.equal(drawn(model), plain)


def test_a_batch_is_its_singles(model, state, tmp_path):
    """With guidance, on LoRAs of several methods."""
    with_loras = model.with_loras(
        [
            adapter(tmp_path, files.layers_for(m, state), 0.5, m)
            for m in ("low_rank", "lokr", "loha")
        ]
    )
    text, no = torch.randn(1, 7, 32), torch.randn(1, 3, 32)

    def run(seed, batch):
        return denoise(with_loras, text, no, Request(96, 64, sigmas(QWEN, 2, 24), seed, batch, 4.0))

    whole, singles = run(5, 3), torch.cat([run(5 + k, 1) for k in range(3)])
    assert relative(whole, singles) < 1e-5, f"relative error {relative(whole, singles):.2e}"


def test_bytes_of_a_run_are_counted(model, state, tmp_path):
    """Nothing where the file's own tensors serve, one copy where types or LoRAs meet."""
    fitted = [
        model.with_loras(
            [adapter(tmp_path, files.layers_for("peft", state, RESIDENT), s, n)]
        ).adapters[0]
        for s, n in ((1.0, "a"), (0.5, "b"), (0.0, "c"))
    ]
    numbers = sum(3 * (n + k) for n, k in (files.SHAPES[m] for m in RESIDENT))
    cpu = torch.device("cpu")
    for stack, dtype, want in (
        (fitted[:1], torch.float32, 0),
        (fitted[2:], torch.bfloat16, 0),
        (fitted[:1], torch.bfloat16, 2 * numbers),
        (fitted, torch.float32, 8 * numbers),
    ):
        assert copied_bytes(stack, cpu, dtype) == want


def test_fused_layers(model, state, tmp_path):
    """One LoRA for q, k and v together, its rows one behind the other."""
    names = {
        "attn.to_qkv": ("to_q", "to_k", "to_v"),
        "attn.add_qkv_proj": ("add_q_proj", "add_k_proj", "add_v_proj"),
    }
    fused, split = {}, {}
    for block in range(files.CONFIG.layers):
        for name, inner in names.items():
            at = f"transformer_blocks.{block}."
            parts = files.low_rank(torch.empty(3 * 32, 32)) | {"diff_b": torch.randn(96) * 0.1}
            fused[at + name] = parts
            for i, one in enumerate(inner):
                rows = slice(32 * i, 32 * i + 32)
                cut = {"lora_up.weight": parts["lora_up.weight"][rows]}
                split[f"{at}attn.{one}"] = parts | cut | {"diff_b": parts["diff_b"][rows]}
    got, want = (
        drawn(model.with_loras([adapter(tmp_path, one, 0.7, name)]))
        for one, name in ((fused, "f"), (split, "s"))
    )
    assert torch.equal(got, want) and relative(got, drawn(model)) > 1e-3


def test_coverage_is_one_line(model, state, tmp_path, caplog):
    layers = files.layers_for("low_rank", state)
    with caplog.at_level(logging.INFO):
        model.with_loras([adapter(tmp_path, layers, 0.5, "full")])
        (line,) = caplog.messages
    assert line == "LoRA full.safetensors: 48 of 48 modules, rank 4, alpha 2, strength 0.5"
    caplog.clear()
    strange = {f"transformer_blocks.{i}.attn.nothing": layers["img_in"] for i in range(9)}
    beyond = {"transformer_blocks.7.attn.to_q": layers["transformer_blocks.0.attn.to_q"]}
    model.with_loras([adapter(tmp_path, layers | strange | beyond, 1.0, "partial")])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "48 of 58 modules" in record.message and "10 not applied: " in record.message
    assert "transformer_blocks.7.attn.to_q (not in this model), " in record.message
    assert record.message.count("attn.nothing") == 4, "the first five are named"


@pytest.mark.parametrize("method", files.METHODS)
@pytest.mark.parametrize("grad", [False, True])
def test_branches_run_on_any_device_and_type(method, grad, tmp_path):
    """The meta device takes no tensor from elsewhere; bfloat16 stays bfloat16."""
    layer = Linear(32, 64)
    weight = layer.weight.detach()
    name = "transformer_blocks.0.attn.to_q"
    path = files.write_lora(tmp_path / "l.safetensors", {name: files.METHODS[method](weight)})
    change = load_lora(path).model[name].change
    for device, dtype in (("meta", torch.float32), ("cpu", torch.bfloat16)):
        on = layer.to(dtype) if device == "cpu" else Linear(32, 64, device="meta")
        branch = branch_of([(0.5, change)], BaseLayer(on), torch.device(device), dtype)
        with torch.set_grad_enabled(grad):
            x = torch.zeros(2, 5, 32, dtype=dtype, device=device)
            y = branch(x, torch.zeros(2, 5, 64, dtype=dtype, device=device))
        assert (y.shape, y.dtype, y.device.type) == ((2, 5, 64), dtype, device)


NORMS = [
    name.removesuffix(".weight")
    for name, shape in files.mmdit_layout(files.CONFIG).items()
    if name.endswith(".weight") and len(shape) == 1
]


@pytest.mark.parametrize("end", ["diff", "w_norm"])
@pytest.mark.parametrize("strength", [1.0, -0.6])
def test_differences_of_norms_equal_merged(end, strength, model, state, tmp_path):
    layers = files.layers_for("low_rank", state, RESIDENT[:3])
    shifts = {name: torch.randn_like(state[f"{name}.weight"]) * 0.3 for name in NORMS}
    merged = files.merged_state(state, [(layers, strength)])
    for name, shift in shifts.items():
        merged[f"{name}.weight"] += strength * shift
    both = layers | {name: {end: shift} for name, shift in shifts.items()}
    adapted = model.with_loras([adapter(tmp_path, both, strength)])
    assert not adapted.adapters[0].misses and "norm diff" in adapted.adapters[0].sentence()
    plain = drawn(model)
    got = drawn(adapted)
    want = drawn(load_diffusion_model(files.write_model(tmp_path / "m", merged)))
    assert relative(got, want) < 1e-5 < relative(plain, want)
    assert torch.equal(drawn(model), plain), "no trace is left"


def test_what_a_norm_cannot_take_is_named(model, state, tmp_path):
    layers = files.layers_for("low_rank", state, RESIDENT[:1])
    wide = {"txt_norm": {"diff": torch.ones(3)}}
    odd = {NORMS[1]: {"diff": torch.ones(16), "diff_b": torch.ones(16)}}
    dense = {RESIDENT[1]: {"diff_b": torch.ones(5)}}
    adapted = model.with_loras([adapter(tmp_path, layers | wide | odd | dense)])
    misses = sorted(adapted.adapters[0].misses, key=lambda miss: "norm" in miss)
    assert len(misses) == 3 and f"{RESIDENT[1]} (made for a bias of 5, here" in misses[0]
    assert "txt_norm (made for [3], here [32])" in misses[1]
    assert f"{NORMS[1]}.diff_b (norms take plain differences" in misses[2]
