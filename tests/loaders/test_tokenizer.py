"""Ids must equal those of transformers' Qwen2Tokenizer; files are found, and missed in words."""

import json
import random
import sys
from pathlib import Path

import pytest

from inkstone.errors import InkstoneError
from inkstone.loaders.models import tokenizer as module
from inkstone.loaders.models.tokenizer import Tokenizer, find_tokenizer, load_tokenizer

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]
TRAINING = [
    "the cat sat on the mat and the hat, it's a \"sign\" that reads 'Open 24 hours'",
    "一只猫坐在垫子上，招牌上写着“营业中”。高分辨率，低画质",
    "été naïve Ångström übung",
    "\n\n\r\n  \t x  y",
    "🙂👩‍👩‍👧 emoji 12345 don't we'll I'M",
    "C++ == 100% (yes) [no] {maybe}",
] * 20
TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "a",
    "a cat",
    " a cat ",
    "It's the cat's hat, DON'T WE'LL",
    "24 hours 2026",
    "a sign that reads \"Open\" and 'closed'",
    "招牌上写着“营业中”。",
    "e\u0301te\u0301 vs été",
    "A\u030angstro\u0308m",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "a\u00a0b\u2003c\u200bd",
    "\r\n\r\n x\n\n y \n",
    "\t\ttabs   ",
    "<|im_start|>system\nhi<|im_end|>\n<|im_start|>user\n",
    "x<|image_pad|><|image_pad|>y",
    "<|vision_start|><|image_pad|><|vision_end|>draw it",
    "<|im_start",
    "|im_end|>",
    "< |im_end|>",
    "ﬁ ligature Å K Ω",
    "한국어 가나다",
    "मानक हिन्दी",
    "\u1100\u1161\u11a8",
    "0\u0000 nul",
    "<tool_call>{}</tool_call>",
]


