"""The text of an answer in pieces of whole characters."""

from __future__ import annotations

import pytest

from inkstone.loaders.models.text_pieces import TextPieces
from inkstone.loaders.models.tokenizer import load_tokenizer

from ..support import tiny


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tiny.tokenizer().save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.mark.parametrize("text", ["plain", "招牌 says “OPEN”", "a\nb\t🙂é", ""])
def test_pieces_are_whole_characters(text, words):
    """The toy vocabulary has one token for each byte."""
    pieces = TextPieces(words)
    parts = [pieces.push(token) for token in words.encode(text)]
    assert all("\ufffd" not in part for part in parts)
    assert pieces.end() == "" and pieces.text == text == "".join(parts)
    assert sum(bool(part) for part in parts) == len(text)


def test_a_cut_character_is_shown_at_the_end(words):
    pieces = TextPieces(words)
    assert [pieces.push(token) for token in words.encode("a牌")[:-1]] == ["a", "", ""]
    assert pieces.end() == "\ufffd" and pieces.text == "a\ufffd"


def test_marks_are_no_text(words):
    pieces = TextPieces(words)
    for token in words.encode("<|im_start|>a<|im_end|>"):
        pieces.push(token)
    assert pieces.text == "a"
    assert pieces.push(299) == ""  # a number that no token has
