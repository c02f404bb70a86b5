"""The tokenizer that a GGUF text encoder carries in its header.

The same BPE as that of the publisher's files (tokenizer.py), from three arrays of 150,000 elements:
they are decoded only where no tokenizer folder is found.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InkstoneError
from ..formats.gguf import GGUFFile
from ..formats.weight_reader import WeightReader
from .tokenizer import Added, Tokenizer, build, checked, find_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

log = logging.getLogger(__name__)

TOKENS, TYPES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))
MODEL, PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
WORDS_OF_QWEN = ("qwen2", "deepseek-r1-qwen")  # pre-tokenizers that split words as Qwen's does
CONTROL, USER, UNUSED = 3, 4, 5


def tokenizer_for(near: Path, source: WeightReader) -> Tokenizer:
    """The tokenizer of an open text encoder: a folder's files, else that of its GGUF header."""
    try:
        folder = find_tokenizer(near)
    except InkstoneError:
        if not isinstance(source, GGUFFile) or TOKENS not in source.arrays:
            raise
        tokenizer = gguf_tokenizer(source)
        log.info("tokenizer of %d tokens from %s", len(tokenizer), source.path.name)
        return tokenizer
    return load_tokenizer(folder)


def gguf_tokenizer(source: GGUFFile) -> Tokenizer:
    """Builds it from the header alone. Raises InkstoneError for another kind or a damaged one."""
    kind, words = source.metadata.get(MODEL, "gpt2"), source.metadata.get(PRE, WORDS_OF_QWEN[0])
    if kind != "gpt2" or words not in WORDS_OF_QWEN:
        raise InkstoneError(
            f"{source.path}: its tokenizer is of the kind {kind!a} with words of {words!a}, "
            "expected 'gpt2' with words of 'qwen2'. Use a GGUF of Qwen2.5-VL-7B."
        )
    return checked(lambda: _backend(source), source.path)


def _strings(source: GGUFFile, name: str) -> list[str]:
    """An array of text in the header; InkstoneError where it holds numbers."""
    values = source.kv_array(name)
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(values):
        raise InkstoneError(
            f"{source.path}: {name} should hold text, got numbers. Download it again."
        )
    return texts


def _backend(source: GGUFFile) -> Backend:
    tokens, kinds = _strings(source, TOKENS), source.kv_array(TYPES)
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


def _merges(source: GGUFFile) -> list[tuple[str, str]]:
    pairs = []
    for number, merge in enumerate(_strings(source, MERGES)):
        pair = merge.split(" ")
        if len(pair) != 2:
            raise InkstoneError(
                f"{source.path}: {MERGES} number {number} should hold two tokens, got "
                f"{merge[:60]!a}. Download it again."
            )
        pairs.append((pair[0], pair[1]))
    return pairs
