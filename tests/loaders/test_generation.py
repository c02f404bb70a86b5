"""Answers of the text encoder against transformers: greedy text, scores, pictures, batches."""

from __future__ import annotations

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.kv_cache import CHUNK, KeyValues, cache_bytes
from inkstone.loaders.models.generation import TextPrompt, generate
from inkstone.loaders.models.load import load_text_encoder
from inkstone.sampling.next_token import Decoding
from inkstone.sampling.vision_sizes import answer_sizes

from ..support import tiny
from ..support.oracle import measured
from ..support.vision import PAD, image, processor, random_qwen, save_encoder
from ..support.vision_deep import processor3, random_qwen3

QWEN3 = "Qwen3-VL"
SHAPES = {
    QWEN3: dict(),
    "two layers": dict(),
    "three layers, grouped 4:2": dict(width=64, kv=2, layers=3, heads=4),
    "five layers, grouped 6:2": dict(
        width=192, kv=2, layers=5, heads=6, tower="three heads, small windows"
    ),
}
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
TEXT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PICTURES = [(64, 48), (90, 61), (28, 150)]
PLAIN = Decoding(max_tokens=64, repetition_penalty=1.0)


@pytest.fixture(scope="module", params=SHAPES)
def both(request, tmp_path_factory):
    """(transformers' model, ours loaded from the folder that it saved)."""
    make = random_qwen3 if request.param == QWEN3 else random_qwen
    reference = make(**SHAPES[request.param])
    folder = save_encoder(reference, tmp_path_factory.mktemp("qwen"))
    return reference, load_text_encoder(folder)


