"""Qwen-Image-2.1 from files of every storage format, split and fused, against the plain weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.forward import Inputs
from inkstone.kernels.references import ReferenceContext, References
from inkstone.kernels.single_stream import SingleStream
from inkstone.loaders.arch.identify import identify, require
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions

from ..support import single_stream_files as files
from ..support.oracle import measured

CONFIG = files.CONFIG
SPELLINGS = {"split": dict, "fused": files.fused}


def load(path, **options):
    return load_diffusion_model(path, LoadOptions(dtype=torch.float32, **options))


def velocity(model, sigma: float = 0.7) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        return model.network(
            Inputs(
                img=torch.randn(1, 24, 64, generator=g),
                txt=torch.randn(1, 9, CONFIG.joint, generator=g),
                modulation=model.modulation(torch.tensor([0.9, sigma])).step(1),
                grids=[(1, 4, 6), (1, 6, 2)],
                references=ReferenceContext(References(torch.randn(1, 12, 64, generator=g))),
                slots=(4,),
            )
        )


@pytest.fixture(scope="module")
def state():
    return files.weights()


@pytest.fixture(scope="module")
def plain(state, tmp_path_factory):
    """The model of the plain weights."""
    return load(files.write(tmp_path_factory.mktemp("plain") / "m.safetensors", state))


def test_the_plain_file_is_the_reference(state, plain):
    """diffusers' own class with these weights."""
    from ..support.single_stream import reference_network, reference_velocity

    reference = reference_network(CONFIG)
    reference.load_state_dict(state)
    g = torch.Generator().manual_seed(3)
    inputs = Inputs(
        img=torch.randn(1, 24, 64, generator=g),
        txt=torch.randn(1, 9, CONFIG.joint, generator=g),
        modulation=plain.modulation(torch.tensor([0.7])),
        grids=[(1, 4, 6), (1, 6, 2)],
        references=ReferenceContext(References(torch.randn(1, 12, 64, generator=g))),
        slots=(4,),
    )
    want = reference_velocity(reference, inputs, torch.tensor([0.7]))
    error = measured(velocity(plain), want)
    assert error <= 1e-5, f"relative error {error:.2e}"


def compare(model, state, plain, most: float) -> None:
    """Every weight within the format's error, the velocity that of exactly these weights."""
    assert isinstance(model.network, SingleStream) and model.network.config == CONFIG
    own = {}
    for name, tensor in state.items():
        value = model.file.read(name)
        own[name] = value.float() if isinstance(value, torch.Tensor) else value.dequantize()
        error = measured(own[name], tensor)
        assert error <= most, f"{name} is off by {error:.1e}"
    want = SingleStream(CONFIG)
    want.load_state_dict({n: own[n] for n, _ in want.named_parameters()})
    from inkstone.kernels.shared_modulation import shared_modulation

    class Plain:
        network = want.eval()

        @staticmethod
        def modulation(sigmas):
            return shared_modulation(own.__getitem__, sigmas)

    error = measured(velocity(model), velocity(Plain))
    assert error <= 1e-5, f"the velocity is off by {error:.1e} from that of the same weights"
    if most == 0:
        error = measured(velocity(model), velocity(plain))
        assert error <= 1e-6, f"the velocity is off by {error:.1e} from the plain file's"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("case", files.SAFETENSORS)
