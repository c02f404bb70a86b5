"""The tokenizer that a GGUF text encoder carries in its header.

The same BPE as that of the publisher's files (tokenizer.py), from three arrays of 150,000 elements:
they are decoded only where no tokenizer folder is found.
"""

import logging
from pathlib import Path
from typing import Protocol

from ...errors import InkstoneError
from .tokenizer import Added, Tokenizer, build, find_tokenizer, finished, load_tokenizer

log = logging.getLogger(__name__)

TOKENS, TYPES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))
MODEL, PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
WORDS_OF_QWEN = ("qwen2", "deepseek-r1-qwen")  # rules of cutting text into words that are ours
CONTROL, USER, UNUSED = 3, 4, 5


class WithArrays(Protocol):
    """What is needed of a GGUFFile."""

    path: Path
    metadata: dict[str, str]
    arrays: dict[str, int]

    def kv_array(self, name: str) -> list:
        """One array of the header."""


def tokenizer_for(near: Path, source: object) -> Tokenizer:
    """The tokenizer of an open text encoder: a folder's files, else what its GGUF header holds."""
    try:
        folder = find_tokenizer(near)
    except InkstoneError:
        if TOKENS not in getattr(source, "arrays", {}):
            raise
        found = gguf_tokenizer(source)
        log.info("tokenizer of %d tokens from %s", len(found), source.path.name)
        return found
    return load_tokenizer(folder)


def gguf_tokenizer(source: WithArrays) -> Tokenizer:
    """Built from the header alone. Raises InkstoneError where it is of another kind or damaged."""
    kind, words = source.metadata.get(MODEL, "gpt2"), source.metadata.get(PRE, WORDS_OF_QWEN[0])
    if kind != "gpt2" or words not in WORDS_OF_QWEN:
        raise InkstoneError(
            f"{source.path}: its tokenizer is of the kind {kind!a} with words of {words!a}, "
            "expected 'gpt2' with words of 'qwen2'. Use a GGUF of Qwen2.5-VL-7B."
        )
    return finished(lambda: _backend(source), source.path)


def _backend(source: WithArrays) -> object:
    tokens, kinds = source.kv_array(TOKENS), source.kv_array(TYPES)
    if len(tokens) != len(kinds):
        raise InkstoneError(
            f"{source.path}: {len(tokens)} tokens with {len(kinds)} types. Download it again."
        )
    rows = list(zip(tokens, range(len(tokens)), kinds))
    added = [
        Added(token, number, special=kind == CONTROL)
        for token, number, kind in rows
        if kind in (CONTROL, USER)
    ]
    normal = [
        (token, number) for token, number, kind in rows if kind not in (CONTROL, USER, UNUSED)
    ]
    vocab = dict(normal)
    if len(vocab) != len(normal):
        raise InkstoneError(
            f"{source.path}: {len(normal) - len(vocab)} of its tokens occur twice. "
            "Download it again."
        )
    return build(vocab, _merges(source), added, source.path)


def _merges(source: WithArrays) -> list[tuple[str, str]]:
    pairs = [tuple(merge.split(" ")) for merge in source.kv_array(MERGES)]
    bad = next((number for number, pair in enumerate(pairs) if len(pair) != 2), None)
    if bad is not None:
        raise InkstoneError(
            f"{source.path}: {MERGES} number {bad} should hold two tokens, got "
            f"{' '.join(pairs[bad])[:60]!a}. Download it again."
        )
    return pairs
