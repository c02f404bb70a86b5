"""The answering part of the embedded model: its data, its networks, its recipe and its answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from inkstone.kernels.text_encoder import TextEncoder
from inkstone.kernels.vision import VisionTower
from inkstone.loaders.formats.safetensors import SafetensorsFile
from inkstone.loaders.models.generation import TextPrompt, generate
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_text_encoder
from inkstone.loaders.models.tokenizer import load_tokenizer
from inkstone.pipeline.find_boxes import read_boxes
from inkstone.sampling.next_token import Decoding
from inkstone.training import answer_flow, answer_scores, recipe
from inkstone.training.answer_data import (
    IGNORED,
    cells_of,
    patches_of,
    picture_batch,
    prompt_batch,
    seen_size,
    tokens_of,
)
from inkstone.training.checkpoint import step_rng
from inkstone.training.control_flow import free_scene
from inkstone.training.grammar import CANVASES, LETTERS, Word, sample
from inkstone.training.loose import sample_loose
from inkstone.training.questions import (
    Question,
    Thing,
    caption,
    fact,
    full_prompt,
    item_box,
    search,
    short_prompt,
    sign_box,
    thing,
    things,
)
from inkstone.training.render import render

from ..support.oracle import fill


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(EMBEDDED_FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder(EMBEDDED_FOLDER)


@pytest.fixture
def model():
    """The trained network's shape, with random weights in every norm and bias."""
    torch.manual_seed(3)
    return fill(answer_flow.start(EMBEDDED_FOLDER)).requires_grad_(True)


def scenes(count: int, seed: int = 5) -> list:
    rng = np.random.default_rng(seed)
    return [free_scene(rng) if n % 3 == 0 else sample(rng, "scenes") for n in range(count)]


# --- data


def test_boxes_are_those_of_the_ink():
    for scene in scenes(60):
        ground = render(replace(scene, items=()))
        for item in scene.items:
            alone = render(replace(scene, items=(item,))).astype(int)
            sign = isinstance(item, Word) and bool(item.plate)
            rows, columns = np.nonzero((alone != ground).any(-1))
            ink = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            if sign:  # letters may have the colour of the ground
                assert ink == sign_box(item, scene.width), item
                continue
            assert np.abs(np.subtract(ink, item_box(item))).max() <= 1, (item, ink)


def test_requests_for_boxes_are_read_back():
    """`find` reads the answers that training writes, on every canvas."""
    rng = np.random.default_rng(1)
    for scene in scenes(120):
        size = scene.width, scene.height
        asked = things(rng, scene)
        question = search(asked, seen_size(*size), size)
        boxes = read_boxes(question.answer, "x", seen_size(*size), size)
        want = [box for one in asked for box in one.boxes]
        assert not boxes.left_out and len(boxes.boxes) == len(want), question
        for box, truth in zip(boxes.boxes, want):
            assert max(abs(a - b) for a, b in zip(box.span, truth)) < 0.5, question


def test_what_is_asked_for_is_there_or_absent():
    rng = np.random.default_rng(2)
    counts = [len(thing(rng, scene).boxes) for scene in scenes(400)]
    assert 0.05 < counts.count(0) / 400 < 0.25 and counts.count(2) >= 5


def test_captions_are_prompts_of_the_grammar():
    rng = np.random.default_rng(6)
    for scene in (sample(rng, "scenes") for _ in range(200)):
        for text in (short_prompt(scene), full_prompt(scene)):
            assert answer_scores.names_all(scene, text) and answer_scores.in_grammar(text), text
        assert caption(scene, True).answer == full_prompt(scene)
    assert not answer_scores.names_all(scene, "a picture")


def test_loose_prompts_say_nothing_that_the_full_one_lacks():
    rng = np.random.default_rng(3)
    pairs = [sample_loose(rng) for _ in range(600)]
    for pair in pairs:
        assert answer_scores.in_grammar(pair.full), pair
        lost = answer_scores.facts_of(pair.text) - answer_scores.facts_of(pair.full)
        assert not lost, (pair, lost)
    shorter = [len(p.text) < len(p.full) for p in pairs]
    assert np.mean(shorter) > 0.7


@pytest.mark.parametrize(
    "text",
    [
        "a red circle",
        "a crimson circle on a blue background",
        'the word "ink" in red on a blue background',
        'the word "SEVENTH" in red on a blue background',
        "make the star",
        "a red circle on a blue background, please",
    ],
)
def test_what_is_not_in_the_grammar(text):
    assert not answer_scores.in_grammar(text)