def _train(folder: Path) -> tuple[dict[str, int], list[str]]:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(module.PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TRAINING, trainer)
    backend.model.save(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text())
    return vocab, (folder / "merges.txt").read_text().split("\n")[1:]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "tokenizer"
    folder.mkdir()
    vocab, _ = _train(folder)
    tokens = [*SPECIAL, "<tool_call>", "</tool_call>"]
    decoder = {
        str(len(vocab) + i): {
            "content": t,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": t in SPECIAL,
        }
        for i, t in enumerate(tokens)
    }
    config = {
        "added_tokens_decoder": decoder,
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def reference(toy: Path):
    transformers = pytest.importorskip("transformers")
    return transformers.Qwen2Tokenizer.from_pretrained(toy)


def _random_text(rng: random.Random) -> str:
    ranges = [
        (32, 126),
        (0xA0, 0x24F),
        (0x300, 0x36F),
        (0x4E00, 0x4FFF),
        (0x1F300, 0x1F6FF),
        (0x3040, 0x30FF),
        (0x600, 0x6FF),
        (9, 13),
        (0x1100, 0x11FF),
        (0x2000, 0x206F),
    ]
    parts = []
    for _ in range(rng.randint(0, 40)):
        low, high = rng.choice(ranges)
        parts.append(chr(rng.randint(low, high)) * rng.choice((1, 1, 1, 2, 3)))
        if rng.random() < 0.08:
            parts.append(rng.choice([*SPECIAL, "'s", "'RE", "\r\n", "  ", "<tool_call>"]))
    return "".join(parts)


def test_ids_equal_reference_on_chosen_texts(toy, reference):
    ours = load_tokenizer(toy)
    for text in TEXTS:
        assert ours.encode(text) == reference(text, add_special_tokens=False)["input_ids"], text


def test_ids_equal_reference_on_random_unicode(toy, reference):
    ours, rng = load_tokenizer(toy), random.Random(7)
    for _ in range(600):
        text = _random_text(rng)
        assert ours.encode(text) == reference(text)["input_ids"], ascii(text)


def test_tokenizer_json_gives_the_same_ids(toy, reference, tmp_path):
    reference.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    whole, parts = load_tokenizer(tmp_path), load_tokenizer(toy / "vocab.json")
    for text in TEXTS:
        assert whole.encode(text) == parts.encode(text)


def test_special_tokens_are_one_id_and_nfc_is_applied(toy):
    ours = load_tokenizer(toy)
    assert ours.encode("<|im_start|>") == [ours.token_id("<|im_start|>")]
    assert ours.encode("e\u0301") == ours.encode("é")
    assert ours.decode(ours.encode("招牌 <|im_end|>\n")) == "招牌 <|im_end|>\n"
    with pytest.raises(InkstoneError, match="no <\\|audio"):
        ours.token_id("<|audio|>")


def test_added_tokens_with_a_gap_keep_their_ids(toy, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((toy / name).read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 5000, "<|im_end|>": 5009}')
    ours = load_tokenizer(tmp_path)
    assert ours.encode("<|im_start|><|im_end|>") == [5000, 5009]


def test_lone_surrogates_are_refused(toy):
    with pytest.raises(InkstoneError, match="broken characters"):
        load_tokenizer(toy).encode("a\ud800b")


def _broken(toy: Path, folder: Path, name: str, text: str | None) -> Path:
    for part in module.FILES:
        (folder / part).write_bytes((toy / part).read_bytes())
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("vocab.json", None, "vocab.json is missing"),
        ("merges.txt", None, "merges.txt is missing"),
        ("vocab.json", "{", "vocab.json is not JSON"),
        ("vocab.json", "[]", "expected a JSON object, got list"),
        ("vocab.json", '{"a": "b"}', "not a usable tokenizer"),
        ("merges.txt", "a b c", "line 1 should hold two tokens"),
        ("merges.txt", "qqqq zzzz", "not a usable tokenizer"),
        ("tokenizer_config.json", None, "lacks <|im_start|>"),
        ("tokenizer_config.json", "{}", "lacks <|im_start|>"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"2": {"content": "the"}}}', "the ids"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "not a usable tokenizer"),
    ],
)
def test_bad_files_are_named(toy, tmp_path, name, text, match):
    with pytest.raises(InkstoneError) as caught:
        load_tokenizer(_broken(toy, tmp_path, name, text))
    assert match in str(caught.value) and str(tmp_path) in str(caught.value)


