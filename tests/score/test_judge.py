"""Judging a picture with stub readers: marks of words, things, edits, and of what nobody can judge;
the embedded model's reader on true renderings and spoiled ones."""

import numpy as np
import pytest

from inkstone.score.changes import compare
from inkstone.score.embedded_reader import EmbeddedReader
from inkstone.score.embedded_set import EMBEDDED, EMBEDDED_EDITS, agreement, embedded_set
from inkstone.score.judge import MEASURES, Readers, judge
from inkstone.score.rates import total
from inkstone.score.sets import read_set
from inkstone.score.source import render_source
from inkstone.score.task import Task, WantedThing
from inkstone.score.things import Sighting

BLANK = np.full((64, 64, 3), 200, np.uint8)


class Stub:
    """Reads what it was given."""

    name = "stub"

    def __init__(self, lines=(), **things):
        self._lines, self._things = list(lines), things

    def lines(self, picture):
        return self._lines

    def sightings(self, picture, what):
        return self._things.get(what, [])


def marks(task, lines=(), **things):
    stub = Stub(lines, **things)
    return judge(task, BLANK, Readers(stub, stub)).marks


def test_words():
    task = Task("1", "p", texts=("OPEN NOW", "five"))
    assert marks(task, ["open", "now five"])["all"] == (1, 1)
    wrong = judge(task, BLANK, Readers(Stub(["open", "mow", "daily"])))
    assert wrong.marks == {
        "words": (1, 3),
        "texts": (0, 2),
        "characters": (7, 11),  # "openmow" for "opennow", "five" nowhere: 1 + 3 edits
        "all": (0, 1),
    }
    assert wrong.extra == 2 and wrong.read == ("open", "mow", "daily")


def test_things():
    dog = Sighting(0, 0, 20, 20, {"red": 1.0})
    task = Task("1", "p", things=(WantedThing("dog", most=1, colour="red", place="left"),))
    assert marks(task, dog=[dog]) == {
        **dict.fromkeys(("presence", "count", "colour", "place", "all"), (1, 1))
    }
    assert marks(task)["all"] == (0, 1)


def test_the_background_is_found_by_nobody():
    task = Task("1", "p", things=(WantedThing("background", colour="gray"),))
    assert judge(task, BLANK, Readers(finder=Stub())).marks["colour"] == (1, 1)
    white = np.full_like(BLANK, 250)
    assert judge(task, white, Readers(finder=Stub())).marks["colour"] == (0, 1)


def test_what_nobody_can_judge_has_no_marks():
    task = Task("1", "p", texts=("A",), things=(WantedThing("dog"),))
    judged = judge(task, BLANK, Readers(Stub(["A"])))
    assert judged.marks["words"] == (1, 1) and "all" not in judged.marks
    assert "presence" not in judged.marks
    assert judge(task, BLANK, Readers()).marks == {}


def test_edits():
    after = BLANK.copy()
    after[:16, :16] = 0
    task = Task("1", "p", gone=("OLD",), texts=("NEW",), changed=(0, 0, 0.25, 0.25))
    done = judge(task, after, Readers(Stub(["NEW"])), BLANK).marks
    assert done["changed"] == done["stayed"] == done["all"] == (1, 1)
    untouched = judge(task, BLANK, Readers(Stub(["NEW"])), BLANK).marks
    assert untouched["changed"] == (0, 1) and untouched["stayed"] == (1, 1)
    old = judge(task, after, Readers(Stub(["NEW", "OLD"])), BLANK).marks
    assert old["changed"] == (0, 1) and old["all"] == (0, 1)
    after[32:] = 0
    moved = judge(task, after, Readers(Stub(["NEW"])), BLANK).marks
    assert moved["stayed"] == (0, 1) and moved["changed"] == (1, 1) and moved["all"] == (0, 1)


def test_an_edit_that_only_pixels_show():
    task = Task("1", "p", image="x.png", changed=(0, 0, 0.5, 0.5))
    same = judge(task, BLANK, Readers(), BLANK).marks
    assert same == {"changed": (0, 1), "stayed": (1, 1), "all": (0, 1)}


def test_sources_of_edits():
    """What the edit must not touch is there before it, and where it may, something else is."""
    for task in read_set("edits").tasks:
        picture = render_source(task.source)
        assert (
            picture.shape == (1024, 1024, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
        )
        things = {thing.what: [Sighting(0, 0, 9, 9, {thing.colour: 1.0})] for thing in task.things}
        stub = Stub(task.texts, **things)  # everything is there already
        before = judge(task, picture, Readers(stub, stub), picture).marks
        assert before["changed"] == (0, 1) and before.get("stayed", (1, 1)) == (1, 1)


def test_changes():
    after = BLANK.copy()
    after[:8] = 100
    change = compare(BLANK, after, (0, 0, 1, 0.125))
    assert change.is_there and change.stayed and change.outside == 0.0
    assert not compare(BLANK, after, (0, 0.5, 1, 0.5)).stayed
    assert compare(BLANK, after, None).outside is None
    assert not compare(BLANK, after[:32], (0, 0, 1, 0.5)).stayed
    edge = np.roll(after, 1, 0)  # by a pixel: an edge that a VAE moved
    edge[0] = 100
    assert compare(after, edge, (0, 0.5, 1, 0.5)).stayed and (after != edge).any()
    noise = np.clip(BLANK + np.random.default_rng(0).integers(-30, 30, BLANK.shape), 0, 255)
    assert not compare(BLANK, noise.astype(np.uint8), None).is_there


@pytest.mark.parametrize("name", [EMBEDDED, EMBEDDED_EDITS])
def test_true_renderings_are_right(name):
    """And the same pictures in another order are wrong, so that this can fail."""
    own, reader = embedded_set(name, 40), EmbeddedReader()
    readers = Readers(reader, reader)
    tasks, sources = own.prompts.tasks, own.sources or [None] * 40
    right = [judge(t, p, readers, s).marks for t, p, s in zip(tasks, own.truths, sources)]
    assert all(r == a for r, a in total(right).values()), total(right)
    checks = [own.check(n, picture) for n, picture in enumerate(own.truths)]
    assert all(pair == (1.0, 1.0) for pair in agreement(right, checks).values())
    others = [*own.truths[1:], own.truths[0]]
    sizes = [p.shape == q.shape for p, q in zip(others, own.truths)]
    wrong = [judge(t, p, readers, s).marks for t, p, s in zip(tasks, others, sources)]
    assert sum(m["all"][0] for m, same in zip(wrong, sizes) if same) == 0
    assert set(total(right)) <= set(MEASURES)


def test_the_embedded_reader_reads_blurred_letters():
    """Blurred as the model's are; nothing is read where there is nothing."""
    reader = EmbeddedReader()
    own = embedded_set(EMBEDDED, 60)
    for task, picture in zip(own.prompts.tasks, own.truths):
        soft = picture.astype(np.float32)
        soft = (soft + np.roll(soft, 1, 0) + np.roll(soft, 1, 1) + np.roll(soft, -1, 1)) / 4
        assert reader.lines(soft.round().astype(np.uint8)) == list(task.texts), task
    assert reader.lines(np.full((96, 96, 3), 90, np.uint8)) == []
    assert reader.sightings(np.full((96, 96, 3), 90, np.uint8), "star") == []
    assert reader.lines(np.zeros((16, 16, 3), np.uint8)) == []