def test_safetensors(case, spelling, state, plain, tmp_path):
    if case in ("mxfp8", "nvfp4", "int8 convrot", "convrot w4a4", "w4a8") or "comfy" in case:
        pytest.importorskip("comfy_kitchen", reason="the oracle of these formats")
    change, most = files.SAFETENSORS[case]
    prefix = "model.diffusion_model." if spelling == "fused" else ""
    path = files.write(tmp_path / "m.safetensors", change(SPELLINGS[spelling](state)), prefix)
    facts = identify(path)
    assert not facts.problem and facts.family == "qwen-image-2.1", facts.sentence
    assert facts.parameters == sum(t.numel() for t in state.values())
    model = load(path)
    compare(model, state, plain, most)
    if case not in ("float32", "bf16"):
        assert model.weights_format.split(" + ")[0] != "bfloat16", model.weights_format
    assert model.weights.nbytes < 1.02 * sum(p.nbytes for p in plain.network.parameters())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_dfloat11(spelling, state, plain, tmp_path):
    """A stream holds all matrices of a block, and config.json says which."""
    tensors, config = files.dfloat11(SPELLINGS[spelling](state))
    path = files.write(tmp_path / "m.safetensors", tensors)
    with pytest.raises(InkstoneError, match="nothing says which. Put the publisher's config.json"):
        load(path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load(path)
    assert model.weights_format.startswith("DFloat11"), model.weights_format
    compare(model, state, plain, 0.0)


@pytest.mark.parametrize(
    ("kind", "spelling"),
    [*((kind, "fused") for kind in files.GGUF), *((kind, "split") for kind in ("BF16", "Q8_0"))],
)
def test_gguf(kind, spelling, state, plain, tmp_path):
    pytest.importorskip("gguf")
    arch = "qwen_image21" if spelling == "fused" else "qwen_image"
    path = files.write_gguf(tmp_path / "m.gguf", SPELLINGS[spelling](state), kind, arch)
    facts = identify(path)
    assert not facts.problem and facts.family == "qwen-image-2.1", facts.sentence
    model = load(path)
    compare(model, state, plain, files.GGUF[kind])
    assert kind in model.weights_format or kind in ("BF16", "F16"), model.weights_format
    norm = model.network.txt_in.text_norm.weight
    assert torch.equal(norm, state["txt_in.text_norm.weight"]), "stored minus one, in BF16"


@pytest.mark.parametrize("case", ["bf16", "int8 convrot", "nf4"])
def test_streamed_blocks_give_the_same_bits(case, state, tmp_path):
    """Both parts of a fused matrix are loaded and freed with their block."""
    if case == "int8 convrot":
        pytest.importorskip("comfy_kitchen")
    change, _ = files.SAFETENSORS[case]
    path = files.write(tmp_path / "m.safetensors", change(files.fused(state)))
    whole = load(path)
    want = velocity(whole)
    resident = sum(p.nbytes for p in whole.network.parameters())
    whole.weights._arrange(replace(whole.weights.placement, resident=0, streamed=CONFIG.layers))
    assert sum(p.nbytes for p in whole.network.parameters() if not p.is_meta) < resident
    for _ in range(2):
        assert torch.equal(velocity(whole), want)


def test_a_file_of_half_types_stays_so_where_it_would_be_widened(state, tmp_path, monkeypatch):
    from inkstone.loaders.models import weight_file

    path = files.write(tmp_path / "m.safetensors", files.bf16(files.fused(state)))
    wide = load(path)
    monkeypatch.setattr(weight_file, "SMALL", 1)
    narrow = load(path)
    layer = narrow.network.transformer_blocks[0].img_mlp.gate_layer
    assert layer.storage.weight.dtype == torch.bfloat16
    error = measured(velocity(narrow), velocity(wide))
    assert error <= 1e-6, f"relative error {error:.1e}"


DAMAGE = {
    "a block": ("transformer_blocks.1.img_mlp.gate_up.weight", None, "missing"),
    "rows": ("transformer_blocks.1.img_mlp.gate_up.weight", (1025, 256), "wrong shapes"),
    "a stranger": ("transformer_blocks.1.img_mlp.gate_down.weight", (4, 4), "unexpected"),
    "modulation": ("modulation.1.weight", (1020, 256), "wrong shapes"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_refused_by_name(case, state, tmp_path):
    name, shape, words = DAMAGE[case]
    tensors = files.fused(state)
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(shape)
    path = files.write(tmp_path / "m.safetensors", tensors)
    with pytest.raises(InkstoneError) as caught:
        require(identify(path), "diffusion_model")
    assert words in str(caught.value) and name in str(caught.value), str(caught.value)
    with pytest.raises(InkstoneError):
        load(path)


def test_a_config_that_means_another_network_is_refused(state, tmp_path):
    import json

    folder = tmp_path / "transformer"
    folder.mkdir()
    files.write(folder / "diffusion_pytorch_model.safetensors", state)
    config = {"_class_name": "QwenImage21Transformer2DModel", "num_layers": 2}
    (folder / "config.json").write_text(json.dumps(config | {"causal_condition": True}))
    assert load(tmp_path).network.config == CONFIG
    (folder / "config.json").write_text(json.dumps(config | {"causal_condition": False}))
    with pytest.raises(InkstoneError, match="causal_condition = False"):
        load(tmp_path)
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    with pytest.raises(InkstoneError, match="num_attention_heads = 4, the tensors say 2"):
        load(tmp_path)
