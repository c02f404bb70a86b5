"""The file that a training writes: its names, its strength for every reader, what it says."""

import hashlib
import json
import logging
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.arch.identify import identify
from inkstone.loaders.arch.key_maps_lora import DISTILLED_MODULES
from inkstone.loaders.arch.variant import CHOICES, VARIANTS
from inkstone.loaders.formats.safetensors import SafetensorsFile
from inkstone.loaders.lora.adapters import Adapter, fit
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas
from inkstone.training.lora.adapter import Adapter as Trained
from inkstone.training.lora.adapter import AdapterSettings
from inkstone.training.lora.save import DTYPES, Origin, metadata, save_lora, trained_tensors

from ...support import lora_files as files
from ...support.oracle import relative

KINDS = ("low_rank", "dora_rows", "lokr", "lokr_factored", "lokr_both_factored")
ORIGIN = Origin(
    name="hexagon",
    kind="lora",
    spec=VARIANTS["qwen-image"].spec,
    base="qwen-image-Q4_K_M.gguf",
    base_hash="sha256-head:12ab",
    version="0.1.0",
    date="2026-11-29",
    resolution=512,
    pictures=60,
    of_steps=900,
    buckets={(512, 512): 40, (448, 576): 20},
    settings={
        "steps": 300,
        "lr": 1e-4,
        "alpha": 2.0,
        "targets": ("attn",),
        "data": "/home/me/photos",
        "sample_prompts": ["my secret"],
    },
)


def tensors_of(method, seed=3):
    """An adapter on every linear layer of a tiny model, named as a trainer names it."""
    torch.manual_seed(seed)
    layers = files.layers_for(method, files.random_state())
    flat = {f"{m}.{end}": t for m, parts in layers.items() for end, t in parts.items()}
    return layers, {
        n.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): t for n, t in flat.items()
    }


@pytest.mark.parametrize("method", KINDS)
def test_it_loads_whole_and_as_strong_as_it_was_trained(tmp_path, method):
    layers, tensors = tensors_of(method)
    path = tmp_path / "x.safetensors"
    save_lora(path, tensors, ORIGIN, torch.float32)
    lora = load_lora(path)
    assert lora.model.keys() == layers.keys() and not lora.unknown_modules
    worst = max(
        relative(lora.model[m].change.delta.dense(), files.dense(parts))
        for m, parts in layers.items()
    )
    assert worst < 1e-6, f"{method}: differences differ by {worst:.1e} relative"
    if method.startswith("dora"):
        for module, parts in layers.items():
            assert torch.equal(lora.model[module].change.magnitude, parts["dora_scale"])


@pytest.fixture(scope="module")
def bundle():
    return load_all(None, LoadOptions(torch.float32))


@pytest.mark.parametrize("kind", ["lora", "lokr", "dora"])
@pytest.mark.parametrize("ranks", [{}, {"0": 8}])
def test_the_file_draws_what_was_trained(tmp_path, bundle, kind, ranks):
    """The network with what is trained, and with the file: one forward, float32."""
    model = bundle.model
    trained = Trained.create(
        model.network, AdapterSettings(kind=kind, rank=4, alpha=6.0, ranks=ranks, seed=5)
    )
    trained.start(model.read)
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path / "x.safetensors"
    save_lora(path, trained_tensors(trained), ORIGIN, torch.float32)
    request = Request(64, 64, sigmas(model.schedule, 2, 16), seed=5)
    text = bundle.text_encoder.encode("a red circle").states
    plain = denoise(model, text, None, request)
    with trained.on(model.network):
        want = denoise(model, text, None, request)
    adapted = model.with_loras([Adapter(load_lora(path))])
    assert len(adapted.adapters[0].layers) == len(trained.names) and not adapted.adapters[0].misses
    error, effect = relative(denoise(adapted, text, None, request), want), relative(plain, want)
    assert error < 1e-5 and effect > 0.05, f"error {error:.1e}, effect {effect:.1e}"


