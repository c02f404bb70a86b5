"""The LoRA loader: rows with a switch, a file and a strength."""

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.host.headless import HeadlessHost, using
from inkstone.nodes.lora import ROWS, LoraLoader, row
from inkstone.nodes.lora_stack import LoadLora, LoraStack
from inkstone.nodes.sockets import NO_FILE
from tests.support.embedded_loras import embedded_lora


@pytest.fixture
def models(tmp_path, bundle):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    for name in ("a", "b"):
        embedded_lora(tmp_path / "models" / "loras" / f"{name}.safetensors", bundle)
    with using(HeadlessHost((tmp_path / "models",), output=tmp_path / "out", device="cpu")) as host:
        yield host


def loaded(bundle, **inputs):
    return LoraLoader.execute(bundle.model, **inputs).result


def test_rows_are_what_the_stack_applies(models, bundle):
    rows = row(1, "a.safetensors", 0.5) | row(3, "b.safetensors")
    model, text, coverage = loaded(bundle, **rows)
    adapters = [
        LoadLora.execute(f"{n}.safetensors", s, "").result[0] for n, s in (("a", 0.5), ("b", 1.0))
    ]
    stack, lines, _ = LoraStack.execute(
        bundle.model, dict(zip(("lora_0", "lora_1"), adapters))
    ).result
    assert coverage == lines and text is None and not bundle.model.adapters
    assert [f.adapter.strength for f in model.adapters] == [
        f.adapter.strength for f in stack.adapters
    ]


def test_rows_that_are_off_or_empty_are_not_read(models, bundle):
    rows = row(1, "gone.safetensors") | {"on_1": False} | row(2, NO_FILE)
    assert loaded(bundle, **rows)[0] is bundle.model
    assert loaded(bundle)[2] == ""
    with pytest.raises(InkstoneError, match="gone.safetensors"):
        loaded(bundle, **rows | {"on_1": True})


def test_blocks_and_text_encoder(models, bundle):
    _, text, coverage = LoraLoader.execute(
        bundle.model, bundle.text_encoder, "0:2", **row(1, "a.safetensors")
    ).result
    assert coverage.endswith("blocks 0:2") and text is bundle.text_encoder
    with pytest.raises(InkstoneError, match="block strengths"):
        loaded(bundle, blocks="x", **row(1, "a.safetensors"))


@pytest.mark.parametrize(
    "strength, words", [("1", "expected a number"), (101.0, "from -100"), (float("nan"), "nan")]
)
def test_bad_strengths_are_refused(models, bundle, strength, words):
    with pytest.raises(InkstoneError, match=words):
        loaded(bundle, **row(2, "a.safetensors", strength))


def test_what_the_folder_does_not_have_is_refused(models):
    assert LoraLoader.validate_inputs(**row(1, "a.safetensors"), on_1=True, blocks="") is True
    assert "loras" in LoraLoader.validate_inputs(**row(ROWS, "c.safetensors"))
    assert LoraLoader.validate_inputs(**row(1, "../a.safetensors")) is not True


def test_without_a_model_it_says_so(models):
    with pytest.raises(InkstoneError, match="Inkstone Load LoRA has no model"):
        LoraLoader.execute(**row(1, "a.safetensors"))


def test_two_loaders_add_up(models, bundle):
    once = loaded(bundle, **row(1, "a.safetensors"), **row(2, "b.safetensors", 0.25))[0]
    first = loaded(bundle, **row(1, "a.safetensors"))[0]
    twice = LoraLoader.execute(first, **row(1, "b.safetensors", 0.25)).result[0]
    with once.adapted():
        a = once.network.transformer_blocks[0].attn.to_q(torch.ones(1, 128))
    with twice.adapted():
        b = twice.network.transformer_blocks[0].attn.to_q(torch.ones(1, 128))
    assert torch.equal(a, b)
