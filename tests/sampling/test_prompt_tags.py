"""Tags of other programs in a prompt, and words that only look like them."""

from __future__ import annotations

import pytest

from inkstone.sampling.prompt_tags import prompt_tags


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:style:0.8>",
        "<lora:add detail_v2:-1>",
        "<LYCO:x:1>",
        "<hypernet:face:0.5>",
        "embedding:easynegative",
        "embedding:folder/bad-hands-5.pt",
        "(word:1.3)",
        "(two words, and more: .75 )",
        "__animals__",
        "[trigger]",
        "[Trigger]",
        "__colours/warm-*__",
    ],
)
def test_tag_is_found(tag):
    assert prompt_tags(f"a cat, {tag}, in a {tag} garden") == [tag]


@pytest.mark.parametrize(
    "text",
    [
        "(a cat)",
        "a [cat], [triggers] of a gun",
        "a ((cat))",
        "a poster (16:9)",
        "a clock (at 10:30)",
        "a list: (one: two)",
        r"\(cat:1.3\)",
        'the words "(word:1.3)" and "<lora:x:1>" on a sign',
        "embedding a jewel: in gold",
        "def __init__(self) would match, snake_case_names and a__b__c do not",
        "a <b> and 3 < 4 > 2",
        "Python's ____ blank",
        "(a recipe: 250 g)",
    ],
)
def test_words_that_look_alike_are_none(text):
    assert [tag for tag in prompt_tags(text) if tag != "__init__"] == []


@pytest.mark.parametrize("piece", ["(", "<lora:", "__a", "embedding:", '"', "(a:1"])
def test_hostile_prompt_takes_linear_time(piece):
    assert prompt_tags(piece * 20_000) is not None
