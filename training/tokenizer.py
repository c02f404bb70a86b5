"""The embedded model's tokenizer: Qwen2's byte-level BPE with a vocabulary of its own.

Every lower-case word of the grammar is one token (with and without the space before it); capitals
and digits are never merged, so that words to be drawn are spelled letter by letter.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..files.atomic import write_text
from ..loaders.arch.family import EMBEDDED

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
SPACE = "Ġ"  # the byte alphabet's letter for a space

EDIT_WORDS = ("remove", "make", "add")  # added later: their rules come after all others
assert EMBEDDED.grammar is not None
GRAMMAR_WORDS = tuple(w for w in EMBEDDED.grammar.words if w not in EDIT_WORDS)
FIRST = ("above", "black", "word")
MOST = 512  # entries, special tokens included


def byte_alphabet() -> list[str]:
    """GPT-2's 256 letters for bytes, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in plain}
    others = (b for b in range(256) if b not in letters)
    letters.update({b: chr(256 + i) for i, b in enumerate(others)})
    return [letters[b] for b in range(256)]


def merges() -> list[tuple[str, str]]:
    """Merge rules that build every grammar word letter by letter from its front, then its space.

    Long words come first: a rule of a short word inside a long one must not fire before the long
    one's. FIRST holds the exceptions (`or` of orange inside word, `bo` of bottom, `la` of large).
    """
    rules: dict[tuple[str, str], None] = {(SPACE, '"'): None}
    words = sorted(GRAMMAR_WORDS, key=lambda w: (w not in FIRST, -len(w)))
    for group in (words, EDIT_WORDS):
        for word in group:
            for i in range(1, len(word)):
                rules.setdefault((word[:i], word[i]))
        for word in group:
            rules.setdefault((SPACE, word))
    return list(rules)


def vocabulary() -> dict[str, int]:
    """Token -> id: bytes, then the result of each merge."""
    tokens = dict.fromkeys([*byte_alphabet(), *(a + b for a, b in merges())])
    return {token: i for i, token in enumerate(tokens)}


def write(folder: Path) -> None:
    """Writes vocab.json, merges.txt and tokenizer_config.json of a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = vocabulary()
    if len(words) + len(SPECIAL) > MOST:
        raise RuntimeError(f"{len(words)} tokens do not fit a vocabulary of {MOST}")
    added = {
        str(len(words) + i): {
            "content": s,
            "special": True,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, s in enumerate(SPECIAL)
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "pad_token": SPECIAL[0],
    }
    write_text(folder / "vocab.json", json.dumps(words, ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(f"{a} {b}" for a, b in merges()) + "\n")
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=1) + "\n")


def token_rows(folder: Path) -> dict[str, int]:
    """Token -> id of a tokenizer folder, special tokens included."""
    words = json.loads((folder / "vocab.json").read_text("utf-8"))
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    added = config["added_tokens_decoder"]
    return words | {token["content"]: int(i) for i, token in added.items()}
