"""The seed corpus of every target, made here: nothing of it lies in a file."""

from __future__ import annotations

from collections.abc import Callable

from . import graph_seeds, picture_seeds, score_seeds, weight_seeds

SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "gguf": weight_seeds.gguf_files,
    "safetensors": weight_seeds.safetensors_files,
    "shards": weight_seeds.shards,
    "packed": weight_seeds.packed,
    "identify": weight_seeds.models,
    "model_config": weight_seeds.model_configs,
    "lora": weight_seeds.loras,
    "tokenizer_json": weight_seeds.tokenizers_json,
    "tokenizer_parts": weight_seeds.tokenizer_parts,
    "tokenizer_gguf": weight_seeds.gguf_tokenizers,
    "mmproj": weight_seeds.mmprojs,
    "imatrix": weight_seeds.imatrices,
    "train_state": weight_seeds.train_states,
    "graph": lambda: [
        *graph_seeds.shipped(),
        *graph_seeds.api_graphs(),
        *graph_seeds.core_loaders(),
    ],
    "convert": lambda: [*graph_seeds.ui_graphs(), *graph_seeds.shipped()],
    "to_inkstone": graph_seeds.core_loaders,
    "to_ui": graph_seeds.api_graphs,
    "set_input": graph_seeds.settings,
    "object_info": graph_seeds.object_infos,
    "png_text": picture_seeds.png_texts,
    "jobs": graph_seeds.jobs,
    "journal": graph_seeds.journals,
    "prompt": graph_seeds.prompts,
    "options": graph_seeds.options,
    "keypoints": graph_seeds.poses,
    "boxes": graph_seeds.answers,
    "picture": picture_seeds.pictures,
    "profile": picture_seeds.profiles,
    "mask": picture_seeds.masks,
    "score_set": score_seeds.sets,
    "score_result": score_seeds.results,
}