def test_cells_hold_what_is_drawn():
    scene = next(s for s in scenes(60) if isinstance(s.items[-1], Word) and s.items[-1].plate)
    cells, word = cells_of([scene]), scene.items[-1]
    columns = scene.width // 16
    kinds = cells.kind[0].view(-1, columns)
    row, left = word.y // 16, word.x // 16
    letters = kinds[row : row + 2, left : left + len(word.text)]
    assert bool((letters >= 6).all()) and torch.equal(letters[0], letters[1])
    numbers = cells.letters[0].view(-1, columns)[row : row + 2, left : left + len(word.text)]
    assert numbers.tolist() == [[*range(len(word.text))]] * 2
    assert int((cells.letters != IGNORED).sum()) == 2 * len(word.text)
    assert bool((cells.edges[0][cells.kind[0] == 0] == IGNORED).all())


@pytest.mark.parametrize("canvas, seen", [*zip(CANVASES, [(224, 224), (280, 168), (168, 280)])])
def test_a_cell_is_16_pixels(canvas, seen):
    assert seen_size(*canvas) == seen and seen_size(*[8 * n for n in canvas]) == seen


# --- networks


def test_the_tower_with_gradients_is_the_tower(model, tokenizer):
    grids = set()
    for step in range(6):
        batch = picture_batch(tokenizer, step_rng(1, "a", step), 2)
        with torch.no_grad():
            got = model.rows(batch.patches, batch.grid)
            want = torch.stack([model.tower(p, batch.grid) for p in batch.patches])
        error = float((got - want).abs().max() / want.abs().max())
        assert error < 1e-5, f"{batch.grid}: relative error {error:.1e}"
        grids.add(batch.grid)
    assert grids == {(16, 16), (12, 20), (20, 12)}


def test_packed_questions_equal_single_ones(model, tokenizer):
    """Two questions behind one picture, and each alone through the loaded network's forward."""
    scene = sample(np.random.default_rng(4), "scenes", (128, 128))
    patches = patches_of(render(scene))[None]
    asked = [Question("caption", "a red star"), Question("find a star", "[]")]
    with torch.no_grad():
        rows = model.rows(patches, (16, 16))
        tokens, labels, _ = tokens_of(tokenizer, [asked], (8, 8))
        together = model.states(tokens, rows)[1]
        parts = []
        for question in asked:
            single, own, _ = tokens_of(tokenizer, [[question]], (8, 8))
            embeds = model.text.embed(single.ids)
            embeds[:, 2:66] = rows
            states = model.text(single.ids, (), embeds, single.positions, answering=True)
            parts.append(states[own != IGNORED])
    want = torch.cat(parts)
    error = float((together[labels != IGNORED] - want).abs().max() / want.abs().max())
    assert error < 1e-5, f"relative error {error:.1e}"


def test_tokens_of_letters_look_at_their_cells(tokenizer):
    batch = picture_batch(tokenizer, step_rng(1, "answers", 3), 12, 2)
    at, letter = batch.tokens.pointers, batch.labels
    assert at is not None and len(at.place) > 8
    names = [tokenizer.decode([int(letter[b, p])]) for b, p in zip(at.sequence, at.place)]
    for name, b, cells in zip(names, at.sequence, at.cells):
        kinds = batch.cells.kind[b][cells[2 : 2 + batch.cells.kind.shape[1]]]
        assert kinds.tolist() == [6 + LETTERS.index(name)] * 2


def test_only_what_answers_is_trained(tokenizer):
    model = answer_flow.start(EMBEDDED_FOLDER)
    rng = step_rng(1, "answers", 0)
    loss = answer_flow.picture_loss(model, picture_batch(tokenizer, rng, 2, 2))
    (loss + answer_flow.prompt_loss(model, prompt_batch(tokenizer, rng, 2))).backward()
    still = {n for n, p in model.named_parameters() if p.grad is None}
    below = ("text.embed_tokens", "text.norm", "text.layers.0.", "text.layers.1.")
    assert still == {n for n, _ in model.named_parameters() if n.startswith(below)}


# --- recipe