def test_find_near_the_model(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_comfyui_folders", lambda near: [])
    weights = toy.parent / "text_encoder"
    weights.mkdir(exist_ok=True)
    assert find_tokenizer(weights) == toy
    assert find_tokenizer(weights / "model.safetensors") == toy
    assert find_tokenizer(toy.parent) == toy
    assert find_tokenizer(toy) == toy
    assert find_tokenizer(tmp_path, [toy.parent]) == toy
    with pytest.raises(InkstoneError) as caught:
        find_tokenizer(tmp_path / "encoder.safetensors")
    assert all(part in str(caught.value) for part in (*module.FILES, str(tmp_path / "tokenizer")))


def comfyui(tree: Path, toy: Path) -> Path:
    """A ComfyUI folder with these tokenizer files; returns their folder."""
    folder = tree / "comfy" / module.HOST_FOLDER
    folder.mkdir(parents=True)
    (tree / "comfy" / "__init__.py").write_text("raise RuntimeError('imported')")
    for name in module.FILES:
        (folder / name).write_bytes((toy / name).read_bytes())
    return folder


def test_find_in_the_comfyui_around(toy, tmp_path, monkeypatch):
    """Of the weights, also through links, or of the current folder."""
    folder = comfyui(tmp_path / "ComfyUI", toy)
    place, disk = tmp_path / "ComfyUI" / "models" / "text_encoders", tmp_path / "disk"
    place.mkdir(parents=True), disk.mkdir()
    (disk / "x.safetensors").write_bytes(b"")
    (place / "x.safetensors").symlink_to(disk / "x.safetensors")
    assert find_tokenizer(place / "x.safetensors") == folder
    with pytest.raises(InkstoneError, match="of a ComfyUI around"):
        find_tokenizer(disk / "x.safetensors")
    (tmp_path / "link.safetensors").symlink_to(place / "y.safetensors")
    assert find_tokenizer(tmp_path / "link.safetensors") == folder
    monkeypatch.chdir(place.parent)
    assert find_tokenizer(Path("text_encoders/x.safetensors")) == folder
    assert find_tokenizer(disk / "x.safetensors") == folder, "run inside the tree"
    own = place / "tokenizer"
    own.mkdir()
    for name in module.FILES:
        (own / name).write_bytes((toy / name).read_bytes())
    assert find_tokenizer(place / "x.safetensors") == own, "files near the weights come first"


def test_find_in_the_host_without_importing_it(toy, tmp_path, monkeypatch):
    folder = comfyui(tmp_path / "host", toy)
    monkeypatch.syspath_prepend(str(tmp_path / "host"))
    monkeypatch.delitem(sys.modules, "comfy", raising=False)
    assert find_tokenizer(tmp_path / "models" / "x.safetensors") == folder
    assert "comfy" not in sys.modules
    assert load_tokenizer(folder).encode("<|im_end|>")


@pytest.mark.parametrize(
    "text, match",
    [
        ('{"normalizer": {"type": "Precompiled"}}', "expected a `model` with `vocab`"),
        ('{"model": {"vocab": [], "merges": {}}}', "expected a `model` with `vocab`"),
        ('{"model": {"vocab": {"a": -1}, "merges": []}}', "not a usable tokenizer"),
        ('{"model": {"vocab": {"a": 0}, "merges": ["a"]}}', "should hold two tokens"),
        ('{"model": {"vocab": {"a": 0}, "merges": [3]}}', "not a usable tokenizer"),
        ('{"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [3]}', "not a usable"),
        ('{"model": {"vocab": {"a": 0}, "merges": []}}', "lacks <|im_start|>"),
        (
            '{"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"type": "Split", '
            '"pattern": {"Regex": "(a+)+$"}}}',
            "splits words by",
        ),
    ],
)
def test_a_foreign_tokenizer_json_is_refused(tmp_path, text, match):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(InkstoneError) as caught:
        load_tokenizer(tmp_path)
    assert match in str(caught.value) and "tokenizer.json" in str(caught.value)


def test_the_pipeline_of_a_tokenizer_json_is_never_run(toy, tmp_path):
    """Only vocabulary, merges and added tokens count: what ends the library is not handed to it."""
    whole = json.loads(load_tokenizer(toy).to_json())
    whole |= {"normalizer": {"type": "Precompiled"}, "decoder": {"type": "?"}}
    whole |= {"post_processor": [], "truncation": {"max_length": 2}, "padding": 3}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    ours, plain = load_tokenizer(tmp_path), load_tokenizer(toy)
    for text in TEXTS:
        assert ours.encode(text) == plain.encode(text), text


def test_a_panic_of_the_library_is_an_error(tmp_path):
    class PanicException(BaseException):
        pass

    def fail():
        raise PanicException("out of bounds")

    with pytest.raises(InkstoneError, match="the package `tokenizers` fails on it"):
        module.checked(fail, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        module.checked(lambda: (_ for _ in ()).throw(KeyboardInterrupt()), tmp_path)


class PanicException(BaseException):
    """As pyo3 raises it."""


class _Panics:
    """A backend of the library that panics at every call."""

    def __getattr__(self, name):
        def fail(*_, **__):
            raise PanicException("index out of bounds")

        return fail


@pytest.mark.parametrize(
    "use",
    [lambda t: t.encode("a"), lambda t: t.decode([1]), lambda t: t.to_json()],
    ids=["encode", "decode", "to_json"],
)
def test_a_panic_at_use_is_an_error_that_names_the_file(use):
    with pytest.raises(InkstoneError, match="x.json: not a usable tokenizer"):
        use(Tokenizer(_Panics(), Path("x.json")))
