"""The memory plan counts LoRA branches, the vision tower and references, and follows `settle`."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.request import DrawCall
from inkstone.kernels.configs import VisionConfig
from inkstone.kernels.vision import VisionTower, activation_bytes
from inkstone.loaders.arch.family import EDIT_PLUS
from inkstone.loaders.arch.variant import VARIANTS
from inkstone.loaders.lora.adapters import Adapter, apply_loras
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.param_slots import ParamSlot
from inkstone.loaders.memory.placement import Placement, PlannedWeights
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.vision import TowerPlace, VisionModel
from inkstone.pipeline.memory_plan import PlanRequest, plan
from inkstone.pipeline.plan_stages import PlanStage, follow
from inkstone.sampling.request import Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas
from inkstone.sampling.vision_sizes import encoder_sizes

from ..support.oracle import save_file

CPU = torch.device("cpu")


# --- stages


def stage(rest: int, groups: list[int], working: int, leaves: bool = False) -> PlanStage:
    return PlanStage(PlannedWeights("model", (rest, groups)), working, leaves=leaves)


def followed(stages: list[PlanStage], room: int, last: int):
    """(placement of each, peak bytes, whether all stay)"""
    run = follow(stages, room, last)
    return [run.placement(stage.weights) for stage in stages], run.peak, run.together


def test_stages_leave_when_the_next_has_no_room():
    one, two = stage(10, [5, 5], 3), stage(4, [8, 8, 8], 2)
    whole = [Placement(2, 0, 20), Placement(3, 0, 28)]
    assert followed([one, two], 50, 0) == (whole, 50, True)
    assert followed([one, two], 49, 0) == (whole, 30, False)
    assert followed([replace(one, leaves=True), two], 50, 9) == (whole, 37, False)
    placed, most, _ = followed([one, two], 29, 0)
    assert placed[1] == Placement(0, 3, 20) and most == 23, "the first needs most"


def test_what_stays_of_activations_counts_afterwards():
    """A prefix store is in memory while the VAE works, and is not counted twice in the next run."""
    one = replace(stage(10, [5, 5], 9), keeps=6)
    _, most, _ = followed([one], 50, 5)
    assert most == 20 + 6 + 5, "in the last step"
    assert followed([one, one], 50, 0)[1] == 29
    other = stage(1, [1, 1], 4)
    assert followed([one, other], 50, 0)[1:] == (20 + 6 + 3 + 4, True)
    assert followed([one, other], 32, 0)[1:] == (29, False), "unloaded, and what stayed with it"


class Blocks(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.outer = nn.Linear(1, 1, bias=False)
            self.blocks = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(groups))
        self.stream = None


def residence(rest: int, groups: list[int]) -> Residency:
    """Weights that say to be of these sizes."""
    network = Blocks(len(groups))
    places = zip([network.outer, *network.blocks], [rest, *groups])
    slots = [
        ParamSlot(m, "weight", size, lambda: torch.zeros(1, 1), m.weight) for m, size in places
    ]
    return Residency(network, slots, CPU, network.blocks)


@pytest.mark.slow
def test_stages_are_what_settle_does(monkeypatch):
    draw = random.Random(4)
    for _ in range(60):
        monkeypatch.setattr(residency, "_all", type(residency._all)())
        stages = [
            stage(
                draw.randint(1, 9),
                [draw.randint(1, 9)] * draw.randint(2, 6),
                draw.randint(0, 5),
                leaves=draw.random() < 0.3,
            )
            for _ in range(3)
        ]
        room = draw.randint(30, 130)
        monkeypatch.setattr(Residency, "_room", lambda self, *_, room=room: room)
        placed, most, stay = followed(stages, room, 0)
        real = [residence(*one.weights.sizes) for one in stages]
        seen = 0
        for one, step, want in zip(real, stages, placed):
            assert one.settle(None, step.working) == want, (stages, room)
            seen = max(seen, sum(r.reserved for r in real) + step.working)
            if step.leaves:
                one.park()
        assert seen == most, (stages, room)
        assert stay == all(r.reserved and r.placement.nbytes == r.reserved for r in real)
        for one in real:
            one.park()


# --- LoRA


@pytest.fixture(scope="module")
def embedded():
    return load_all(None)


def write_lora(path: Path, layers: list[str], shape: tuple[int, int], dtype: torch.dtype) -> Path:
    n, k = shape
    ends = {"lora_down.weight": (4, k), "lora_up.weight": (n, 4)}
    tensors = {f"{m}.{e}": torch.ones(s, dtype=dtype) for m in layers for e, s in ends.items()}
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lora_branches_are_counted(tmp_path, embedded, dtype):
    """A branch in the file's own type takes nothing more; in another it is a copy."""
    layers = [f"transformer_blocks.{i}.attn.to_k" for i in range(6)]
    file = load_lora(write_lora(tmp_path / "a.safetensors", layers, (128, 128), dtype))
    model, text, _ = apply_loras(embedded.model, embedded.text_encoder, [Adapter(file)])
    before = plan(embedded)
    after = plan(replace(embedded, model=model))
    copied = 0 if dtype == torch.float32 else 6 * 2 * 4 * 128 * 4
    assert after.lora_branches == copied
    assert after.peak - after.runtime == before.peak - before.runtime + copied
    assert ("LoRA branches 0.00 GB" in after.sentence()) == bool(copied)
    assert "LoRA" not in before.sentence()


def test_lora_on_the_text_encoder_is_counted(tmp_path, embedded):
    layers = [f"text_encoder.layers.{i}.self_attn.o_proj" for i in range(2)]
    file = load_lora(write_lora(tmp_path / "t.safetensors", layers, (128, 128), torch.bfloat16))
    _, text, _ = apply_loras(embedded.model, embedded.text_encoder, [Adapter(file)])
    more = text.working_bytes(8) - embedded.text_encoder.working_bytes(8)
    assert more == 2 * 2 * 4 * 128 * 4


