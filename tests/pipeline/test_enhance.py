"""Prompt enhancement: scripted answers, and a tiny random model."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.arch.family import EDIT_21, EDIT_PLUS, EMBEDDED, QWEN_IMAGE, QWEN_IMAGE_21
from inkstone.loaders.models.load import load_text_encoder
from inkstone.pipeline.enhance import (
    EnhanceRequest,
    choose,
    decoding_of,
    enhance,
    most_written,
    read_instructions,
    shown_pictures,
    wording,
)
from inkstone.pipeline.enhance_choices import INSTRUCTIONS, LONGEST, TRIES

from ..support.vision import image, random_qwen, save_encoder
from ..support.vision_deep import random_qwen3

PROMPT = 'a shop with a sign "OPEN"'
GOOD = 'A small bakery with a wooden sign that reads "OPEN" above its door.'
BAD = {
    "quotes lost": ("A small bakery.", 'lacks the text "OPEN"'),
    "quotes invented": (f'{GOOD} A poster says "SALE".', 'has the text "SALE"'),
    "empty": ("  \n", "was empty"),
    "too long": (GOOD + " very" * 40, "is too long"),
    "another language": ('一家小面包店，木牌上写着"OPEN"。', "language of the prompt"),
    "only talk": ("Sure! Here is the prompt:", "was empty"),
}


def chosen(*answers: str, ended: bool = True):
    """The choice among scripted answers, and the numbers of the tries."""
    tries: list[int] = []

    def write(number: int) -> tuple[str, bool]:
        tries.append(number)
        return answers[min(number, len(answers) - 1)], ended

    return choose(PROMPT, write, lambda text: len(text) < 200), tries


def test_a_good_answer_is_taken_at_once():
    result, tries = chosen(GOOD)
    assert (result.text, result.note, tries) == (GOOD, "", [0])
    assert chosen(f'Sure, here is the prompt:\n\n"{GOOD}"')[0].text == GOOD


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_answer_is_asked_for_again(kind):
    result, tries = chosen(BAD[kind][0], GOOD)
    assert (result.text, result.note, tries) == (GOOD, "", [0, 1])
    result, tries = chosen(BAD[kind][0], BAD[kind][0], GOOD)
    assert (result.text, result.tries, tries) == (GOOD, 3, [0, 1, 2])


@pytest.mark.parametrize("kind", BAD)
def test_after_the_last_try_the_prompt_is_kept(kind):
    answer, words = BAD[kind]
    result, tries = chosen(answer)
    assert result.text == PROMPT and len(tries) == TRIES
    assert "used as it is" in result.note and result.note.count(words) == TRIES
    assert "\n" not in result.note


def test_an_answer_that_was_cut_is_too_long():
    result, _ = chosen(GOOD, ended=False)
    assert result.text == PROMPT and "answer 3 is too long" in result.note


def test_tries_have_seeds_of_their_own():
    request = EnhanceRequest(prompt="a", temperature=0.0, seed=2**64 - 1)
    tries = [decoding_of(request, number, 9) for number in range(TRIES)]
    assert len({one.seed for one in tries}) == TRIES
    assert tries[0].temperature == 0 and all(one.temperature > 0 for one in tries[1:])
    others = [decoding_of(EnhanceRequest(prompt="a", seed=s), 0, 9).seed for s in range(3)]
    assert others == [0, 1, 2]


def test_what_is_asked():
    text = wording(EnhanceRequest(prompt=PROMPT), QWEN_IMAGE)
    assert text.startswith(INSTRUCTIONS["drawing", False]) and "exactly, in double quotes" in text
    assert text.count('"OPEN"') == 2 and PROMPT in text
    edit = EnhanceRequest(prompt="把猫换成狗", pictures=[torch.zeros(8, 8, 3)])
    assert wording(edit, QWEN_IMAGE).startswith(INSTRUCTIONS["editing", True].format("图1", "图2"))
    assert "Japanese" in wording(EnhanceRequest(prompt="桜の木の下の猫"), QWEN_IMAGE)
    haiku = EnhanceRequest(prompt=PROMPT, instructions="Write a haiku.")
    for family in (QWEN_IMAGE, EMBEDDED):
        own = wording(haiku, family)
        assert own.startswith("Write a haiku.\n") and "You prepare" not in own and '"OPEN"' in own
    assert wording(EnhanceRequest(prompt=f" {PROMPT}\n"), EMBEDDED) == f"enhance {PROMPT}"
    assert shown_pictures(edit, QWEN_IMAGE) == edit.pictures and not shown_pictures(edit, EMBEDDED)


def test_pictures_have_the_names_that_the_template_gives_them():
    """Qwen-Image-2.1 was trained on <image1>; Qwen-Image on Picture 1."""
    names = []
    for family, edit in ((QWEN_IMAGE, EDIT_PLUS), (QWEN_IMAGE_21, EDIT_21)):
        first, second = (family.names[0].format(number) for number in (1, 2))
        template = edit.text("swap them", 2)
        assert template.index(first) < template.index(second)
        for prompt, chinese in (("swap them", False), ("换过来", True)):
            request = EnhanceRequest(prompt=prompt, pictures=[torch.zeros(8, 8, 3)] * 2)
            text = wording(request, family)
            names.append([family.names[chinese].format(n) for n in (1, 2)])
            assert all(name in text for name in names[-1]), text
    assert names[2:] == [["<image1>", "<image2>"]] * 2 and names[0] == ["Picture 1", "Picture 2"]


def test_instructions_keep_to_the_rules_that_they_set():
    for text in INSTRUCTIONS.values():
        assert '"' not in text and len(text) < 1000


def test_a_file_of_instructions(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("\ufeffWrite a haiku.", encoding="utf-8")
    assert read_instructions(path) == "Write a haiku."
    for data, words in (
        (b" ", "is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"x" * 2**21, "larger"),
    ):
        path.write_bytes(data)
        with pytest.raises(InkstoneError, match=words):
            read_instructions(path)
    with pytest.raises(InkstoneError, match="cannot be read"):
        read_instructions(tmp_path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_text_encoder(save_encoder(random_qwen(), tmp_path_factory.mktemp("qwen")))


@pytest.mark.parametrize("pictures", [0, 2])
def test_a_random_model_runs_and_the_prompt_is_kept(encoder, pictures, caplog):
    shown: list[tuple[int, str]] = []
    tensors = [image(40 + n, 30)[1] for n in range(pictures)]
    request = EnhanceRequest(prompt=PROMPT, pictures=tensors, seed=5)
    with caplog.at_level(logging.WARNING, logger="inkstone"):
        result = enhance(encoder, request, lambda number, piece: shown.append((number, piece)))
    assert result.text == PROMPT and result.tries == TRIES
    assert result.note in caplog.text
    assert {number for number, _ in shown} == set(range(TRIES))
    again: list[tuple[int, str]] = []
    enhance(encoder, request, lambda number, piece: again.append((number, piece)))
    assert again == shown, "the same prompt and seed give the same text"
    other: list[tuple[int, str]] = []
    enhance(
        encoder,
        EnhanceRequest(prompt=PROMPT, pictures=tensors, seed=6),
        lambda number, piece: other.append((number, piece)),
    )
    assert other != shown


def test_an_answer_of_the_model_is_the_prompt(encoder, monkeypatch):
    """What the model writes between the checks: its text as it is, cut where it ended."""
    from inkstone.pipeline import enhance as module

    seen = []
    plain = module.generate

    def scripted(model, prompts, decoding, on_text):
        seen.append((prompts[0].text, decoding.max_tokens))
        (answer,) = plain(model, prompts, decoding, on_text)
        object.__setattr__(answer, "text", GOOD)
        object.__setattr__(answer, "ended", True)
        return [answer]

    monkeypatch.setattr(module, "generate", scripted)
    result = enhance(encoder, EnhanceRequest(prompt=PROMPT))
    assert (result.text, result.note) == (GOOD, "")
    assert seen[0][1] == QWEN_IMAGE.most_tokens and PROMPT in seen[0][0]


def test_qwen3_vl_is_asked_in_its_own_template(tmp_path, monkeypatch):
    """It takes prompts of any length, but an answer has an end."""
    from inkstone.pipeline import enhance as module

    asked = []
    plain = module.generate

    def short(model, prompts, decoding, on_text):
        asked.append((prompts[0].text, decoding.max_tokens))
        return plain(model, prompts, replace(decoding, max_tokens=4), on_text)

    monkeypatch.setattr(module, "generate", short)
    model = load_text_encoder(save_encoder(random_qwen3(), tmp_path))
    result = enhance(model, EnhanceRequest(prompt=PROMPT, pictures=[image(40, 30)[1]]))
    assert result.text == PROMPT and len(asked) == TRIES
    text, most = asked[0]
    assert most == LONGEST == most_written(model.family) < model.family.most_tokens
    assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|>") and PROMPT in text


def test_an_empty_prompt(encoder):
    with pytest.raises(InkstoneError, match="prompt is empty"):
        enhance(encoder, EnhanceRequest(prompt=" \n"))
