"""Bad files through the command line: the fault, the remedy, and nothing left behind.

The model is the embedded one, damaged in one place at a time. Bad calls and graphs are in
tests/headless/cli/test_bad_calls.py.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas

from ..support.headers import TINY, named
from .test_identify_others import sd_vae
from .test_safetensors_file import one, raw, two

SLOTS = {
    "model": EMBEDDED_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors",
    "text-encoder": EMBEDDED_FOLDER / "text_encoder" / "model.safetensors",
    "vae": EMBEDDED_FOLDER / "vae" / "diffusion_pytorch_model.safetensors",
}
QUICK = ("--size", "32x32", "--steps", "2", "--cfg", "1", "--dtype", "float32")
State = dict[str, torch.Tensor]


def shapes(layout: dict[str, tuple[int, ...]]) -> Callable[[Path], None]:
    """Writes a file of zeros in these shapes."""
    return lambda path: save_safetensors(path, {n: torch.zeros(s) for n, s in layout.items()})


def edit(slot: str, change: Callable[[State], object]) -> Callable[[Path], None]:
    """Writes the embedded file of a slot after `change` on its tensors."""

    def write(path: Path) -> None:
        with SafetensorsFile(SLOTS[slot]) as file:
            tensors = {name: file.read(name) for name in file.entries}
            metadata = file.metadata
        change(tensors)
        save_safetensors(path, tensors, metadata)

    return write


def drop(slot: str, *starts: str) -> Callable[[Path], None]:
    return edit(slot, lambda t: [t.pop(n) for n in list(t) if n.startswith(starts)])


def data(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(SLOTS["model"].read_bytes()[:-1000])


def huge_gguf(path: Path) -> None:
    """20 GB that take no room: its first eight bytes would fit inside as a header's length."""
    path.write_bytes(b"GGUF\3\0\0\0")
    os.truncate(path, 20 << 30)


def pickled_folder(path: Path) -> None:
    path.mkdir()
    torch.save({"w": torch.zeros(1)}, path / "pytorch_model.bin")


