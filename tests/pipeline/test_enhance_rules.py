"""What an enhanced prompt must keep, and how an answer is cleaned."""

from __future__ import annotations

import pytest

from inkstone.pipeline.enhance_rules import cleaned, fault, quoted, script_of


@pytest.mark.parametrize(
    "text, want",
    [
        ('a sign "OPEN" and "WE SELL tea"', ["OPEN", "WE SELL tea"]),
        ("写着“你好，世界”的牌子", ["你好，世界"]),
        ("看板に「営業中」と『本日休業』", ["営業中", "本日休業"]),
        ("a sign 'OPEN' on the shop's door", ["OPEN"]),
        ("a 'don't walk' sign", ["don't walk"]),
        ("the dogs' toys and the cats' bowls", []),
        ("a shop of the '90s", []),
        ("the man’s hat, ‘Bob’s cafe’", ["Bob’s cafe"]),
        ("вывеска «Кафе», ein Schild „Brot“", ["Кафе", "Brot"]),
        ('a "first\nsecond" line', ["first\nsecond"]),
        ('nothing in "" or " "', []),
        ('a 12" disc', []),
        ("“a 'b' c”", ["a 'b' c"]),
        ('a "cafe\u0301"', ["caf\u00e9"]),
    ],
)
def test_texts_in_quotes(text, want):
    assert quoted(text) == want


@pytest.mark.parametrize(
    "text, script",
    [
        ("a red star", "LATIN"),
        ("一只猫坐在窗台上", "CJK"),
        ("一只猫在 New York Times Square", "CJK"),
        ("a calligraphy of the sign 福, highly detailed ink", "LATIN"),
        ("桜の木の下の猫", "KANA"),
        ("고양이 한 마리", "HANGUL"),
        ("кошка на окне", "CYRILLIC"),
        ('a sign "你好，世界，欢迎光临"', "LATIN"),
        ('"HELLO"', ""),
        ("1 + 2 = 3", ""),
    ],
)
def test_the_language_by_its_script(text, script):
    assert script_of(text) == script


GOOD = "A red star glows over a quiet white valley."


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"  {GOOD}\n",
        f"Sure! Here is the enhanced prompt:\n\n{GOOD}",
        f"Sure, here's a more detailed version: {GOOD}",
        f"Certainly! {GOOD}",
        f"Rewritten prompt: {GOOD}",
        f"**Enhanced Prompt:** {GOOD}",
        f"### Improved Prompt:\n{GOOD}",
        f"```\n{GOOD}\n```",
        f"```text\n{GOOD}\n```\nLet me know if you want changes!",
        f"Here is the rewritten prompt:\n```{GOOD}```",
        f"{GOOD}\n\nLet me know if you would like any changes.",
        f"{GOOD}\n\nThis prompt keeps all the details.\n\nI hope it helps!",
        f'"{GOOD}"',
        f"“{GOOD}”",
        f'Sure, here is the prompt: "{GOOD}"',
        f'"Prompt: {GOOD}"',
    ],
)
def test_talk_around_the_prompt_is_taken_off(answer):
    assert cleaned(answer)[-1] == GOOD


def test_chinese_talk():
    good = "一颗红色的星星悬在白色的山谷上方。"
    for answer in (
        f"好的，以下是改写后的提示词：\n{good}",
        f"改写后的提示词：{good}",
        f"当然！{good}",
    ):
        assert cleaned(answer) == [good]


@pytest.mark.parametrize(
    "answer",
    [
        "A sign that reads: OPEN, above a door",
        "Here is where two rivers meet, under a grey sky",
        "A poster in two parts.\n\nOn the left: a cat. On the right: a dog.",
        'A note: "Buy milk", on a fridge',
    ],
)
def test_a_prompt_is_not_taken_for_talk(answer):
    text = cleaned(answer)[0]
    assert text.replace("\n", "") == answer.replace("\n", "")


@pytest.mark.parametrize(
    "prompt, answer, words",
    [
        ("a star", GOOD, ""),
        ('a sign "OPEN"', 'A wooden sign reads "OPEN" in red.', ""),
        ("a sign 'OPEN'", "A wooden sign reads “OPEN” in red.", ""),
        ('"A" and "A"', 'two signs with "A"', ""),
        ('"HELLO"', '"HELLO" in neon letters', ""),
        ("a star", "", "was empty"),
        ('a sign "OPEN"', "A wooden sign reads OPEN.", 'lacks the text "OPEN"'),
        ('a sign "OPEN"', 'A wooden sign reads "Open".', 'lacks the text "OPEN"'),
        ('a sign "OPEN now"', 'A sign reads "OPEN  now".', "lacks the text"),
        ("a sign", 'A sign reads "SALE".', 'has the text "SALE"'),
        ('"A"', '"A" over "B"', 'has the text "B"'),
        ('a sign "A"', 'a sign "A" and once more "A"', '"A" 2 times, the prompt 1'),
        ("一只猫", "A cat on a window sill.", "language of the prompt (Chinese)"),
        ("a cat", "一只猫坐在窗台上，阳光很好。", "Latin letters"),
        ("a cat", "12345", "language of the prompt"),
        ("“你好”的牌子", "木牌上写着「你好」二字。", ""),
    ],
)
def test_faults(prompt, answer, words):
    got = fault(prompt, answer)
    assert (words in got) if words else got == ""