def theirs(reference, prompt: str, sizes: list, decoding: Decoding, stop: bool = True):
    """(new ids, scores of every step) of transformers for a prompt and pictures of these sizes."""
    words = tiny.tokenizer()
    images = [image(*size, seed=n)[0] for n, size in enumerate(sizes)]
    extra = {}
    if images:
        look = processor3() if reference.config.model_type == "qwen3_vl" else processor()
        seen = look(images=images, return_tensors="pt")
        counts = (seen["image_grid_thw"].prod(1) // 4).tolist()
        for count in counts:
            prompt = prompt.replace("<|image_pad|>", "\0" * count, 1)
        prompt = prompt.replace("\0", "<|image_pad|>")
        extra = dict(seen)
    ids = words(prompt, return_tensors="pt")["input_ids"]
    if images:
        extra["mm_token_type_ids"] = (ids == PAD).int()
    ends = [words.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    done = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=decoding.max_tokens,
        do_sample=False,
        repetition_penalty=decoding.repetition_penalty,
        eos_token_id=ends if stop else None,
        pad_token_id=ends[1],
        return_dict_in_generate=True,
        output_logits=True,
        **extra,
    )
    return done.sequences[0, ids.shape[1] :].tolist(), torch.cat(done.logits)


def prompt_of(sizes: list, text: str) -> TextPrompt:
    whole = TEXT.format(PICTURE * len(sizes) + text)
    return TextPrompt(whole, [image(*size, seed=n)[1] for n, size in enumerate(sizes)], 12845056)


def scores_of(model, prompt: TextPrompt, tokens: list[int], monkeypatch) -> torch.Tensor:
    """Our scores of every step."""
    head, kept = model.head.open(), []
    plain = head.scores
    with monkeypatch.context() as patch:
        patch.setattr(
            model.head,
            "_model",
            type(head)(lambda s: kept.append(plain(s)) or kept[-1], head.weights, head.format),
        )
        got = generate(model, [prompt], Decoding(max_tokens=len(tokens), repetition_penalty=1.0))
    assert list(got[0].tokens) == tokens
    return torch.cat(kept)


@pytest.mark.parametrize("count", [0, 1, 3], ids=["no picture", "one picture", "three pictures"])
def test_greedy_text_and_scores(both, count, monkeypatch):
    reference, ours = both
    sizes = PICTURES[:count]
    prompt = prompt_of(sizes, "what is this? 招牌")
    want, logits = theirs(reference, prompt.text, sizes, PLAIN)
    got = generate(ours, [prompt], PLAIN)[0]
    assert list(got.tokens) == want and len(want) > 3
    assert got.ended == (want[-1] in (257, 258) or len(want) < 64)
    own = scores_of(ours, prompt, want, monkeypatch)
    error = (own - logits).abs().max() / logits.abs().max()
    assert error < 1e-4, f"scores differ by {error:.1e}"
    sight = ours.vision.open().sight
    assert got.seen == tuple(answer_sizes(*size, prompt.area, sight)[1] for size in sizes)


def test_64_tokens_without_a_stop(both, monkeypatch):
    """Random models may stop early: here nothing stops them."""
    reference, ours = both
    monkeypatch.setattr("inkstone.loaders.models.generation.STOPS", ())
    prompt = prompt_of(PICTURES[1:2], "describe")
    want, _ = theirs(reference, prompt.text, PICTURES[1:2], PLAIN, stop=False)
    assert len(want) == 64
    # theirs(…) numbers the pictures from 0, so the same picture has the same seed
    prompt = TextPrompt(prompt.text, [image(*PICTURES[1], seed=0)[1]], prompt.area)
    got = generate(ours, [prompt], PLAIN)[0]
    assert list(got.tokens) == want and not got.ended


def test_the_repetition_penalty(both, monkeypatch):
    reference, ours = both
    decoding = Decoding(max_tokens=32, repetition_penalty=1.3)
    prompt = prompt_of(PICTURES[:1], "red red red")
    want, _ = theirs(reference, prompt.text, PICTURES[:1], decoding)
    assert list(generate(ours, [prompt], decoding)[0].tokens) == want
    assert want != theirs(reference, prompt.text, PICTURES[:1], PLAIN)[0][: len(want)]


def test_a_cache_changes_nothing(both):
    """Scores of each token read alone behind a cache that grows, against one forward over all."""
    _, ours = both
    ids = torch.randint(0, 256, (1, CHUNK + 40))
    cache = KeyValues(ours.network.config.layers)
    with torch.inference_mode():
        whole = ours.network(ids)
        parts = [ours.network(ids[:, :30], [cache])]
        parts += [ours.network(ids[:, n : n + 1], [cache]) for n in range(30, ids.shape[1])]
    error = measured(torch.cat(parts, 1), whole)
    assert error < 1e-5, f"relative error {error:.1e}"
    assert cache.length == ids.shape[1]
    assert cache.nbytes <= cache_bytes(ours.network.config, cache.length, torch.float32)


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_a_batch_equals_singles(both, temperature):
    """Prompts of different lengths, with and without pictures; row k draws with seed + k."""
    _, ours = both
    prompts = [prompt_of(PICTURES[:n], text) for n, text in ((1, "why?"), (0, "a"), (2, "b c"))]
    own = Decoding(max_tokens=24, temperature=temperature, top_p=0.9, top_k=40, seed=5)
    pieces: list[list[str]] = [[], [], []]
    got = generate(ours, prompts, own, lambda row, piece: pieces[row].append(piece))
    for n, (prompt, answer) in enumerate(zip(prompts, got)):
        seeded = Decoding(max_tokens=24, temperature=temperature, top_p=0.9, top_k=40, seed=5 + n)
        alone = generate(ours, [prompt], seeded)[0]
        assert answer.tokens == alone.tokens and answer.text == alone.text
        assert "".join(pieces[n]) == answer.text
    if temperature:
        other = Decoding(max_tokens=24, temperature=temperature, top_p=0.9, top_k=40, seed=77)
        assert generate(ours, prompts[:1], other)[0].tokens != got[0].tokens


def test_a_lora_changes_answers_as_merged_weights_do(tmp_path):
    from inkstone.loaders.lora.adapters import Adapter
    from inkstone.loaders.lora.file import load_lora

    from ..support.oracle import save_file

    reference = random_qwen(**SHAPES["three layers, grouped 4:2"])
    folder = save_encoder(reference, tmp_path)
    base, torch_rng = load_text_encoder(folder), torch.Generator().manual_seed(3)
    lora = {}
    layers = reference.model.language_model.layers
    prompt = prompt_of(PICTURES[:1], "x")
    plain = generate(base, [prompt], PLAIN)[0].tokens
    for n, layer in enumerate(layers):
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            weight = layer.get_submodule(name).weight
            down = torch.randn(4, weight.shape[1], generator=torch_rng) * 0.2
            up = torch.randn(weight.shape[0], 4, generator=torch_rng) * 0.2
            lora[f"text_encoder.model.layers.{n}.{name}.lora_A.weight"] = down
            lora[f"text_encoder.model.layers.{n}.{name}.lora_B.weight"] = up
            weight.data += up @ down
    save_file(lora, tmp_path / "lora.safetensors")
    adapted = base.with_loras([Adapter(load_lora(tmp_path / "lora.safetensors"))])
    want, _ = theirs(reference, prompt.text, PICTURES[:1], PLAIN)
    got = generate(adapted, [prompt], PLAIN)[0].tokens
    assert list(got) == want and got != plain
    assert generate(base, [prompt], PLAIN)[0].tokens == plain


def test_stopping_while_it_writes(both):
    from inkstone.kernels.interrupt import listen

    class Stop(Exception):
        pass

    _, ours = both
    pieces: list[str] = []

    def listener(task: str, amount: float, total: float) -> None:
        if task == "tokens" and amount == 2:
            raise Stop

    before = listen(listener)
    try:
        with pytest.raises(Stop):
            generate(ours, [prompt_of([], "a")], PLAIN, lambda _, piece: pieces.append(piece))
    finally:
        listen(before)
    assert len(pieces) <= 2
    assert all(not layer.mlp.up_proj.branches for layer in ours.network.layers)


@pytest.mark.parametrize(
    "text, pictures, decoding, words",
    [
        ("a", [torch.rand(9, 9, 3)], PLAIN, "0 places for pictures.*expected 1"),
        ("<|image_pad|>", [], PLAIN, "1 places for pictures.*expected 0"),
        ("a", [], Decoding(max_tokens=32768), "takes 32768 in all"),
        ("a", [], Decoding(temperature=-1), "temperature is -1: expected a number from 0 to 100"),
        ("a", [], Decoding(top_p=0), "top_p is 0"),
    ],
)
def test_bad_calls_are_refused(both, text, pictures, decoding, words):
    with pytest.raises(InkstoneError, match=words):
        generate(both[1], [TextPrompt(text, pictures)], decoding)
