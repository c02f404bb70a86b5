"""`inkstone batch` in one process: what runs, is kept, recorded, measured; stops and full disks."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from inkstone.headless.cli.main import main
from inkstone.headless.queue import journal as batch_results
from inkstone.headless.queue import metrics
from inkstone.headless.queue.jobs import in_order, read_jobs
from inkstone.headless.queue.run import BatchCall, QueueCallbacks, batch
from inkstone.loaders.models import load as bundle_module
from inkstone.loaders.models.text_encoder import TextEncoderModel

from ...conftest import ROOT
from ...support.batches import QUICK, check_whole, pixels, records, write_jobs

RED, BLUE = "a red circle on a white background", "a blue square on a white background"
GRAPH = str(ROOT / "workflows" / "api" / "text_to_image_embedded.json")


def run(place: Path, jobs: list[dict], *more: str) -> int:
    """The command with QUICK for all jobs that do not say otherwise."""
    write_jobs(place / "jobs.jsonl", jobs)
    (place / "quick.json").write_text(json.dumps(QUICK))
    fixed = ["batch", "jobs.jsonl", "--output", "out", "--defaults", "quick.json", "--quiet"]
    return main([*fixed, *more])


def test_draws_graphs_batches_and_latents(place, capsys):
    jobs = [
        {"id": "one", "prompt": RED, "seed": 5},
        {"id": "two", "prompt": RED, "seed": 5, "batch": 2, "save_latent": True},
        {"id": "graph", "graph": GRAPH, "set": {"7.steps": 1, "7.seed": 3}},
    ]
    assert run(place, jobs) == 0
    printed = capsys.readouterr().out.splitlines()
    check_whole(place / "out", 3)
    assert sorted(printed) == sorted(
        f"out/{name}" for record in records(place / "out") for name in record["files"]
    )
    assert (place / "out" / "two.safetensors").is_file()
    assert pixels(place / "out" / "one.png") == pixels(place / "out" / "two_1.png")
    assert records(place / "out")[0]["call"]["prompt"] == RED


def test_a_picture_is_the_one_that_draw_makes(place):
    assert run(place, [{"id": "a", "prompt": BLUE, "seed": 1}, {"id": "b", "prompt": RED}]) == 0
    quick = ["--size", "64x64", "--steps", "1", "--cfg", "1", "--quiet"]
    assert main(["draw", RED, "-o", "own.png", *quick]) == 0
    assert pixels(place / "own.png") == pixels(place / "out" / "b.png")


@pytest.mark.slow
def test_models_open_once_and_each_prompt_is_encoded_once(place, monkeypatch):
    opened, encoded = [], []
    load, encode = bundle_module.load_diffusion_model, TextEncoderModel._prompt_ids
    monkeypatch.setattr(
        bundle_module, "load_diffusion_model", lambda *a: (opened.append(a), load(*a))[1]
    )
    monkeypatch.setattr(
        TextEncoderModel, "_prompt_ids", lambda s, text: (encoded.append(text), encode(s, text))[1]
    )
    prompts = [
        f"a {colour} circle on a white background"
        for colour in "red blue green yellow black purple orange".split()
    ]
    jobs = [{"prompt": p, "seed": s, "cfg": 2} for s in range(2) for p in prompts + [RED]]
    assert run(place, jobs) == 0
    assert len(opened) == 1
    assert sorted(encoded) == sorted({*prompts, RED, ""}), "each once, and the negative once"
    check_whole(place / "out", len(jobs))


@pytest.mark.slow
def test_equal_jobs_both_run_and_changed_ones_run_again(place):
    jobs = [{"prompt": RED}, {"prompt": RED}, {"id": "x", "prompt": RED, "batch": 2}]
    assert run(place, jobs) == 0
    first = records(place / "out")
    assert len({r["id"] for r in first}) == 3
    assert run(place, jobs) == 0 and len(records(place / "out")) == 3, "nothing runs twice"
    jobs[2] = {"id": "x", "prompt": BLUE}
    jobs.insert(0, {"prompt": BLUE, "seed": 9})  # lines move: no other job is touched
    assert run(place, jobs) == 0
    assert len(records(place / "out")) == 5
    assert (place / "out" / "x.png").is_file() and not (place / "out" / "x_2.png").exists()


@pytest.mark.slow
def test_a_changed_picture_or_graph_is_another_job(place):
    assert main(["draw", RED, "-o", "in.png", "--size", "64x64", "--steps", "1", "--quiet"]) == 0
    (place / "g.json").write_text(Path(GRAPH).read_text())
    jobs = [
        {"id": "p", "prompt": BLUE, "image": "in.png", "strength": 0.5, "size": None},
        {"id": "g", "graph": "g.json", "set": {"7.steps": 1}},
    ]
    assert run(place, jobs) == 0
    (place / "g.json").write_text(json.dumps(json.loads(Path(GRAPH).read_text()), indent=3))
    (place / "in.png").unlink()  # done already: it may go
    assert run(place, jobs) == 0
    assert [r["id"] for r in records(place / "out")] == ["p", "g", "g"]


@pytest.mark.slow
def test_memory_and_device_make_no_other_job(place):
    assert run(place, [{"prompt": RED}]) == 0
    assert run(place, [{"prompt": RED}], "--memory", "8GB", "--device", "cpu") == 0
    assert len(records(place / "out")) == 1
    assert run(place, [{"prompt": RED}], "--seed", "4") == 0
    assert len(records(place / "out")) == 2


def test_groups_by_model_then_size_in_order(tmp_path):
    lines = [
        ("a", "64x64", None),
        ("b", "32x32", None),
        ("c", "64x64", "v"),
        ("d", "64x64", None),
        ("e", "32x32", None),
        ("f", "64x64", "v"),
    ]
    (tmp_path / "v").mkdir()
    jobs = [
        {"id": i, "prompt": "", "size": s} | ({"vae": str(tmp_path / "v")} if v else {})
        for i, s, v in lines
    ]
    ordered = in_order(read_jobs(write_jobs(tmp_path / "j.jsonl", jobs), {}))
    assert [job.name for job in ordered] == ["a", "d", "b", "e", "c", "f"]


@pytest.mark.slow
def test_a_failed_job_costs_nobody_else_and_waits_for_retry(place):
    (place / "bad.png").write_bytes(b"no picture")
    jobs = [
        {"id": "bad", "prompt": RED, "image": "bad.png", "strength": 0.5, "size": None},
        {"id": "good", "prompt": RED},
    ]
    assert run(place, jobs) == 1
    assert {r["id"]: r["status"] for r in records(place / "out")} == {
        "bad": "failed",
        "good": "done",
    }
    assert "cannot be read as a picture" in records(place / "out")[0]["error"]
    assert run(place, jobs) == 1 and len(records(place / "out")) == 2, "not tried again unasked"
    assert run(place, jobs, "--retry-failed") == 1 and len(records(place / "out")) == 3
    assert main(["draw", RED, "-o", "bad.png", "--size", "64x64", "--steps", "1", "--quiet"]) == 0
    assert run(place, jobs) == 0, "the picture changed: another job"


@pytest.mark.slow
def test_measures(place):
    from prometheus_client.parser import text_string_to_metric_families as parse

    assert run(place, [{"prompt": RED, "seed": s} for s in range(3)]) == 0
    text = (place / "out" / "metrics.prom").read_text()
    families = {family.name: family for family in parse(text)}
    buckets = [s.value for s in families["inkstone_batch_job_seconds"].samples if "le" in s.labels]
    assert buckets == sorted(buckets) and buckets[-1] == 3, "cumulative, +Inf counts all"
    assert text.count('le="+Inf"') == 1
    done = {s.labels["status"]: s.value for s in families["inkstone_batch_jobs"].samples}
    assert done == {"done": 3, "failed": 0}
    assert families["inkstone_batch_peak_memory_bytes"].samples[0].value > 50e6
    lines = [json.loads(x) for x in (place / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["job"] * 3 + ["run"]
    assert lines[0]["call"]["prompt"] == RED and lines[-1]["images"] == 3
    assert run(place, [{"prompt": RED, "seed": s} for s in range(4)]) == 0
    assert 'status="done"} 4' in (place / "out" / "metrics.prom").read_text(), "goes on"


def test_a_job_slower_than_every_bucket_leaves_json_without_infinity(tmp_path):
    slow = metrics.Metrics(tmp_path)
    slow.count({"status": "done", "total_seconds": 2 * metrics.BUCKETS[-1]})
    facts = json.loads(json.dumps(slow.facts(), allow_nan=False))
    assert facts["latency_p95"] == metrics.BUCKETS[-1] and facts["latency"]["+Inf"] == 1


FAMILIES = {  # name -> labels: dashboards rely on them
    "jobs_total": {"status"},
    "images_total": set(),
    "retries_total": set(),
    "job_seconds_bucket": {"le"},
    "job_seconds_sum": set(),
    "job_seconds_count": set(),
    "stage_seconds_total": {"stage"},
    "prompts_encoded_total": set(),
    "models_opened_total": set(),
    "jobs_left": set(),
    "images_per_hour": set(),
    "peak_memory_bytes": {"worker", "device"},
}


def test_names_and_labels_of_the_exposition(tmp_path):
    from prometheus_client.parser import text_string_to_metric_families as parse

    worker = 'a "b" \\ c\nd'
    record = {"status": "done", "seconds": {"denoise": 1.5}, "worker": worker, "total_seconds": 2}
    measures = metrics.Metrics(tmp_path)
    measures.count(record)
    measures.add(record | {"peak_memory_bytes": {"cpu": 7}})
    measures.close()
    families = list(parse((tmp_path / "metrics.prom").read_text()))
    samples = [sample for family in families for sample in family.samples]
    labels = {s.name.removeprefix("inkstone_batch_"): set(s.labels) for s in samples}
    assert labels == FAMILIES and all(family.documentation for family in families)
    (peak,) = (s for s in samples if s.name.endswith("peak_memory_bytes"))
    assert (peak.labels["worker"], peak.value) == (worker, 7), "labels are escaped"
    bounds = [s.labels["le"] for s in samples if "le" in s.labels]
    assert bounds == [*map(str, metrics.BUCKETS), "+Inf"]


def test_without_the_library_there_are_only_the_lines(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(metrics.prometheus, "is_available", lambda: False)
    with caplog.at_level("INFO"):
        measures = metrics.Metrics(tmp_path)
    measures.count({"status": "done"})
    measures.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert "pip install 'inkstone[metrics]'" in caplog.text and len(caplog.records) == 1


@pytest.mark.slow
def test_a_line_that_was_cut_off_is_taken_away(place):
    assert run(place, [{"id": "a", "prompt": RED}, {"id": "b", "prompt": RED, "seed": 1}]) == 0
    journal = place / "out" / "results.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    (place / "out" / "metrics.jsonl").open("a").write('{"event": "jo')
    assert run(place, [{"id": "a", "prompt": RED}, {"id": "b", "prompt": RED, "seed": 1}]) == 0
    check_whole(place / "out", 2)
    assert '{"event": "jo\n{"event": "job"' in (place / "out" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_damaged_line_in_the_middle_costs_its_job_alone(place):
    jobs = [{"id": i, "prompt": RED} for i in "abc"]
    assert run(place, jobs) == 0
    journal = place / "out" / "results.jsonl"
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], b"\x00\xff{", lines[2]]) + b"\n")
    assert run(place, jobs) == 0
    left = journal.read_bytes().splitlines()
    assert [json.loads(x)["id"] for x in (left[0], left[2], left[3])] == ["a", "c", "b"]


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_costs_no_job(place, monkeypatch, capsys):
    jobs = [{"id": i, "prompt": RED} for i in "abc"]
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 4:  # folder, picture, folder, journal of the first job
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(batch_results.os, "fsync", full)
    assert run(place, jobs) == 1
    assert "No space left" in capsys.readouterr().err
    assert [r["id"] for r in records(place / "out")] == ["a"]
    monkeypatch.setattr(batch_results.os, "fsync", real)
    assert run(place, jobs) == 0
    check_whole(place / "out", 3)


def test_a_journal_line_that_does_not_fit_leaves_nothing(tmp_path):
    with batch_results.Results(tmp_path) as results:
        whole = results._journal

        class Full:
            """Writes a few bytes, then has no room."""

            fileno, truncate = whole.fileno, whole.truncate

            def write(self, data):
                if len(data) > 10:
                    return whole.write(bytes(data[:10]))
                raise OSError(errno.ENOSPC, "No space left on device")

        results._journal = Full()
        with pytest.raises(OSError):
            results._append({"id": "abcdefghijk" * 2})
        results._journal = whole
    assert (tmp_path / "results.jsonl").read_bytes() == b""


@pytest.mark.slow
def test_ctrl_c_ends_after_the_step(place, capsys):
    """The signal comes in the second job's first step; the second step of that job never ends."""
    steps, before = [], signal.getsignal(signal.SIGINT)

    def press(job, done, of):
        steps.append((job.name, done))
        if job.name == "b":
            os.kill(os.getpid(), signal.SIGINT)

    jobs = write_jobs(
        place / "j.jsonl", [{"id": i, "prompt": RED, **QUICK, "steps": 3} for i in "abc"]
    )
    call = BatchCall(jobs, place / "out")
    with pytest.raises(KeyboardInterrupt):
        batch(call, QueueCallbacks(step=press))
    assert steps[-1] == ("b", 1)
    assert signal.getsignal(signal.SIGINT) is before
    assert [r["id"] for r in records(place / "out")] == ["a"]
    assert not (place / "out" / ".work").exists()
    assert batch(call)["done"] == 3
    check_whole(place / "out", 3)


def test_ctrl_c_in_a_graph(place):
    graph = {"id": "g", "graph": GRAPH, "set": {"7.steps": 2}}
    jobs = write_jobs(place / "j.jsonl", [graph])
    with pytest.raises(KeyboardInterrupt):
        batch(
            BatchCall(jobs, place / "out"),
            QueueCallbacks(step=lambda *a: os.kill(os.getpid(), signal.SIGINT)),
        )
    assert not records(place / "out")


def test_a_folder_has_one_run_at_a_time(place):
    write_jobs(place / "jobs.jsonl", [{"prompt": RED}])
    with batch_results.Results(place / "out"):
        status, messages = [], []
        thread = threading.Thread(target=lambda: status.append(_quiet(messages)))
        thread.start()
        thread.join()
    assert status == [2] and f"process {os.getpid()}" in messages[0]


def _quiet(messages: list[str]) -> int:
    try:
        batch(BatchCall(Path("jobs.jsonl"), Path("out")))
    except batch_results.CallError as error:
        messages.append(str(error))
        return 2
    return 0
