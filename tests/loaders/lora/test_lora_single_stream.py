"""LoRAs of Qwen-Image-2.1 in every spelling on files of both: equal to merging into the weights."""

from __future__ import annotations

import logging

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.forward import Inputs
from inkstone.kernels.references import ReferenceContext, References
from inkstone.loaders.arch.expected_tensors import mmdit_layout, single_stream_layout
from inkstone.loaders.arch.identify import identify
from inkstone.loaders.lora.adapters import Adapter, fit
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions

from ...support import lora_files, single_stream_files
from ...support.lora_files import METHODS, merged, write_lora
from ...support.oracle import measured, relative

CONFIG = single_stream_files.SingleStreamConfig(2, 1, 128, 64, 64, 256)
MODULES = [n[:-7] for n, s in single_stream_layout(CONFIG).items() if len(s) == 2]
WRAPPERS = ("", "transformer.", "diffusion_model.", "base_model.model.transformer.")
GATE_UP = "img_mlp.gate_up"


@pytest.fixture(scope="module")
def state():
    return single_stream_files.weights(1, CONFIG)


@pytest.fixture(scope="module")
def models(state, tmp_path_factory):
    """The model from a file of each spelling."""
    folder = tmp_path_factory.mktemp("models")
    spellings = {"split": state, "fused": single_stream_files.fused(state)}
    return {name: load(folder / f"{name}.safetensors", own) for name, own in spellings.items()}


def load(path, state):
    single_stream_files.write(path, state)
    return load_diffusion_model(path, LoadOptions(dtype=torch.float32))


def velocity(model) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    with model.adapted(), torch.inference_mode():
        return model.network(
            Inputs(
                img=torch.randn(1, 24, 64, generator=g),
                txt=torch.randn(1, 9, CONFIG.joint, generator=g),
                modulation=model.modulation(torch.tensor([0.7])),
                grids=[(1, 4, 6), (1, 6, 2)],
                references=ReferenceContext(References(torch.randn(1, 12, 64, generator=g))),
                slots=(4,),
            )
        )


def lora_of(method: str, state, fused: bool, modules=MODULES) -> dict[str, dict]:
    """Module as a file spells it -> its tensors."""
    torch.manual_seed(5)
    weights = single_stream_files.fused(state) if fused else state
    names = {m.replace("img_mlp.gate_layer", GATE_UP) if fused else m for m in modules}
    names = {n for n in names if f"{n}.weight" in weights}
    return {n: METHODS[method](weights[f"{n}.weight"]) for n in sorted(names)}


def merged_state(state, layers, strength: float):
    """The split weights with a LoRA of either spelling merged in."""
    fused = any(GATE_UP in name for name in layers)
    weights = dict(single_stream_files.fused(state) if fused else state)
    for module, parts in layers.items():
        weights[f"{module}.weight"] = merged(weights[f"{module}.weight"], parts, strength).float()
    if fused:
        for name in [n for n in weights if GATE_UP in n]:
            gate, up = weights.pop(name).chunk(2)
            weights[name.replace("gate_up", "gate_layer")] = gate
            weights[name.replace("gate_up", "proj")] = up
    return weights


# methods whose rows a fused layer has one by one
CASES = [(m, False) for m in METHODS if m not in ("diff", "peft_with_bias")]
CASES += [(m, True) for m in ("low_rank", "peft", "loha", "lokr", "dora_rows", "dora_peft")]