def lost_shard(path: Path) -> None:
    path.mkdir()
    index = {"metadata": {}, "weight_map": {"img_in.weight": "m-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


Q = "transformer_blocks.1.attn.to_q.weight"
MOD = "transformer_blocks.1.img_mod.1.weight"
CONV = "decoder.up_blocks.2.resnets.0.conv1.weight"
LORA = named(f"{Q[:-7]}.lora_A.weight", "transformer_blocks.0.img_mlp.net.2.lora_B.weight")
FLUX = named("double_blocks.0.img_attn.qkv.weight")
TWO_ONE = named("txt_in.text_norm.weight", "modulation.1.weight", "img_in.weight")
AGAIN, OTHER = "ownload it again", "hoose another file from models/"
# what -> (slot, writer, words that the message must have: the thing, the remedy)
BAD_FILES = {
    "missing key": (
        "model",
        drop("model", "proj_out.weight"),
        ("1 tensors are missing (proj_out.weight)", AGAIN),
    ),
    "missing modulation": (
        "model",
        drop("model", "transformer_blocks.1.img_mod."),
        ("2 tensors are missing (transformer_blocks.1.img_mod.1", AGAIN),
    ),
    "extra key": (
        "model",
        edit("model", lambda t: t.update(extra=torch.zeros(2))),
        ("1 tensors are unexpected (extra)", AGAIN),
    ),
    "wrong shape": (
        "model",
        edit("model", lambda t: t.update({Q: torch.zeros(7, 5)})),
        (f"{Q} expected [", "got [7, 5]", AGAIN),
    ),
    "wrong rank": (
        "model",
        edit("model", lambda t: t.update({Q: torch.zeros(2, 3, 4)})),
        (f"tensor {Q} has shape [2, 3, 4], expected [", AGAIN),
    ),
    "wrong rank of a modulation": (
        "model",
        edit("model", lambda t: t.update({MOD: torch.zeros(2, 3, 4)})),
        (f"modulation tensor {MOD} expected shape [", "got shape [2, 3, 4]", AGAIN),
    ),
    "integers": (
        "model",
        edit("model", lambda t: t.update({Q: t[Q].long()})),
        (f"layer {Q[:-7]}: its weight holds int64", "Use this model in bf16"),
    ),
    "text MLP lost": (
        "text-encoder",
        drop("text-encoder", "model.layers.0.mlp.up_proj."),
        ("1 tensors are missing (layers.0.mlp.up_proj.weight)", AGAIN),
    ),
    "VAE stage lost": (
        "vae",
        drop("vae", "decoder.up_blocks.3."),
        ("tensors are missing (decoder.up_blocks.3.", AGAIN),
    ),
    "VAE block lost": (
        "vae",
        drop("vae", "decoder.up_blocks.0.resnets.1."),
        ("(decoder.up_blocks.0.resnets.1.norm1.gamma", AGAIN),
    ),
    "VAE entry lost": (
        "vae",
        drop("vae", "decoder.conv_in."),
        ("2 tensors are missing (decoder.conv_in.weight", AGAIN),
    ),
    "VAE decoder lost": (
        "vae",
        drop("vae", "decoder.up_blocks."),
        ("tensors are missing (", AGAIN),
    ),
    "VAE of other widths": (
        "vae",
        edit("vae", lambda t: t.update({CONV: torch.zeros(1, 1, 3, 3)})),
        ("tensors have wrong shapes (", AGAIN),
    ),
    "truncated": ("model", cut, ("the file is truncated: 1000 of", AGAIN)),
    "empty file": ("vae", data(b""), ("it has 0 bytes", AGAIN)),
    "header bomb": ("model", data(raw(b"{}", length=2**62)), (f"got {2**62}", AGAIN)),
    "deep JSON": ("model", data(raw("[" * 100_000)), ("nested too deeply", AGAIN)),
    "overlap": ("vae", data(raw(two((0, 8), (4, 12)), b"\0" * 12)), ("an overlap of", AGAIN)),
    "negative offset": ("vae", data(raw(one(offsets=(-8, 0)))), ("'w' holds -8", AGAIN)),
    "unknown dtype": ("model", data(raw(one("F6_E2M3"), b"\0" * 8)), ("type 'F6_E2M3'", AGAIN)),
    "text file": ("model", data(b"not weights at all, but a line of text"), ("header", AGAIN)),
    "checkpoint": (
        "model",
        lambda path: torch.save({"w": torch.zeros(1)}, path),
        ("a pickled PyTorch checkpoint", "the publisher's .safetensors file"),
    ),
    "web page": ("vae", data(b"<!DOCTYPE html><html>log in</html>"), ("a web page", "Log in")),
    "folder of pickles": (
        "model",
        pickled_folder,
        ("has no weight file (.safetensors", "pytorch_model.bin", "publisher's .safetens"),
    ),
    "empty folder": ("vae", Path.mkdir, ("has no weight file", "Name the file")),
    "shard lost": ("model", lost_shard, ("m-00001-of-00002.safetensors is missing", "same folder")),
    "GGUF": (
        "model",
        data(b"GGUF\3\0\0\0" + b"\1" * 60),
        ("not a valid .gguf file", "72340172838076673 tensors", "Download it again"),
    ),
    "GGUF of 20 GB": (
        "model",
        huge_gguf,
        ("it contains no tensors", "Use the file with the weights"),
    ),
    "LoRA": ("model", shapes(LORA), ("Qwen-Image LoRA", "It belongs in models/loras")),
    "ControlNet": (
        "model",
        shapes(expected_tensors.controlnet_layout(TINY)),
        ("ControlNet, union", "It belongs in models/controlnet"),
    ),
    "layered": (
        "model",
        shapes(expected_tensors.mmdit_layout(replace(TINY, joint=128), layered=True)),
        ("Qwen-Image-Layered", "splits one picture into layers", "--image"),
    ),
    "most of Qwen-Image-2.1 lost": (
        "model",
        shapes(TWO_ONE),
        ("Qwen-Image-2.1 diffusion model", "tensors are missing (", AGAIN),
    ),
    "FLUX": ("model", shapes(FLUX), ("a FLUX model, not of the Qwen-Image family", OTHER)),
    "VAE of SDXL": ("vae", shapes(sd_vae(4)), ("SDXL (4 latent channels)", "needs its own", OTHER)),
    "unknown": ("vae", shapes({"a": (1,)}), ("a file of no known kind with 1 tensors (a", OTHER)),
    "text encoder as model": (
        "model",
        lambda p: shutil.copy(SLOTS["text-encoder"], p),
        ("expected a diffusion model", "belongs in models/text_encoders"),
    ),
    "model as VAE": (
        "vae",
        lambda p: shutil.copy(SLOTS["model"], p),
        ("expected a VAE", "It belongs in models/diffusion_models"),
    ),
    "VAE as text encoder": (
        "text-encoder",
        lambda p: shutil.copy(SLOTS["vae"], p),
        ("expected a text encoder", "It belongs in models/vae"),
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_file_in_a_slot(what, fails, tmp_path):
    slot, write, words = BAD_FILES[what]
    write(path := tmp_path / "weights.safetensors")
    slots = {k: EMBEDDED_FOLDER / v.parent.name for k, v in SLOTS.items()} | {slot: path}
    options = [part for name, file in slots.items() for part in (f"--{name}", file)]
    fails(("draw", "a red circle", "-o", "x.png", *QUICK, *options), (str(path), *words))


def folder(tmp_path: Path, file: str, change: Callable[[dict], dict] | str) -> Path:
    """A copy of the embedded folder with one JSON file changed, or replaced by a text."""
    shutil.copytree(EMBEDDED_FOLDER, target := tmp_path / "model")
    text = change if isinstance(change, str) else change(json.loads((target / file).read_text()))
    (target / file).write_text(text if isinstance(text, str) else json.dumps(text))
    return target


DIT_JSON, TEXT_JSON, VAE_JSON = (
    f"{part}/config.json" for part in ("transformer", "text_encoder", "vae")
)
BAD_CONFIGS = {
    "no JSON": (DIT_JSON, "{", ("config.json: not readable as JSON", "Download the file again")),
    "a list": (VAE_JSON, "[]", ("expected a JSON object, got list", "Download the file again")),
    "other layers": (
        DIT_JSON,
        lambda c: c | {"num_layers": 7},
        ("num_layers = 7, the tensors say", AGAIN),
    ),
    "rope axes": (
        DIT_JSON,
        lambda c: c | {"axes_dims_rope": [8, "x", 12]},
        ("Rope axes [8, 'x', 12] do not fit", "Check axes_dims_rope"),
    ),
    "three means": (
        VAE_JSON,
        lambda c: c | {"latents_mean": [0.0] * 3},
        ("latents_mean in config.json has 3 values, expected 16", "again"),
    ),
    "a std of 0": (
        VAE_JSON,
        lambda c: c | {"latents_std": [0.0] * 16},
        ("latents_std", "above 0", "again"),
    ),
    "other text layers": (
        TEXT_JSON,
        lambda c: c | {"num_hidden_layers": 9},
        ("num_hidden_layers = 9, the tensors say", AGAIN),
    ),
    "heads": (
        TEXT_JSON,
        lambda c: c | {"head_dim": 7},
        ("cannot be cut into heads", "publisher's config.json"),
    ),
    "scheduler": (
        "scheduler/scheduler_config.json",
        lambda c: c | {"_class_name": "DDIMScheduler"},
        ("names DDIMScheduler", "Use the scheduler folder of the original"),
    ),
    "tokenizer": ("tokenizer/vocab.json", "{}", ("not a usable tokenizer", AGAIN)),
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_bad_json_in_a_model_folder(what, fails, tmp_path):
    file, change, words = BAD_CONFIGS[what]
    model = folder(tmp_path, file, change)
    fails(("draw", "a red circle", "-o", "x.png", *QUICK, "--model", model), words)


def fill(name: str, value: float) -> Callable[[State], object]:
    return lambda t: t[name].view(-1)[:1].fill_(value)


NAN, INF = float("nan"), float("inf")
NOT_FINITE = {
    "NaN in block 0": (
        "model",
        fill("transformer_blocks.0.attn.to_q.weight", NAN),
        "transformer_blocks.0.attn.to_q.weight: ",
    ),
    "NaN in block 3's MLP": (
        "model",
        fill("transformer_blocks.3.img_mlp.net.2.weight", NAN),
        "transformer_blocks.3.img_mlp.net.2.weight: ",
    ),
    "NaN in block 2's modulation": (
        "model",
        fill("transformer_blocks.2.txt_mod.1.weight", NAN),
        "transformer_blocks.2.txt_mod.1.weight: ",
    ),
    "Inf in block 4": (
        "model",
        fill("transformer_blocks.4.attn.to_v.weight", INF),
        "transformer_blocks.4.attn.to_v.weight: ",
    ),
    "NaN at the end": ("model", fill("proj_out.weight", NAN), "tensor proj_out.weight: "),
    "NaN in the text encoder": (
        "text-encoder",
        lambda t: t["model.norm.weight"].fill_(NAN),
        "tensor model.norm.weight: ",
    ),
    "one NaN in a key of the text encoder": (
        "text-encoder",
        lambda t: t["model.layers.0.self_attn.k_proj.weight"].view(-1)[5:6].fill_(NAN),
        "layers.0.self_attn.k_proj.weight: 1 of ",
    ),
    "one infinity in the table of words": (
        "text-encoder",
        lambda t: t["model.embed_tokens.weight"][7, :1].fill_(INF),
        "embed_tokens.weight: 1 of ",
    ),
    "NaN in the VAE": ("vae", fill("decoder.conv_out.bias", NAN), "tensor decoder.conv_out.bias: "),
}


@pytest.mark.parametrize("what", NOT_FINITE)
def test_numbers_that_are_not_finite_stop_the_first_step(what, fails, tmp_path):
    slot, change, where = NOT_FINITE[what]
    model = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    edit(slot, change)(model / SLOTS[slot].relative_to(EMBEDDED_FOLDER))
    call = ("draw", "a red circle", "-o", "x.png", *QUICK, "--save-latent", "x.safetensors")
    output = fails((*call, "--model", model), (where, "o picture was saved", "download it again"))
    assert "step 1/2" not in output, "the first use must report it"


def test_numbers_that_are_not_finite_in_a_run_name_their_block():
    """The check of the first step, for what no weight shows: overflows of a half type."""
    bundle = load_all(None)
    bundle.model.network.transformer_blocks[3].img_mlp.net[2].weight.data[0, 0] = NAN
    text = bundle.text_encoder.encode("a red circle").states
    with pytest.raises(InkstoneError, match="block 3, .* not finite .*no picture was saved"):
        denoise(bundle.model, text, None, Request(32, 32, sigmas(LINEAR, 2, 4)))


@pytest.mark.parametrize("what", ["truncated", "GGUF", "LoRA", "VAE of SDXL", "missing key"])
def test_inspect_tells_bad_files_and_goes_on(what, place, capsys, tmp_path):
    BAD_FILES[what][1](path := tmp_path / "weights.safetensors")
    status = main(["inspect", str(path), str(SLOTS["vae"])])
    first, second = capsys.readouterr().out.splitlines()
    assert status == (what != "LoRA") and first.startswith(f"{path}: ")
    assert BAD_FILES[what][2][0] in first and second.startswith(f"{SLOTS['vae']}: embedded VAE")
