"""Targets: weight files and what lies beside them."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
from torch import nn

from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.arch.config import mmdit_config, text_config
from inkstone.loaders.arch.family import family_of
from inkstone.loaders.arch.folder_config import ModelFolder
from inkstone.loaders.arch.identify import identify
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.hf_folder import config_of, known_config
from inkstone.loaders.formats.imatrix import read_imatrix
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.lora.adapters import Adapter, fit
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.tokenizer import load_tokenizer
from inkstone.loaders.models.tokenizer_gguf import gguf_tokenizer
from inkstone.loaders.models.vision_gguf import VisionFile, find_mmproj
from inkstone.quant.registry import find_packed
from inkstone.sampling.schedule import sigmas
from inkstone.training.checkpoint import EMA, Checkpoint, require_same_run

from ..support import lora_files
from ..support.headers import TEXT, TINY
from .files import emptied, split, written

_MOST = 1 << 20  # numbers of a tensor that a target reads
SAMPLE = "A cat 12 <|im_start|>user\n 犬 'll"


def fuzz_gguf(data: bytes) -> None:
    """Header, tables and tensors of a GGUF file."""
    with open_weights(written("model.gguf", data)) as file:
        for name in list(getattr(file, "arrays", ()))[:50]:
            file.kv_array(name)
        _read(file)


def fuzz_safetensors(data: bytes) -> None:
    """Header and tensors of a .safetensors file."""
    with open_weights(written("model.safetensors", data)) as file:
        _read(file)


def _read(file) -> None:
    for name, entry in list(file.entries.items())[:100]:
        if entry.numel <= _MOST:
            file.read(name)


def fuzz_shards(data: bytes) -> None:
    """An index JSON with two parts beside it."""
    index, one, two = split(data, 3)
    home = emptied("shards")
    (home / "one.safetensors").write_bytes(one)
    (home / "two.safetensors").write_bytes(two)
    (home / "model.safetensors.index.json").write_bytes(index)
    with open_weights(home) as file:
        _read(file)


def fuzz_packed(data: bytes) -> None:
    """Packed weights and the tensors beside them, with the config.json that describes them."""
    config, weights = split(data, 2)
    home = emptied("packed")
    (home / "config.json").write_bytes(config or b"{}")
    (home / "model.safetensors").write_bytes(weights)
    with open_weights(home) as file:
        table = {name: name for name in file.entries}
        for weight in list(find_packed(file, table, config_of(home)).values())[:20]:
            weight.load().dequantize(torch.float32)


def fuzz_identify(data: bytes) -> None:
    """What a file is: names, shapes, metadata, config.json."""
    config, weights = split(data, 2)
    home = emptied("identify")
    (home / "config.json").write_bytes(config or b"{}")
    name = "m.gguf" if weights.startswith(b"GGUF") else "m.safetensors"
    (home / name).write_bytes(weights)
    identify(home)
    for want in (None, "vae", "text_encoder"):
        identify(home / name, want)


def fuzz_model_config(data: bytes) -> None:
    """The JSON files of a model folder."""
    transformer, text, vae, scheduler, index = split(data, 5)
    home = emptied("folder")
    for name, content in (
        ("transformer/config.json", transformer),
        ("text_encoder/config.json", text),
        ("vae/config.json", vae),
        ("scheduler/scheduler_config.json", scheduler),
        ("model_index.json", index),
    ):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(content or b"{}")
    family, folder = family_of({}), ModelFolder(home, "transformer")
    folder.pipeline, folder.preview_factors()
    folder.latent_statistics(family)
    for layered in (False, True):
        schedule = folder.schedule(family, layered)
        sigmas(schedule, 4, 4096)
    shapes = _shapes()
    mmdit_config(shapes["mmdit"], family, folder.config)
    text_config(shapes["text"], known_config(ModelFolder(home, "text_encoder").config))


@functools.lru_cache(maxsize=1)
def _shapes() -> dict[str, dict]:
    return {
        "mmdit": expected_tensors.mmdit_layout(TINY),
        "text": expected_tensors.text_layout(TEXT),
    }


def fuzz_lora(data: bytes) -> None:
    """Names, parts, alphas and metadata of a LoRA, and how it fits a model."""
    lora = load_lora(written("lora.safetensors", data))
    layout = expected_tensors.mmdit_layout(lora_files.CONFIG)
    fit(Adapter(lora), "model", layout)


def fuzz_tokenizer_json(data: bytes) -> None:
    """A tokenizer.json."""
    home = emptied("tokenizer-json")
    (home / "tokenizer.json").write_bytes(data)
    _use(load_tokenizer(home))


def fuzz_tokenizer_parts(data: bytes) -> None:
    """vocab.json, merges.txt, tokenizer_config.json, added_tokens.json."""
    home = emptied("tokenizer")
    names = ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json")
    for name, part in zip(names, split(data, 4)):
        if part:
            (home / name).write_bytes(part)
    _use(load_tokenizer(home))


def fuzz_tokenizer_gguf(data: bytes) -> None:
    """The tokenizer in the header of a GGUF text encoder."""
    with GGUFFile(written("encoder.gguf", data)) as file:
        _use(gguf_tokenizer(file))


def _use(tokenizer) -> None:
    ids = tokenizer.encode(SAMPLE)
    tokenizer.decode(ids)
    len(tokenizer)


def fuzz_mmproj(data: bytes) -> None:
    """The vision tower beside a GGUF text encoder."""
    home = emptied("mmproj")
    (home / "mmproj.gguf").write_bytes(data)
    (home / "encoder.gguf").write_bytes(b"GGUF")
    find_mmproj(home / "encoder.gguf", 32)
    with VisionFile(home / "mmproj.gguf") as file:
        _read(file)


def fuzz_imatrix(data: bytes) -> None:
    """An importance matrix, GGUF or .dat."""
    importance = read_imatrix(written("imatrix", data))
    for name, values in importance.values.items():
        importance.of((name,), len(values))


def fuzz_train_state(data: bytes) -> None:
    """The arguments and a checkpoint of an earlier `train`."""
    arguments, state = split(data, 2)
    home = emptied("train")
    (home / "run.json").write_bytes(arguments)
    (home / "stage.safetensors").write_bytes(state)
    checkpoint, module = Checkpoint(home / "stage.safetensors"), nn.Linear(3, 2)
    optimiser = SimpleNamespace(state={}, defaults={})  # a real one takes seconds to import
    checkpoint.finished(10)
    checkpoint.restore(module, EMA(module), optimiser)
    require_same_run(home, {"seed": 1, "start": None})
