"""Training: a stopped run resumes bit for bit, the objective learns, an exported folder draws."""

import dataclasses

import pytest
import torch

from inkstone.errors import CallError, InkstoneError
from inkstone.headless.cli.main import main
from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.loaders.models.tokenizer import load_tokenizer
from inkstone.training import answer_flow, codec, control_flow, edit_flow, flow, recipe
from inkstone.training import tokenizer as words
from inkstone.training import vae as vae_training
from inkstone.training.checkpoint import require_same_run
from inkstone.training.loop import MixedStage
from inkstone.training.networks import FlowModel

VAE_STAGE = vae_training.VAEStage(
    name="vae-joint", steps=6, crop=32, batch=2, lr=1e-3, save_every=2
)
DECODER_STAGE = vae_training.VAEStage(
    name="vae-decoder", steps=4, crop=32, batch=2, lr=1e-3, decoder_only=True, save_every=2
)
FLOW_STAGE = MixedStage(
    name="flow-strips",
    steps=6,
    batch=2,
    lr=1e-3,
    share={"strips": 0.5, "scenes": 0.5},
    pictures={"strips": 4, "scenes": 4},
    save_every=2,
)


class Stop(Exception):
    pass


def train_vae(folder, stage=VAE_STAGE):
    torch.manual_seed(1)
    vae = vae_training.start()
    vae_training.run_stage(vae, folder, 1, stage)
    return vae


def train_flow(vae, folder, tokenizer):
    mean, std = codec.latent_statistics(vae, 1, 4)
    return flow.train_flow(codec.Codec(vae, mean, std, tokenizer), folder, 1, (FLOW_STAGE,))


def same(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().values())
    return [k for (k, x), y in pairs if not torch.equal(x, y)]


def stop_after(monkeypatch, module, name, calls):
    """module.name raises Stop after a number of calls."""
    real, count = getattr(module, name), [0]

    def wrapped(*args, **kwargs):
        count[0] += 1
        if count[0] > calls:
            raise Stop
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.slow
def test_resume_is_bit_exact(tmp_path, monkeypatch):
    words.write(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    vae = train_vae(tmp_path / "whole")
    whole = train_flow(vae, tmp_path / "whole", tokenizer)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(
            patch, vae_training, "loss_of", 3
        )  # after step 3, the last checkpoint is of step 2
        train_vae(tmp_path / "cut")
    again = train_vae(tmp_path / "cut")
    assert not same(vae, again)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, flow, "flow_loss", 5)
        train_flow(again, tmp_path / "cut", tokenizer)
    assert not same(whole, train_flow(again, tmp_path / "cut", tokenizer))


@pytest.mark.slow
def test_decoder_stage_leaves_the_encoder(tmp_path):
    vae = train_vae(tmp_path)
    before = {k: v.clone() for k, v in vae.encoder.state_dict().items()}
    decoder = {k: v.clone() for k, v in vae.decoder.state_dict().items()}
    vae_training.run_stage(vae, tmp_path, 1, DECODER_STAGE)
    assert all(torch.equal(v, before[k]) for k, v in vae.encoder.state_dict().items())
    assert any(not torch.equal(v, decoder[k]) for k, v in vae.decoder.state_dict().items())


@pytest.mark.slow
def test_objective_learns_one_picture():
    torch.manual_seed(0)
    model = FlowModel()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    x0, ids = torch.randn(1, 16, 64).expand(8, -1, -1), torch.zeros(8, 3, dtype=torch.long)
    mask, losses = torch.ones(8, 3, dtype=torch.bool), []
    for step in range(60):
        loss = flow.flow_loss(model, x0, ids, mask, (2, 8), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5]), losses


@pytest.mark.slow
def test_recipe_exports_a_folder_that_draws(tmp_path, monkeypatch):
    quick = [dataclasses.replace(s, steps=2, batch=2, crop=32) for s in vae_training.STAGES]
    monkeypatch.setattr(vae_training, "STAGES", tuple(quick))
    monkeypatch.setattr(flow, "STAGES", (dataclasses.replace(FLOW_STAGE, steps=2),))
    edits = dict(share={"edit-strips": 1.0}, pictures={"edit-strips": 4})
    stage = dataclasses.replace(edit_flow.STAGES[0], steps=2, batch=2, **edits)
    monkeypatch.setattr(edit_flow, "STAGES", (stage,))
    control = dataclasses.replace(control_flow.STAGES[0], steps=2, batch=2, pictures={"free": 4})
    monkeypatch.setattr(control_flow, "STAGES", (control,))
    small = [dataclasses.replace(s, steps=2, batch=2, prompts=2) for s in answer_flow.STAGES]
    monkeypatch.setattr(answer_flow, "STAGES", tuple(small))
    monkeypatch.setattr(codec, "STATISTICS", 4)
    recipe.train(tmp_path / "checkpoints", tmp_path / "model", 1)
    out = tmp_path / "x.png"
    call = [
        "draw",
        "a red circle on a white background",
        "--model",
        str(tmp_path / "model"),
        "-o",
        str(out),
    ]
    assert main([*call, "--steps", "2", "--size", "64x48", "--quiet"]) == 0 and out.is_file()
    call[call.index("-o") + 1] = str(tmp_path / "again.png")  # the folder's own control
    assert main([*call, "--steps", "2", "--control", f"canny:{out}", "--quiet"]) == 0


def test_checkpoints_of_other_arguments_are_not_continued(tmp_path):
    first = {"seed": 1, "start": None, "only": None}
    require_same_run(tmp_path, first)
    require_same_run(tmp_path, {**first, "seed": 2})  # there are no checkpoints yet
    (tmp_path / "vae.safetensors").touch()
    require_same_run(tmp_path, {**first, "seed": 2})
    for other in ({"seed": 1}, {"seed": 2, "start": "/m"}, {"seed": 2, "only": "control"}):
        with pytest.raises(CallError, match="run with --seed 2; this run has --seed .*another --o"):
            require_same_run(tmp_path, first | other)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InkstoneError, match="run.json: cannot be read"):
        require_same_run(tmp_path, first)


def test_a_run_refuses_another_seed_before_it_writes(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "vae.safetensors").touch()
    require_same_run(folder, {"seed": 1, "start": None, "only": None})
    with pytest.raises(CallError, match="--seed 1; this run has --seed 2"):
        recipe.train(folder, tmp_path, 2)
    with pytest.raises(CallError, match="--only control"):
        recipe.train_only_control(EMBEDDED_FOLDER, tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints"]