# --- edits


def towered(bundle, pictures: int = 2):
    """The embedded models as if they edited, with a small tower."""
    config = VisionConfig(2, 80, 1, 60, out=128, full=(1,))
    with torch.device("meta"):
        network = VisionTower(config)
    slots = [
        ParamSlot(
            network.get_submodule(n.rpartition(".")[0]),
            n.rpartition(".")[2],
            4 * p.numel(),
            lambda: None,
            p,
        )
        for n, p in network.named_parameters()
    ]
    weights = Residency(network, slots, CPU, network.blocks)
    tower = VisionModel(network, torch.float32, CPU, Path("tower"), weights)
    family = replace(bundle.model.family, edits=(EDIT_PLUS,))
    model = replace(bundle.model, variant=VARIANTS["edit-2509"], family=family)
    place = TowerPlace("with its vision tower", make=lambda: tower)
    return replace(bundle, model=model, text_encoder=replace(bundle.text_encoder, vision=place))


def test_an_edit_counts_tower_rows_and_references():
    bundle = Drawer().load(DrawCall("")).bundle
    edits, size = towered(bundle), (160, 96)
    tower = edits.text_encoder.vision.open()
    plain, made = plan(edits, PlanRequest(size, 4)), plan(edits, PlanRequest(size, 4, pictures=2))
    assert plain.vision_tower == 0 and "vision tower" not in plain.sentence()
    assert made.vision_tower == tower.weights.nbytes and "vision tower 0.00 GB" in made.sentence()
    table = sigmas(LINEAR, 4, 60)
    _, (width, height) = encoder_sizes(*size, EDIT_PLUS.area)
    patches = width * height // 14**2
    text = torch.empty(1, 64 + 2 * patches // 4, 128)  # the pictures' rows are in the prompt
    texts = {"positive": text, "negative": text}
    picture = torch.zeros(1, 16, 1, 12, 20)
    want = working_bytes(edits.model, Request(*size, table, references=(picture,) * 2), texts)
    decode = plan(edits, PlanRequest(size, 4)).activations
    assert made.activations == max(decode, want - made.modulation_table)
    words = edits.text_encoder.working_bytes(64 + 2 * patches // 4)
    words += 2 * patches // 4 * 128 * 4  # the pictures' rows
    seeing = activation_bytes(tower.network.config, patches, torch.float32)
    # the tower stays beside the text encoder, whose work over all rows is what takes most here
    both = tower.weights.nbytes + edits.text_encoder.weights.nbytes
    whole = both + edits.model.weights.nbytes
    held = made.peak - made.runtime - made.vae - made.others
    assert want > decode
    assert held == max(tower.weights.nbytes + seeing, both + words, whole + want), held


def test_a_picture_costs_nothing_that_nobody_sees():
    bundle = towered(Drawer().load(DrawCall("")).bundle)
    blind = replace(EDIT_PLUS, sees=False)
    family = replace(bundle.model.family, edits=(blind,))
    model = replace(bundle.model, family=family)
    assert plan(replace(bundle, model=model), PlanRequest(pictures=1)).vision_tower == 0


def test_layers_are_drawn_side_by_side():
    """With their sum before them and the picture behind them; not told, as many as usual."""
    bundle = Drawer().load(DrawCall("")).bundle
    model = replace(bundle.model, variant=VARIANTS["layered"])
    bundle, size = replace(bundle, model=model, vae=None), (160, 96)
    table, picture = sigmas(LINEAR, 4, 60), torch.zeros(1, 16, 1, 12, 20)
    text = torch.empty(1, 64, 128)
    for layers, told in ((4, 0), (7, 7)):
        made = plan(bundle, PlanRequest(size, 4, layers=told))
        request = Request(*size, table, references=(picture,), layers=layers)
        want = working_bytes(model, request, {"positive": text, "negative": text})
        assert made.activations + made.modulation_table == want, layers


def test_an_edit_without_a_tower_is_told():
    bundle = towered(Drawer().load(DrawCall("")).bundle)
    place = TowerPlace("no tower", missing="there is no mmproj beside it")
    text = replace(bundle.text_encoder, vision=place)
    with pytest.raises(InkstoneError, match="vision tower is missing.*no mmproj"):
        plan(replace(bundle, text_encoder=text), PlanRequest(pictures=1))


def test_what_a_draw_asks_for_is_what_was_planned(monkeypatch):
    bundle = Drawer().load(DrawCall("")).bundle
    asked = []
    settle = Residency.settle

    def listen(self, budget=None, working=0, *others):
        asked.append(working)
        return settle(self, budget, working, *others)

    monkeypatch.setattr(Residency, "settle", listen)
    text = torch.randn(1, 64, 128)
    denoise(bundle.model, text, text, Request(96, 64, sigmas(LINEAR, 2, 24), cfg=2.0))
    made = plan(replace(bundle, vae=None), PlanRequest((96, 64), 2))
    assert asked == [made.activations + made.modulation_table]


def test_the_command_line_counts_loras(tmp_path, capsys):
    layers = [f"transformer_blocks.{i}.attn.to_k" for i in range(6)]
    path = write_lora(tmp_path / "a.safetensors", layers, (128, 128), torch.bfloat16)
    assert main(["plan", "--quiet", "--lora", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lora_branches"] == 6 * 2 * 4 * 128 * 4
    assert main(["plan", "--quiet", "--lora", str(tmp_path / "none"), "--json"]) == 2
    assert "no such file" in capsys.readouterr().err
