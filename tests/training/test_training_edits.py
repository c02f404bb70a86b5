"""Edits for training: requests, verdicts, a stopped run that resumes bit for bit."""

import numpy as np
import pytest
import torch

from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.loaders.models.tokenizer import load_tokenizer
from inkstone.training import edit_flow, edit_scores
from inkstone.training import tokenizer as words
from inkstone.training import vae as vae_training
from inkstone.training.codec import Codec, latent_statistics
from inkstone.training.edits import SHARES, sample_edit, unseen
from inkstone.training.grammar import held_out
from inkstone.training.loop import MixedStage
from inkstone.training.networks import FlowModel
from inkstone.training.render import render

from .test_training import Stop, same, stop_after

KINDS = [*SHARES]


def edits(count, split="test", seed=0, kind=None):
    rng = np.random.default_rng(seed)
    return [sample_edit(rng, kind, split) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_true_edit_is_right_and_the_source_is_not(kind):
    for edit in edits(60, kind=kind, seed=3):
        assert edit_scores.judge(render(edit.target), edit) == (True, True), edit
        assert not edit_scores.judge(render(edit.source), edit)[0], edit
        far = edit_scores.moved(render(edit.target), render(edit.source), edit)
        assert far is None if kind == "ground" else far < 0.05, (far, edit)


@pytest.mark.parametrize("kind", KINDS)
def test_other_changes_are_noticed(kind):
    """Another ground, or a blot of ink: the rest is not as it was."""
    for edit in edits(30, kind=kind, seed=4):
        picture = render(edit.target)
        if kind == "ground":
            free = np.abs(picture.astype(int) - picture[0, 0].astype(int)).sum(2) == 0
            rows = np.flatnonzero(free[:, :28].all(1))
            if len(rows) < 28:
                continue
            picture[rows[:28], :28] = 255 - picture[rows[:28], :28]
        else:
            ground = (picture == picture[0, 0]).all(2)
            picture[ground] = 255 - picture[ground]
        assert not edit_scores.judge(picture, edit)[1], edit


def test_only_the_requested_item_changes():
    for edit in edits(200, seed=5):
        changed = set(edit.source.items) ^ set(edit.target.items)
        grounds = edit.source.ground, edit.target.ground
        if edit.kind == "ground":
            assert not changed and grounds[0] != grounds[1]
        else:
            assert grounds[0] == grounds[1]
            assert len(changed) == (1 if edit.kind in ("add", "remove") else 2), edit


def test_hold_out_is_strict():
    train, test = edits(400, "train", 6), edits(400, "test", 6)
    assert not any(unseen(e) for e in train) and all(unseen(e) for e in test)
    assert all(held_out(e.target if e.kind == "add" else e.source) for e in test)
    requests = [{(e.source.text, e.text) for e in side} for side in (train, test)]
    assert not requests[0] & requests[1]


def test_words_of_requests_are_single_tokens(tmp_path):
    words.write(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for word in words.EDIT_WORDS:  # requests begin with them
        assert len(tokenizer.encode(word)) == 1, word


def test_rows_of_tokens_move_to_their_new_places(tmp_path):
    """A model folder with an older tokenizer: its rows are looked up by token, not by place."""
    words.write(tmp_path)
    model = edit_flow.start(EMBEDDED_FOLDER, tmp_path)
    again = edit_flow.start(EMBEDDED_FOLDER, EMBEDDED_FOLDER / "tokenizer")
    new, old = (words.token_rows(f) for f in (tmp_path, EMBEDDED_FOLDER / "tokenizer"))
    rows, before = model.text.embed_tokens.weight, again.text.embed_tokens.weight
    assert all(torch.equal(rows[new[t]], before[old[t]]) for t in old)


STAGE = MixedStage(
    name="edit",
    steps=6,
    batch=2,
    lr=1e-3,
    share={"edit-strips": 0.5, "edit-scenes": 0.3, "strips": 0.2},
    pictures={"edit-strips": 4, "edit-scenes": 4, "strips": 4},
    save_every=2,
)


def train(folder, tokenizer):
    torch.manual_seed(1)
    vae = vae_training.start()
    mean, std = latent_statistics(vae, 1, 4)
    codec = Codec(vae, mean, std, tokenizer)
    return edit_flow.train_edits(codec, FlowModel(), folder, 1)


@pytest.mark.slow
def test_resume_is_bit_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(edit_flow, "STAGES", (STAGE,))
    words.write(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    whole = train(tmp_path / "whole", tokenizer)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, edit_flow, "_loss", 5)
        train(tmp_path / "cut", tokenizer)
    assert not same(whole, train(tmp_path / "cut", tokenizer))


def test_an_empty_request_asks_for_the_source():
    """A tenth of the requests: then the target is the source, whatever the request was."""
    pairs = edit_flow.Pairs(
        torch.zeros(3, 16, 64).half(), torch.ones(3, 16, 64).half(), [[5, 6], [7], [8]], (2, 8)
    )
    calls = []

    def model(x, t, ids, mask, grid, refs):
        calls.append((x, t, ids, refs))
        return torch.zeros_like(x)

    class Rng:
        def integers(self, *args):
            return np.array([0, 1, 2]) if len(args) == 3 else 7

        def random(self, size):
            return np.array([0.05, 0.5, 0.9])

    loss = edit_flow._loss(model, pairs, Rng(), 3, [9])
    assert calls[0][2].tolist() == [[9], [7], [8]] and not calls[0][3].any()
    generator = torch.Generator().manual_seed(7)
    torch.randn(3, generator=generator)  # the times come first
    noise = torch.randn(3, 16, 64, generator=generator)
    x0 = torch.tensor([0.0, 1.0, 1.0])[:, None, None]
    want = ((noise - x0) ** 2).mean()
    assert torch.allclose(loss, want, rtol=1e-5), (loss.item(), want.item())


def test_stages_are_whole():
    for stage in edit_flow.STAGES:
        assert abs(sum(stage.share.values()) - 1) < 1e-9
        assert set(stage.share) == set(stage.pictures)