@pytest.mark.parametrize("method", KINDS)
def test_no_reader_can_take_another_strength(tmp_path, method):
    """Every alpha is the rank: a reader that ignores it, or takes ss_network_alpha, agrees."""
    _, tensors = tensors_of(method)
    path = tmp_path / "x.safetensors"
    save_lora(path, tensors, ORIGIN)
    with SafetensorsFile(path) as file:
        noted = file.metadata["ss_network_alpha"]
        assert noted == file.metadata["ss_network_dim"]
        alphas = [name for name in file.entries if name.endswith(".alpha")]
        assert len(alphas) == len(files.SHAPES)
        for name in alphas:
            module, alpha = name.removesuffix(".alpha"), file.read(name).item()
            ranked = [f"{module}.{e}" for e in ("lora_down.weight", "lokr_w2_b")]
            rank = next((file.entries[n].shape[0] for n in ranked if n in file.entries), 1)
            assert alpha == rank == float(noted), name


def test_a_peft_magnitude_is_written_as_a_column(tmp_path):
    layers, tensors = tensors_of("dora_peft")
    save_lora(tmp_path / "x.safetensors", tensors, ORIGIN)
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        for module, parts in layers.items():
            entry = file.entries[f"diffusion_model.{module}.dora_scale"]
            size = parts["lora_magnitude_vector"]
            assert (entry.shape, entry.dtype) == ((len(size), 1), torch.float32)
            assert torch.equal(file.read(f"diffusion_model.{module}.dora_scale")[:, 0], size)


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes(tmp_path, name):
    layers, tensors = tensors_of("low_rank")
    save_lora(tmp_path / "x.safetensors", tensors, ORIGIN, DTYPES[name])
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        kinds = {e.dtype for n, e in file.entries.items() if n.endswith(".weight")}
    assert kinds == {DTYPES[name]}
    change = load_lora(tmp_path / "x.safetensors").model["img_in"].change
    error = relative(change.delta.dense(), files.dense(layers["img_in"]))
    assert error < (1e-6 if name == "float32" else 1e-2), f"{error:.1e}"


def test_equal_trainings_give_equal_bytes_that_match_their_hash(tmp_path):
    _, tensors = tensors_of("low_rank")
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_lora(first, tensors, ORIGIN)
    save_lora(second, dict(reversed(tensors.items())), ORIGIN)
    data = first.read_bytes()
    assert data == second.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    with SafetensorsFile(first) as file:
        notes = file.metadata
    assert notes["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data[head:]).hexdigest()
    assert notes["sshs_model_hash"] == hashlib.sha256(data[head:]).hexdigest()


def test_what_it_says_of_itself():
    written = {"diffusion_model.img_in.alpha": torch.tensor(4.0)}
    notes = metadata(written, ORIGIN)
    want = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "Qwen-Image/lora",
        "modelspec.title": "hexagon",
        "modelspec.date": "2026-11-29",
        "modelspec.resolution": "512x512",
        "ss_output_name": "hexagon",
        "ss_base_model_version": "qwen_image",
        "ss_sd_model_name": "qwen-image-Q4_K_M.gguf",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "4",
        "ss_learning_rate": "0.0001",
        "ss_steps": "300",
        "ss_max_train_steps": "900",
        "ss_num_train_images": "60",
        "ss_resolution": "(512, 512)",
        "inkstone_base_hash": "sha256-head:12ab",
        "inkstone_version": "0.1.0",
    }
    assert {key: notes.get(key) for key in want} == want
    buckets = json.loads(notes["ss_bucket_info"])["buckets"]
    assert buckets["0"] == {"resolution": [448, 576], "count": 20} and len(buckets) == 2
    ours = json.loads(notes["inkstone_training"])
    assert ours == {"steps": 300, "lr": 1e-4, "alpha": 2.0, "targets": ["attn"]}