@pytest.mark.parametrize("file", ["split", "fused"])
@pytest.mark.parametrize(("method", "fused"), CASES)
def test_equal_to_merging(method, fused, file, models, state, tmp_path, caplog):
    layers = lora_of(method, state, fused)
    lora = load_lora(write_lora(tmp_path / "l.safetensors", layers, "transformer."))
    caplog.set_level(logging.INFO)
    got = velocity(models[file].with_loras([Adapter(lora, 0.7)]))
    assert f"{len(MODULES)} of {len(MODULES)} modules" in caplog.text
    want = velocity(load(tmp_path / "merged.safetensors", merged_state(state, layers, 0.7)))
    error, effect = measured(got, want), relative(velocity(models[file]), want)
    assert error <= 1e-5, f"{method}: relative error {error:.2e}"
    assert effect > 1e-2, f"the LoRA changes only {effect:.2e}: this test would see nothing"


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper, fused, models, state, tmp_path):
    layers = lora_of("peft", state, fused)
    plain = load_lora(write_lora(tmp_path / "plain.safetensors", layers))
    other = load_lora(write_lora(tmp_path / "other.safetensors", layers, wrapper))
    assert not other.unknown_modules and set(other.model) == set(plain.model) == set(MODULES)
    one, two = (velocity(models["fused"].with_loras([Adapter(x)])) for x in (plain, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("fused", [False, True])
def test_names_of_peft_adapters_and_flat_ones(fused, state, tmp_path):
    layers = lora_of("peft", state, fused)
    default = {
        name: {end.replace(".weight", ".default.weight"): t for end, t in parts.items()}
        for name, parts in layers.items()
    }
    lora = load_lora(write_lora(tmp_path / "default.safetensors", default, "base_model.model."))
    assert not lora.unknown_modules and set(lora.model) == set(MODULES)
    kohya = lora_of("low_rank", state, fused)
    flat = {name.replace(".", "_"): parts for name, parts in kohya.items()}
    for prefix in ("lora_unet_", "lora_transformer_", "lycoris_"):
        lora = load_lora(write_lora(tmp_path / f"{prefix}.safetensors", flat, prefix))
        assert not lora.unknown_modules and set(lora.model) == set(MODULES)


def test_both_halves_of_a_fused_layer_share_its_first_matrix(state, tmp_path):
    layers = lora_of("low_rank", state, True)
    lora = load_lora(write_lora(tmp_path / "l.safetensors", layers))
    halves = [lora.model[f"transformer_blocks.0.img_mlp.{n}"] for n in ("gate_layer", "proj")]
    gate, up = (half.change.delta for half in halves)
    assert gate.down is up.down
    whole = layers["transformer_blocks.0.img_mlp.gate_up"]["lora_up.weight"]
    assert torch.equal(torch.cat([gate.up, up.up]), whole), "gate first"


def test_norms(models, state, tmp_path):
    """Differences of norms, that of the text too, which is stored minus one."""
    names = ("txt_in.text_norm", "transformer_blocks.1.attn.norm_q")
    layers = {n: {"diff": torch.randn_like(state[f"{n}.weight"])} for n in names}
    lora = load_lora(write_lora(tmp_path / "l.safetensors", layers))
    got = velocity(models["split"].with_loras([Adapter(lora, 0.5)]))
    whole = dict(state)
    for name in names:
        whole[f"{name}.weight"] = whole[f"{name}.weight"] + 0.5 * layers[name]["diff"]
    error = measured(got, velocity(load(tmp_path / "merged.safetensors", whole)))
    assert error <= 1e-5, f"relative error {error:.2e}"


def test_files_are_recognised(state, tmp_path):
    path = write_lora(tmp_path / "l.safetensors", lora_of("low_rank", state, True))
    facts = identify(path)
    assert (facts.role, facts.family, facts.problem) == ("lora", "qwen-image-2.1", "")
    assert "Qwen-Image-2.1 LoRA" in facts.sentence
    first = lora_files.layers_for("low_rank", lora_files.random_state())
    facts = identify(write_lora(tmp_path / "first.safetensors", first))
    assert facts.family == "qwen-image" and not facts.problem


def test_a_lora_of_the_other_family_is_one_sentence(state, tmp_path):
    """Even where the shapes of its attention fit."""
    layouts = {
        "Qwen-Image": mmdit_layout(MMDiTConfig(2, 1, 128, 64, 64, 512)),
        "Qwen-Image-2.1": single_stream_layout(CONFIG),
    }
    first = {n[:-7]: torch.zeros(s) for n, s in layouts["Qwen-Image"].items() if s[1:]}
    loras = {
        "Qwen-Image": {n: METHODS["peft"](w) for n, w in first.items()},
        "Qwen-Image-2.1": lora_of("peft", state, False),
    }
    for trained, own in (("Qwen-Image", "Qwen-Image-2.1"), ("Qwen-Image-2.1", "Qwen-Image")):
        lora = load_lora(write_lora(tmp_path / f"{trained}.safetensors", loras[trained]))
        count = len(loras[trained])
        with pytest.raises(InkstoneError) as caught:
            fit(Adapter(lora), "model", layouts[own])
        assert str(caught.value) == (
            f"{lora.path}: 0 of {count} modules of this LoRA are applied: it was trained for "
            f"{trained}, the diffusion model is {own}. Choose a LoRA of this model."
        )
        assert len(fit(Adapter(lora), "model", layouts[trained]).layers) == count
