"""Weights that leave memory or come block by block: same pictures, whatever the room."""

import gc
import threading

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.draw.drawer import Drawer
from inkstone.headless.draw.request import DrawCall
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.lru import Recent
from inkstone.loaders.memory.placement import Placement, place
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model, load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.memory_plan import PlanRequest, plan
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas

PROMPT = "a red circle on a white background"


@pytest.mark.parametrize(
    "room, want",
    [
        (None, Placement(5, 0, 60)),
        (60, Placement(5, 0, 60)),
        (59, Placement(2, 3, 50)),  # two blocks are in flight: three must leave to gain room
        (40, Placement(1, 4, 40)),
        (35, Placement(0, 5, 30)),
        (30, Placement(0, 5, 30)),
    ],
)
def test_place(room, want):
    assert place(10, [10] * 5, room) == want


def test_place_keeps_room_for_the_largest_streamed_blocks():
    assert place(0, [30, 10, 10, 10], 55) == Placement(1, 3, 50)
    assert place(0, [10, 10, 10, 30, 5], 64) == Placement(0, 5, 60)


def test_no_room_is_reported_with_both_numbers():
    with pytest.raises(InkstoneError, match=r"0\.03 GB.*0\.01 GB.*--memory"):
        place(10_000_000, [10_000_000] * 3, 12_000_000)


NO_HOOKS = Hooks()


def drawn(model, text, hooks=NO_HOOKS):
    table = sigmas(LINEAR, 2, 24)
    return denoise(model, text, None, Request(96, 64, table, seed=3), hooks)


@pytest.fixture
def room(monkeypatch):
    """Sets the room for weights, in bytes, on every device."""
    bytes_ = [1 << 40]
    monkeypatch.setattr(Residency, "_room", lambda self, *_: bytes_[0])
    monkeypatch.setattr(residency, "_all", type(residency._all)())

    def set_(value):
        bytes_[0] = value

    return set_


@pytest.fixture
def opened(room):
    want = LoadOptions(wait=True)
    return load_diffusion_model(EMBEDDED_FOLDER, want), load_text_encoder(EMBEDDED_FOLDER, want)


def least(model, blocks: int) -> int:
    """Room in which this many blocks stay and the others are streamed."""
    rest, groups = model.weights.sizes
    return rest + sum(groups[:blocks]) + 2 * max(groups[blocks:]) + needed(model)


def needed(model) -> int:
    """Bytes that `drawn` needs in addition to the weights; the prompt has fewer than 16 tokens."""
    request = Request(96, 64, sigmas(LINEAR, 2, 24))
    return working_bytes(model, request, {"positive": torch.zeros(1, 16, 128)})


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_streamed_weights_give_the_same_bits(opened, room, blocks):
    model, encoder = opened
    text = encoder.encode(PROMPT).states
    whole = drawn(model, text)
    encoder.weights.park()
    model.weights.park()
    room(least(model, blocks))
    streamed = drawn(model, text)
    decision = model.weights.placement
    assert decision.streamed and decision.resident >= blocks, decision
    assert torch.equal(streamed, whole), f"{(streamed - whole).abs().max():.2e}"
    blank = [p for p in model.network.parameters() if p.is_meta]
    assert blank, "all weights are in memory although they were to be streamed"
    room(1 << 40)
    assert torch.equal(drawn(model, text), whole) and not model.weights.placement.streamed
    assert not any(p.is_meta for p in model.network.parameters())


