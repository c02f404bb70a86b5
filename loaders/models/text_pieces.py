"""Tokens of an answer -> pieces of text, as they come.

A letter of Chinese is three bytes, which may come in two tokens: bytes are held back until they
make whole characters. Marks of the template (special tokens) are not part of the text.
"""

from __future__ import annotations

import codecs
from functools import cache

from .tokenizer import Tokenizer


@cache
def _bytes_of_letters() -> dict[str, int]:
    """The letters that stand for the 256 bytes in a byte-level vocabulary: printable Latin-1 for
    itself, all others shifted to 256 and up in order."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(b): b for b in itself} | {chr(256 + n): b for n, b in enumerate(others)}


class TextPieces:
    """The text of one answer: push its tokens, then call `end`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""

    def push(self, token: int) -> str:
        """The characters that this token completes; may be empty."""
        return self._added(self._decoder.decode(self._bytes(token)))

    def end(self) -> str:
        """What is left at the end: a replacement character where bytes of one are missing."""
        return self._added(self._decoder.decode(b"", True))

    def _added(self, piece: str) -> str:
        self.text += piece
        return piece

    def _bytes(self, token: int) -> bytes:
        word = self._tokenizer.word(token)
        if word is None:
            return b""
        letters = _bytes_of_letters()
        if all(letter in letters for letter in word):
            return bytes(letters[letter] for letter in word)
        return word.encode()  # an added token is written as it is
