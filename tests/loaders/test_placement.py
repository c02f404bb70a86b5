"""The decision where weights are: who is unloaded, who gets room, and the least that is enough."""

from __future__ import annotations

import random

import pytest

from inkstone.loaders.memory.placement import (
    NotEnoughMemory,
    Placement,
    PlannedMemory,
    PlannedWeights,
    decide,
    least,
    place,
)


def weights(name: str, groups: list[int], rest: int = 0, used: int = 0, loaded: bool = False):
    one = PlannedWeights(name, (rest, groups))
    one.used = used
    if loaded:
        one.arrange(Placement(len(groups), 0, one.nbytes), now=True)
    return one


def test_the_one_that_was_used_last_leaves_last():
    old, new = weights("old", [10], used=1, loaded=True), weights("new", [10], used=2, loaded=True)
    mine = weights("mine", [5, 5])
    assert decide(mine, [new, old], 30) == (Placement(2, 0, 10), [])
    assert decide(mine, [new, old], 29) == (Placement(2, 0, 10), [old])
    assert decide(mine, [new, old], 19) == (Placement(2, 0, 10), [old, new])
    placement, gone = decide(mine, [new, old], 29, keep=[old])
    assert (placement, gone) == (Placement(2, 0, 10), [new])


def test_room_is_left_for_those_that_settle_next():
    mine, later = weights("mine", [5, 5, 5, 5]), weights("later", [3, 3, 3])
    assert decide(mine, [], 26, after=[later])[0] == Placement(4, 0, 20), "6 are left"
    assert decide(mine, [], 25, after=[later])[0].streamed
    here = weights("later", [3, 3, 3], loaded=True)
    assert decide(mine, [here], 29, after=[here]) == (Placement(4, 0, 20), []), "it stays"
    placement, gone = decide(mine, [here], 28, after=[here])
    assert gone == [here] and not placement.streamed, "it comes back streamed, with its least"
    assert decide(mine, [here], 25, after=[here])[0].streamed
    idle = weights("idle", [9], used=9, loaded=True)
    assert decide(mine, [here, idle], 30, after=[here])[1] == [idle], "idle ones leave first"


def test_several_controls_leave_room_for_each_other():
    """With the least of all together each of them runs; with a byte less one does not."""
    draw = random.Random(11)
    for _ in range(100):
        team = [
            weights(
                f"{n}", [draw.randint(1, 9) for _ in range(draw.randint(1, 5))], draw.randint(0, 4)
            )
            for n in range(draw.randint(1, 4))
        ]
        *controls, main = team
        working, enough = draw.randint(0, 9), sum(one.least for one in team)
        memory = PlannedMemory(enough + working, [])
        memory.work(main, controls, working)
        assert memory.held <= enough and memory.peak == memory.held + working
        for one in team:
            one.arrange(None)
        with pytest.raises(NotEnoughMemory):
            PlannedMemory(enough + working - 1, []).work(main, controls, working)


def test_the_least_is_what_place_takes():
    draw = random.Random(5)
    for _ in range(200):
        rest = draw.randint(0, 9)
        groups = [draw.randint(1, 20) for _ in range(draw.randint(0, 6))]
        enough = least(rest, groups)
        assert place(rest, groups, enough).nbytes <= enough
        with pytest.raises(NotEnoughMemory) as caught:
            place(rest, groups, enough - 1)
        assert caught.value.missing == 1, (rest, groups)


def test_passes_go_together_where_no_weights_lose_their_place():
    """10 bytes of activations for one after the other, 30 together."""
    blocks = [10] * 20

    def chosen(room: int, *others: PlannedWeights, controls=(), groups=blocks) -> int:
        memory = PlannedMemory(room, list(others))
        return memory.chosen(weights("main", groups, rest=5), controls, 10, 30)

    assert chosen(205 + 30) == 30 and chosen(205 + 29) == 10, "resident stays resident"
    assert chosen(205 + 10) == 10
    assert chosen(155 + 10) == 30, "two of 20 more are streamed"
    assert chosen(155 + 10, groups=[10] * 19) == 10, "two of 19 are too many"
    assert chosen(25 + 30) == 30 and chosen(25 + 29) == 10, "the least of all"
    with_control = [weights("control", [4, 4])]
    assert chosen(205 + 8 + 30, controls=with_control) == 30
    assert chosen(205 + 8 + 29, controls=with_control) == 10
    idle = weights("idle", [50], used=1, loaded=True)
    assert chosen(205 + 50 + 30, idle) == 30
    assert chosen(205 + 50 + 29, idle) == 10, "idle ones stay"
    assert chosen(205 + 9, idle) == 30, "it leaves either way"
    assert PlannedMemory(999, []).chosen(weights("main", blocks), [], 10, 0) == 10


def test_a_choice_leaves_everything_as_it_is():
    main, idle = weights("main", [10] * 4), weights("idle", [50], used=1, loaded=True)
    memory = PlannedMemory(60, [idle])
    assert memory.chosen(main, [], 5, 9) == 9, "idle leaves for both"
    assert memory.present == [idle] and not memory.unloadings and main.placement is None
    memory.work(main, [], 5, together=9)
    assert memory.working == 9 and memory.peak == 49