def test_a_stopped_run_leaves_a_usable_stream(opened, room):
    model, encoder = opened
    text = encoder.encode(PROMPT).states
    whole = drawn(model, text)
    model.weights.park()
    room(least(model, 1))

    def stop(step, block):
        if (step, block) == (1, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(model, text, Hooks(on_block=stop))
    assert torch.equal(drawn(model, text), whole)


@pytest.fixture
def reads(monkeypatch):
    """Blocks in the order in which they are read from the file."""
    blocks_read, read = [], residency.Prefetcher._read

    def noted(self, index):
        blocks_read.append(index)
        return read(self, index)

    monkeypatch.setattr(residency.Prefetcher, "_read", noted)
    return blocks_read


def test_work_begins_while_weights_still_come_in(opened, reads):
    model, encoder = opened
    text = encoder.encode(PROMPT).states
    reads.clear()
    model.ready(0)
    weights = model.weights
    assert not reads and weights.reserved == weights.nbytes, "settled: planned, not read"
    assert weights.in_memory == weights.sizes[0], "what lies outside of blocks is here"
    present = []
    first = drawn(model, text, Hooks(on_block=lambda *_: present.append(weights.in_memory)))
    blocks = len(weights.groups)
    assert sorted(reads) == list(range(blocks)), "each block once"
    assert present == sorted(present) and present[0] < present[blocks - 1] < weights.reserved
    assert weights.in_memory == weights.reserved
    assert torch.equal(drawn(model, text), first) and len(reads) == blocks, "nothing is read again"


def test_a_run_stopped_while_weights_come_in_goes_on_from_there(opened, reads):
    model, encoder = opened
    text = encoder.encode(PROMPT).states
    whole = drawn(model, text)
    model.weights.park()
    reads.clear()

    def stop(step, block):
        if block == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(model, text, Hooks(on_block=stop))
    assert model.weights.in_memory < model.weights.reserved
    assert torch.equal(drawn(model, text), whole)
    assert reads[:2] == [0, 1] and set(reads) == set(range(6)), reads
    assert reads.count(0) == reads.count(1) == 1, "what had come in stays"


def test_a_block_that_cannot_be_read_stops_that_run_only(opened, monkeypatch):
    model, encoder = opened
    text = encoder.encode(PROMPT).states
    whole = drawn(model, text)
    model.weights.park()
    read = residency.Prefetcher._read

    def fails(self, index):
        if index == 3:
            raise InkstoneError("the file ends early")
        return read(self, index)

    with monkeypatch.context() as patch, pytest.raises(InkstoneError, match="ends early"):
        patch.setattr(residency.Prefetcher, "_read", fails)
        drawn(model, text)
    assert torch.equal(drawn(model, text), whole)


def test_filled_at_once_where_it_is_asked(opened):
    model, _ = opened
    model.weights.settle(None)
    model.weights.fill()
    assert model.weights.in_memory == model.weights.nbytes and model.network.stream is None
    assert not any(p.is_meta for p in model.network.parameters())


def test_what_left_is_handed_back_to_the_system(opened, monkeypatch):
    """glibc holds freed memory under blocks in use: it is trimmed whenever weights leave."""
    from inkstone.loaders.memory import residency

    model, _ = opened
    model.weights.settle(None)
    calls = []
    monkeypatch.setattr(residency, "hand_back", lambda: calls.append(model.weights.reserved))
    model.weights.park()
    model.weights.park()
    assert calls == [0], "once, after the weights are gone"


def test_the_text_encoder_leaves_before_the_mmdit_enters(opened, room):
    model, encoder = opened
    text = encoder.encode(PROMPT).states
    whole = drawn(model, text)
    model.weights.park(), encoder.weights.park()
    room(model.weights.nbytes + needed(model))
    encoder._texts = Recent(1)  # else the words are not encoded again
    again = encoder.encode(PROMPT).states
    assert torch.equal(again, text) and encoder.weights.reserved and not model.weights.reserved
    assert torch.equal(drawn(model, again), whole)
    assert model.weights.reserved and not encoder.weights.reserved
    assert all(p.is_meta for p in encoder.network.parameters())
    assert torch.equal(encoder.encode(PROMPT).states, text) and not encoder.weights.reserved, (
        "kept words"
    )
    encoder._texts = Recent(1)
    assert torch.equal(encoder.encode(PROMPT).states, text) and encoder.weights.reserved, (
        "it comes back"
    )


@pytest.mark.slow
def test_a_parked_model_holds_nothing_and_its_reader_ends(opened, room):
    model, encoder = opened
    room(least(model, 0))
    drawn(model, encoder.encode(PROMPT).states)
    encoder.weights.park(), model.weights.park()
    gc.collect()
    assert all(p.is_meta for p in model.network.parameters()) and model.weights.reserved == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("inkstone-stream")]


def test_waiting_models_read_nothing_until_they_are_used(opened):
    model, encoder = opened
    encoder.encode(PROMPT)
    assert encoder.weights.reserved == encoder.weights.nbytes


def test_the_plan_is_what_the_run_does(opened, room):
    model, encoder = opened
    bundle = Drawer().load(DrawCall(PROMPT)).bundle
    memory_plan = plan(bundle)
    assert (
        memory_plan.together
        and memory_plan.peak < memory_plan.budget
        and "all resident" in memory_plan.sentence()
    )
    whole = memory_plan.text_encoder + memory_plan.diffusion_model
    assert whole == encoder.weights.nbytes + model.weights.nbytes
    memory_plan = plan(bundle, PlanRequest(memory=memory_plan.peak - memory_plan.text_encoder // 2))
    assert not memory_plan.together and "is unloaded before" in memory_plan.sentence(), (
        memory_plan.sentence()
    )
    with pytest.raises(InkstoneError, match="even when streamed"):
        plan(bundle, PlanRequest(memory=memory_plan.runtime))