def test_training_resumes_bit_for_bit(tmp_path, tokenizer, monkeypatch):
    stages = [replace(s, steps=2, batch=2, prompts=2, save_every=1) for s in answer_flow.STAGES]

    def run(folder, last: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(answer_flow, "STAGES", (stages[0], replace(stages[1], steps=last)))
        torch.manual_seed(1)
        model = answer_flow.start(EMBEDDED_FOLDER)
        answer_flow.train_answers(model, tokenizer, tmp_path / folder, 7)
        return model.state_dict()

    whole = run("whole", 2)
    run("parts", 1)
    parts = run("parts", 2)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_export_loads_and_leaves_the_condition_as_it_is(tmp_path, encoder):
    recipe.copy_model(EMBEDDED_FOLDER, tmp_path)
    torch.manual_seed(2)
    recipe.export_answers(tmp_path, answer_flow.start(EMBEDDED_FOLDER))
    copy = load_text_encoder(tmp_path)
    assert copy.network.config == encoder.network.config
    for prompt in ("a red circle", 'the word "INK7" in red above a green star', ""):
        assert torch.equal(copy.encode(prompt).states, encoder.encode(prompt).states), prompt
    shipped = json.loads((EMBEDDED_FOLDER / "text_encoder" / "config.json").read_text())
    assert shipped == json.loads((tmp_path / "text_encoder" / "config.json").read_text())


# --- the shipped model


def test_prompts_are_encoded_by_the_lower_layers(encoder):
    """The states that the diffusion model was trained with: two layers and the norm."""
    with SafetensorsFile(EMBEDDED_FOLDER / "text_encoder" / "model.safetensors") as file:
        below = TextEncoder(replace(encoder.network.config, layers=2, condition_layers=None))
        names = [name for name, _ in below.named_parameters()]
        below.load_state_dict({name: file.read(f"model.{name}").float() for name in names})
    prompt = 'a blue sign that says "INK7" in white above a red star on a green background'
    ids = torch.tensor([encoder.tokenizer.encode(f"<|im_start|>{prompt}<|im_end|>")])
    with torch.no_grad():
        want = below.eval()(ids)
    states = encoder.encode(prompt).states
    error = float((states - want).abs().max())
    assert states.dtype == want.dtype and error == 0, error


def test_it_is_a_qwen2_5_vl_for_transformers(encoder, monkeypatch):
    """The folder read by transformers gives the same text about the same picture."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = EMBEDDED_FOLDER / "text_encoder"
    reference = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    scene = sample(np.random.default_rng(6), "scenes", (160, 96), "test")
    text = encoder.family.chat.text("caption", 1)
    mine = generate(
        encoder,
        [TextPrompt(text, [answer_scores.picture(scene)])],
        Decoding(max_tokens=48, repetition_penalty=1.0),
    )[0]
    pad = encoder.tokenizer.token_id("<|image_pad|>")
    ids = torch.tensor(
        [encoder.tokenizer.encode(text.replace("<|image_pad|>", "<|image_pad|>" * 60))]
    )
    pixels = patches_of(render(scene)).view(240, 3, 1, 14, 14).expand(-1, -1, 2, -1, -1)
    done = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == pad).int(),
        pixel_values=pixels.flatten(1),
        image_grid_thw=torch.tensor([[1, 12, 20]]),
        max_new_tokens=48,
        do_sample=False,
        pad_token_id=0,
    )
    assert tuple(done[0, ids.shape[1] :].tolist()) == mine.tokens and mine.ended


def test_a_few_answers(encoder):
    """A part of `inkstone train --only answers --score`, whose table is in embedded/README.md."""
    scenes = answer_scores.pictures(24)
    captions = answer_scores.captioned(encoder, scenes)
    there, _ = answer_scores.searched(encoder, scenes)
    prompts = answer_scores.enhanced(encoder, answer_scores.loose_prompts(24))
    rates = {
        "short": np.mean([v["short"] for v in captions]),
        "long": np.mean([v["long"] for v in captions]),
        "boxes": np.mean([v["boxes"] for v in there]),
        "grammar": np.mean([v["grammar"] for v in prompts]),
        "word": np.mean([v["word"] for v in prompts]),
    }
    assert min(rates.values()) >= 0.9, rates


def test_right_boxes_are_counted():
    box = (10, 20, 50, 60)
    near, far = (answer_scores.Span(*(v + d for v in box)) for d in (1, 20))
    for truth, boxes, right in (
        ((box,), [near], True),
        ((box,), [far], False),
        ((box,), [near, far], False),
        ((box,), [], False),
        ((), [], True),
        ((), [near], False),
    ):
        assert answer_scores.right_boxes(Thing("x", truth), boxes) is right


def test_the_tower_of_the_file(encoder):
    config = encoder.tower("this test").network.config
    assert config == recipe.TOWER and isinstance(VisionTower(config), VisionTower)
    assert fact(np.random.default_rng(0), scenes(1)[0]).answer
