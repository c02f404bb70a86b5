"""`inkstone score` on the embedded model: drawn, counted, resumed, compared; bad calls."""

import json
import shutil

import numpy as np
import pytest

from inkstone.errors import CallError
from inkstone.files.png import save_png
from inkstone.headless.cli.main import main
from inkstone.headless.score import reading
from inkstone.headless.score.call import ScoreCall, read_pixels
from inkstone.headless.score.drawing import job_lines
from inkstone.score.embedded_set import EMBEDDED, embedded_set
from inkstone.training import evaluate
from inkstone.training.reader import score as checker_score

STEPS = ("--steps", "3", "--cfg", "1")


class Stub:
    """Reads every prompt right; counts its pictures."""

    name = "stub"
    read = 0

    def lines(self, picture):
        Stub.read += 1
        return ["OPEN", "24 HOURS"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A score of six scenes, in few steps."""
    folder = tmp_path_factory.mktemp("score")
    assert main(["score", "--limit", "6", "--output", str(folder), "--quiet", *STEPS]) == 0
    return folder


def test_result(drawn):
    data = json.loads((drawn / "score.json").read_text())
    assert len(data["pictures"]) == 6 and not data["notes"]
    assert [p["seed"] for p in data["pictures"]] == list(range(6))
    assert all((drawn / p["file"]).exists() for p in data["pictures"])
    assert data["settings"] == {"seed": 0, "limit": 6, "steps": "3", "cfg": "1.0"}
    assert (
        set(data["readers"]) == {"embedded: words", "embedded: things"}
        and data["name"] == "embedded model"
    )
    truth = data["truth"]["embedded, rendered"]
    assert all(right == asked for right, asked in truth.values()) and truth["words"][1] > 0
    page = (drawn / "score.html").read_text()
    assert page.count("data:image/png;base64,") == 6 and "<script" not in page


def test_it_agrees_with_the_models_own_checker(drawn):
    """On the same pictures, within the 2 points of the issue; few steps make wrong ones too."""
    data = json.loads((drawn / "score.json").read_text())
    for measure, (here, there) in data["checks"][EMBEDDED].items():
        assert abs(here - there) <= 0.02, (measure, here, there)
    pictures = [read_pixels(drawn / p["file"]) for p in data["pictures"]]
    rates = checker_score(pictures, evaluate.test_scenes(6))
    words = data["sets"][EMBEDDED]["rates"]["texts"]
    assert words["rate"] == pytest.approx(rates["words"], abs=0.02)


def test_the_pictures_are_those_that_training_scores(tmp_path):
    """The same prompts, sizes and seeds, so that the figures can be compared."""
    scenes = evaluate.test_scenes(4)
    lines = list(job_lines(ScoreCall(sets=[EMBEDDED], output=tmp_path, limit=4)))
    assert [line["seed"] for line in lines] == [0, 1, 2, 3]
    assert [line["size"] for line in lines] == [f"{s.width}x{s.height}" for s in scenes]
    assert lines[0]["prompt"] == scenes[0].text.replace("a orange", "an orange")


def test_the_same_command_resumes(drawn, tmp_path, monkeypatch):
    """A picture that is missing from the journal is drawn again, nothing is read twice."""
    folder = tmp_path / "copy"
    shutil.copytree(drawn, folder)
    journal = folder / "pictures" / "results.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    before = (folder / "score.json").read_text()
    stamps = {f: f.stat().st_mtime_ns for f in (folder / "pictures").glob("*.png")}
    judged = []
    monkeypatch.setattr(reading, "judge", lambda *a: judged.append(a) or pytest.fail("read again"))
    assert main(["score", "--limit", "6", "--output", str(folder), *STEPS]) == 0
    drawn_again = [f for f, stamp in stamps.items() if f.stat().st_mtime_ns != stamp]
    assert not judged and len(drawn_again) == 1
    assert (folder / "score.json").read_text() == before
    assert len(journal.read_text().splitlines()) == 6


def test_a_cut_line_of_readings_is_read_again(drawn, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(drawn, folder)
    readings = folder / "readings.jsonl"
    text = readings.read_text()
    readings.write_text(text[: len(text) - 30] + "\n[]\n{}\n")
    before = (folder / "score.json").read_text()
    assert main(["score", "--limit", "6", "--output", str(folder), "--quiet", *STEPS]) == 0
    assert (folder / "score.json").read_text() == before


def test_a_result_compared_with_itself(drawn, tmp_path, capsys):
    result, page = str(drawn / "score.json"), tmp_path / "page.html"
    assert main(["score", "--compare", result, result, "--output", str(page)]) == 0
    out = capsys.readouterr().out
    assert "no difference: the same words are right" in out and "lost" not in out
    assert "<p>None.</p>" in page.read_text()
    assert main(["score", "--compare", result, result, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["sets"][EMBEDDED]
    assert all(m["same"] and m["difference"] == 0 for m in facts.values())


@pytest.fixture
def own_set(tmp_path):
    """A set with words, and one with an edit, of pictures that the embedded model can draw."""
    file = tmp_path / "signs.jsonl"
    task = {"prompt": 'the word "OPEN" in red', "texts": ["open", "24 hours"], "size": "128x128"}
    file.write_text("\n".join(json.dumps({**task, "id": str(n)}) for n in range(2)))
    return file


def test_words_by_a_stub_reader(own_set, tmp_path, monkeypatch, capsys):
    """An own set is read by the OCR's place, and its reader is measured on renderings."""
    monkeypatch.setattr(reading, "OCRReader", Stub)
    Stub.read = 0
    call = ["score", str(own_set), "--output", str(tmp_path / "out"), "--quiet", *STEPS]
    assert main(call) == 0 and Stub.read == 4  # two pictures and their renderings
    assert "signs           words       100.0 %" in capsys.readouterr().out
    data = json.loads((tmp_path / "out" / "score.json").read_text())
    assert data["readers"] == {"signs: words": "stub"}  # it has no things
    assert data["truth"]["signs, English"]["words"] == [6, 6]
    assert main(call) == 0 and Stub.read == 4  # kept


def test_edits_of_a_users_pictures(tmp_path, monkeypatch, capsys):
    picture = np.full((96, 160, 3), 240, np.uint8)
    picture[30:60, 60:100] = (215, 35, 35)
    save_png(tmp_path / "red.png", picture)
    task = {"prompt": "make the square blue", "image": "red.png", "changed": [0.3, 0.2, 0.4, 0.6]}
    (tmp_path / "edits.jsonl").write_text(json.dumps(task))
    folder = tmp_path / "out"
    call = ["score", str(tmp_path / "edits.jsonl"), "--output", str(folder), "--quiet"]
    assert main([*call, "--steps", "2"]) == 0
    (result,) = json.loads((folder / "score.json").read_text())["pictures"]
    assert set(result["marks"]) == {"changed", "stayed", "all"}
    (tmp_path / "edits.jsonl").write_text(json.dumps({**task, "image": "../red.png"}))
    assert main(call) == 1 and "leads out of its folder" in capsys.readouterr().err
    (tmp_path / "edits.jsonl").write_text(json.dumps({**task, "image": "no.png"}))
    assert main(call) == 2 and "no such picture file" in capsys.readouterr().err


def test_a_picture_that_cannot_be_drawn(tmp_path, monkeypatch, capsys):
    """It is counted as missing, said, and the rest is scored; the exit status is 1."""
    monkeypatch.setattr(reading, "OCRReader", Stub)
    good = {"id": "a", "prompt": "x", "texts": ["open"], "size": "64x64"}
    file = tmp_path / "sizes.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps({**good, "id": "b", "size": "64x63"}))
    folder = tmp_path / "out"
    status = main(["score", str(file), "--output", str(folder), "--quiet", *STEPS])
    assert status == 2 and "multiple of 16" in capsys.readouterr().err  # before anything is drawn


def test_objects_on_a_model_that_cannot_find(tmp_path, monkeypatch, capsys):
    """A text encoder without its head: said before anything is drawn."""
    encoder = tmp_path / "encoder.safetensors"
    encoder.write_bytes(b"no file")
    call = ["score", "objects", "--output", str(tmp_path / "out"), "--text-encoder", str(encoder)]
    assert main(call) == 2
    assert "Nothing can be counted: things are found by" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


BAD_CALLS = {
    "no output": ((), "--output is missing"),
    "no set": (("englisch", "--output", "out"), "Did you mean english?"),
    "a set twice": (("embedded", "embedded", "--output", "out"), "named twice"),
    "a batch": (("--batch", "2", "--output", "out"), "--batch is not for scores"),
    "a limit": (("--limit", "0", "--output", "out"), "--limit"),
    "a missing font": (("--font", "no.ttf", "--output", "out"), "--font no.ttf: no such file"),
    "no result": (("--compare", "a.json", "b.json"), "no such file"),
    "sets and results": (("english", "--compare", "a", "b"), "no sets: leave them out"),
    "output is a file": (("--output", "taken"), "taken: cannot be read: Not a directory"),
    "output has files": (
        ("--output", "."),
        "this folder is not empty and is not that of a score: expected prompts.jsonl and pictures "
        "in it, got prompts.jsonl, taken. Name a new or empty folder",
    ),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_bad_calls(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("x")
    (tmp_path / "prompts.jsonl").write_text("somebody's own")
    arguments, words = BAD_CALLS[what]
    try:
        status = main(["score", *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "prompts.jsonl").read_text() == "somebody's own"


def test_sets_of_one_name(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        line = {"prompt": "x", "texts": ["y"]}
        (tmp_path / folder / "signs.jsonl").write_text(json.dumps(line))
    sets = [str(tmp_path / folder / "signs.jsonl") for folder in ("a", "b")]
    with pytest.raises(CallError, match="Two sets have one name"):
        _ = ScoreCall(sets=sets, output=tmp_path).given


def test_sources_are_rendered_once(tmp_path):
    own = embedded_set("embedded-edits", 2)
    call = ScoreCall(sets=["embedded-edits"], output=tmp_path, limit=2)
    lines = list(job_lines(call))
    assert "size" not in lines[0] and np.array_equal(
        read_pixels(tmp_path / "sources" / "embedded-edits-00000.png"), own.sources[0]
    )
    before = [(f, f.stat().st_mtime_ns) for f in (tmp_path / "sources").iterdir()]
    assert list(job_lines(call)) == lines
    assert [(f, f.stat().st_mtime_ns) for f in (tmp_path / "sources").iterdir()] == before


def test_the_same_in_python(tmp_path):
    import inkstone

    result = inkstone.score_model(tmp_path / "out", "embedded", limit=2, seed=7, steps=1, cfg=1.0)
    assert [picture.seed for picture in result.pictures] == [7, 8]
    assert result.settings["steps"] == "1" and (tmp_path / "out" / "score.html").exists()
    for options, words in (({"limit": 0}, "limit is 0"), ({"batch": 2}, "batch is not for scores")):
        with pytest.raises(CallError, match=words):
            inkstone.score_model(tmp_path / "out", **options)
    with pytest.raises(CallError, match='Did you mean "steps"'):
        inkstone.score_model(tmp_path / "out", step=2)
