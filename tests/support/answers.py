"""Stand-ins for the language model that answer what a test says: a stub, and files of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.generation import GeneratedText
from inkstone.pipeline import find as find_module
from inkstone.sampling.vision_sizes import answer_sizes

from .oracle import load_file


class Stub:
    """Answers every question with `text`; keeps what it was asked."""

    def __init__(self, text: str, ended: bool = True) -> None:
        self.text, self.ended, self.asked = text, ended, []

    def __call__(self, text_encoder, question, pictures, decoding, on_text, most) -> GeneratedText:
        self.asked.append((question, decoding, most))
        (picture,) = pictures
        seen = answer_sizes(picture.shape[-2], picture.shape[-3], most)[1]
        for k in range(0, len(self.text), 7):
            on_text(self.text[k : k + 7])
        return GeneratedText(self.text, (0,), self.ended, 9, (seen,), 1.0, 0.1)


def answering(monkeypatch: pytest.MonkeyPatch, text: str, ended: bool = True) -> Stub:
    """A stub in the place of the model."""
    stub = Stub(text, ended)
    monkeypatch.setattr(find_module, "ask", stub)
    return stub


def as_answer(spans, seen, size, label="thing") -> str:
    """Boxes in pixels of a picture of `size` as the model writes them, in pixels of `seen`."""
    scale = (seen[0] / size[0], seen[1] / size[1])
    rows = [[v * scale[k % 2] for k, v in enumerate(span)] for span in spans]
    text = json.dumps([{"bbox_2d": row, "label": label} for row in rows])
    return f"```json\n{text}\n```"


def scripted(folder: Path, text: str) -> None:
    """Changes the tiny model of a folder so that its text encoder gives one answer to everything.

    The answer is one token of the vocabulary. Layers of the language model add nothing, so the head
    sees only the last token: the answer follows the end of the template, and the end the answer.
    """
    path = folder / "tokenizer" / "tokenizer.json"
    whole = json.loads(path.read_text("utf-8"))
    answer = max(entry["id"] for entry in whole["added_tokens"]) + 1
    whole["added_tokens"].append({**whole["added_tokens"][-1], "id": answer, "content": text})
    whole["added_tokens"][-1]["special"] = False
    path.write_text(json.dumps(whole), "utf-8")
    newline = whole["model"]["vocab"]["\u010a"]
    end = next(e["id"] for e in whole["added_tokens"] if e["content"] == "<|im_end|>")

    (file,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight")):
            tensor.zero_()
        if name.endswith("norm.weight") and "layers" not in name and "visual" not in name:
            tensor.fill_(1)
    (embeddings,) = (t for name, t in tensors.items() if name.endswith("embed_tokens.weight"))
    head = tensors["lm_head.weight"].zero_()
    head[answer] = torch.nn.functional.normalize(embeddings[newline].float(), dim=0).to(head)
    head[end] = torch.nn.functional.normalize(embeddings[answer].float(), dim=0).to(head)
    save_safetensors(file, tensors, {"format": "pt"})