def test_captions_prompts_and_folders_are_private():
    text = json.dumps(metadata({}, ORIGIN))
    assert "secret" not in text and "photos" not in text and "ss_tag_frequency" not in text
    asked = Origin(name="h", kind="lokr", spec="x", captions=("a cat, red", "a cat"), trigger="zk")
    notes = metadata({}, asked)
    assert json.loads(notes["ss_tag_frequency"]) == {"h": {"a cat": 2, "red": 1}}
    assert notes["modelspec.trigger_phrase"] == "zk" and notes["ss_network_module"] == (
        "lycoris.kohya"
    )
    assert "" not in notes.values()


@pytest.mark.parametrize("name", ["edit-2511", "embedded-edit"])
def test_a_file_is_inspected_as_the_lora_of_its_variant(tmp_path, name):
    _, tensors = tensors_of("low_rank")
    save_lora(tmp_path / "a.safetensors", tensors, replace(ORIGIN, spec=VARIANTS[name].spec))
    facts = identify(tmp_path / "a.safetensors")
    assert f"Qwen-Image LoRA, for {VARIANTS[name].spec}, " in facts.sentence, facts.sentence


def test_every_variant_has_a_label():
    assert all(VARIANTS[name].spec for name in VARIANTS) and len(CHOICES) > 5


def test_modules_of_several_ranks_are_dynamic():
    ranks = {f"diffusion_model.m{r}.alpha": torch.tensor(float(r)) for r in (4, 8)}
    assert metadata(ranks, ORIGIN)["ss_network_dim"] == "Dynamic"


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    _, tensors = tensors_of("low_rank")
    odd = Origin(name="caf\udce9", kind="lora", spec="x")
    save_lora(tmp_path / "x.safetensors", tensors, odd)
    assert load_lora(tmp_path / "x.safetensors").model


def test_rank_64_on_every_layer_is_not_taken_for_a_lightning_lora(tmp_path, caplog):
    """With bare names and alpha tensors it would be: schedule and CFG would be changed."""
    names = [f"transformer_blocks.{i}.{m}" for i in range(2) for m in DISTILLED_MODULES]
    tensors = {}
    for name in names:
        n, k = files.SHAPES[name]
        tensors[f"{name}.lora_A.weight"] = torch.randn(64, k)
        tensors[f"{name}.lora_B.weight"] = torch.randn(n, 64)
        tensors[f"{name}.alpha"] = torch.tensor(64.0)
    save_lora(tmp_path / "x.safetensors", tensors, ORIGIN)
    assert load_lora(tmp_path / "x.safetensors").distilled is None
    files.save_file(tensors, tmp_path / "bare.safetensors")
    assert load_lora(tmp_path / "bare.safetensors").distilled is not None, "what is avoided"


def test_coverage_is_reported(tmp_path, caplog):
    _, tensors = tensors_of("low_rank")
    save_lora(tmp_path / "x.safetensors", tensors, ORIGIN)
    layout = files.mmdit_layout(files.CONFIG)
    with caplog.at_level(logging.INFO):
        fitted = fit(Adapter(load_lora(tmp_path / "x.safetensors")), "model", layout)
    count = len(files.SHAPES)
    assert not fitted.misses and f"{count} of {count} modules, rank 4, alpha 4" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_diverged_writes_nothing(tmp_path, value):
    _, tensors = tensors_of("low_rank")
    tensors["img_in.lora_B.weight"][1, 2] = value
    (tmp_path / "x.safetensors").write_bytes(b"before")
    with pytest.raises(InkstoneError, match="NaN or infinity in img_in.*diverged.*lower --lr"):
        save_lora(tmp_path / "x.safetensors", tensors, ORIGIN)
    assert (tmp_path / "x.safetensors").read_bytes() == b"before"


def test_what_is_no_part_of_a_lora_is_refused(tmp_path):
    with pytest.raises(InkstoneError, match="img_in.weight is no part of a LoRA"):
        save_lora(tmp_path / "x.safetensors", {"img_in.weight": torch.zeros(2, 2)}, ORIGIN)
