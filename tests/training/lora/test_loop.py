"""The loop of a LoRA training on a toy: steps, saves, stops and resumes, bit for bit."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import threading
from collections import Counter

import pytest
import torch

from inkstone.errors import CallError, InkstoneError
from inkstone.kernels.interrupt import stoppable
from inkstone.loaders.formats.safetensors import SafetensorsFile
from inkstone.training.checkpoint import EMA
from inkstone.training.lora import progress
from inkstone.training.lora.loop import AHEAD
from inkstone.training.lora.optimizer import check_optimizer
from inkstone.training.lora.order import Order
from inkstone.training.lora.state import STATE, check_result

from .toy import Examples, Toy, Trainer, draws_of, settings_of, train_toy


def run_of(folder, name, **changes):
    (folder / name).mkdir(exist_ok=True)
    return settings_of(folder / name, **changes)


def log_of(settings):
    text = (settings.folder / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_step_is_the_optimizers_own(tmp_path):
    """Against AdamW on the mean of a step's losses, written out, with clipping and an average."""
    settings = run_of(tmp_path, "a", ema=0.9, warmup=3, lr_schedule="cosine", clip=0.5)
    reports = train_toy(settings)
    toy, examples = Toy(), Examples()
    order, draws = Order(examples.buckets(), 2, 5), draws_of(5)
    reference = torch.optim.AdamW(toy.parameters(), lr=1.0, weight_decay=0.01)
    ema, clipped = EMA(toy, 0.9), 0

    for step in range(20):
        indices = [i for number in (2 * step, 2 * step + 1) for i in order.batch(number)]
        one = Trainer(toy)
        one.look_ahead(draws(step, indices))
        reference.zero_grad()
        losses = one.backward(
            [examples.example(i) for i in indices], draws(step, indices), 1 / len(indices)
        )
        length = float(torch.nn.utils.clip_grad_norm_(toy.parameters(), 0.5))
        clipped += length > 0.5
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 3) / 17))
        rate = (step + 1) / 3 if step < 3 else cosine
        for group in reference.param_groups:
            group["lr"] = 0.05 * rate
        reference.step()
        ema.update(toy, step)
        line = reports[step].line
        mean = sum(losses) / len(losses)
        assert abs(line.loss / mean - 1) < 1e-5, (step, line)
        assert abs(line.lr / (0.05 * rate) - 1) < 1e-5, (step, line)
        assert abs(line.grad / length - 1) < 1e-5, (step, line)
    assert 0 < clipped
    with SafetensorsFile(settings.output) as file:
        for name, value in ema.shadow.items():
            error = (file.read(name) - value).abs().max().item()
            assert error < 1e-6, f"{name}: {error}"
    assert reports[-1].line.loss < reports[0].line.loss / 2


def test_every_picture_comes_once_in_an_epoch():
    buckets = [list(range(7)), [7, 8], [], [9]]
    order = Order(buckets, 3, 1)
    assert order.per_epoch == 5
    epochs = [[order.batch(5 * e + k) for k in range(5)] for e in range(20)]
    for batches in epochs:
        assert sorted(i for batch in batches for i in batch) == list(range(10))
        assert all(any(set(batch) <= set(bucket) for bucket in buckets) for batch in batches)
    assert len({str(batches) for batches in epochs}) > 15
    firsts = Counter(len(batches[0]) for batches in epochs)
    assert len(firsts) == 3, "sizes are mixed"
    again = Order(buckets, 3, 1)
    assert again.batch(73) == order.batch(73) and Order(buckets, 3, 2).batch(73) != order.batch(73)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("at", [1, 5, 6, 13, 39])
def test_a_run_that_was_cut_ends_on_the_same_bytes(at, ema, tmp_path):
    """Cut by an error in the middle of a step, as a kill would."""
    whole, cut = run_of(tmp_path, "whole", ema=ema), run_of(tmp_path, "cut", ema=ema)
    train_toy(whole)

    def fail_late(trainer, examples):
        left = iter(range(at))

        def before(_):
            if next(left, None) is None:
                raise ZeroDivisionError

        trainer.before = before

    with pytest.raises(ZeroDivisionError):
        train_toy(cut, prepare=fail_late)
    assert not cut.output.exists()
    reports = train_toy(cut)
    assert len(reports) == 20 - at // 2 // 6 * 6
    assert cut.output.read_bytes() == whole.output.read_bytes()
    state = [(s.folder / STATE).read_bytes() for s in (whole, cut)]
    assert state[0] == state[1]
    pairs = zip(log_of(whole), log_of(cut), strict=True)
    assert all(a | {"seconds": 0} == b | {"seconds": 0} for a, b in pairs)


def test_tables_are_prepared_for_the_same_steps_after_a_resume(tmp_path):
    windows = []
    settings = settings_of(tmp_path, batch=1, accumulate=4, save_every=5, steps=21)

    def stop_in_step_14(trainer, examples):
        windows.append(trainer.windows)
        batches = iter(range(4 * 13))
        trainer.before = lambda _: next(batches)

    with pytest.raises(StopIteration):
        train_toy(settings, prepare=stop_in_step_14)
    train_toy(settings, prepare=lambda trainer, _: windows.append(trainer.windows))
    per_window = AHEAD // 4 * 4
    assert windows == [[per_window, per_window], [per_window, 20]], "21 steps: 8, 8 and 5"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_ends_as_an_interrupt(number, tmp_path, caplog):
    whole, cut = run_of(tmp_path, "whole"), run_of(tmp_path, "cut")
    train_toy(whole)

    def interrupt(trainer, examples):
        calls = []

        def before(_):
            calls.append(1)
            if len(calls) == 16:  # the second batch of step 8
                os.kill(os.getpid(), number)
            assert len(calls) < 17, "the batch is finished, no other begins"

        trainer.before = before

    with caplog.at_level("INFO"), stoppable() as stop, pytest.raises(KeyboardInterrupt):
        train_toy(cut, stop=stop, prepare=interrupt)
    assert f"step 7 of 20 is saved in {cut.folder / STATE}" in caplog.text
    assert [line["step"] for line in log_of(cut)] == list(range(1, 8))
    with caplog.at_level("INFO"):
        assert [r.line.step for r in train_toy(cut)] == list(range(8, 21))
    assert "resuming after step 7 of 20" in caplog.text
    assert cut.output.read_bytes() == whole.output.read_bytes()


def test_a_stop_before_samples_draws_them_after_the_resume(tmp_path):
    """No picture is drawn and no gradient computed for somebody who waits for the end."""
    whole, cut = run_of(tmp_path, "whole", sample_every=7), run_of(tmp_path, "cut", sample_every=7)
    train_toy(whole)
    drawn, stop, batches = [], threading.Event(), []

    def count(trainer, _):
        trainer.before = batches.append

    def watch(report):
        if report.line.step == 7:
            stop.set()

    with pytest.raises(KeyboardInterrupt):
        train_toy(cut, stop=stop, prepare=count, sample=drawn.append, on_step=watch)
    assert drawn == [0] and len(batches) == 7 * cut.accumulate
    train_toy(cut, sample=drawn.append)
    assert drawn == [0, 7, 14, 20]
    assert cut.output.read_bytes() == whole.output.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_its_picture(value, tmp_path):
    settings = settings_of(tmp_path)

    def spoil(trainer, examples):
        examples.targets[3] = value

    with pytest.raises(InkstoneError) as fault:
        train_toy(settings, prepare=spoil)
    assert f"the loss of 3.png is {value}. Nothing was saved." in str(fault.value), fault.value
    assert not settings.output.exists() and not (settings.folder / STATE).exists()


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(tmp_path):
    settings = settings_of(tmp_path, steps=12)
    seen = []

    def spoil(trainer, examples):
        def before(batch):
            seen.append(len(batch))
            if len(seen) == 17:  # step 9
                trainer.module.a.data[0] = float("nan")

        trainer.before = before

    with pytest.raises(InkstoneError, match="Step 9: the loss .* The checkpoint of step 6 stays"):
        train_toy(settings, prepare=spoil)
    train_toy(settings)
    whole = run_of(tmp_path, "whole", steps=12)
    train_toy(whole)
    assert settings.output.read_bytes() == whole.output.read_bytes()


def test_the_last_files_of_earlier_steps_are_kept(tmp_path):
    settings = settings_of(tmp_path, save_every=3, keep=2)
    saved = []
    train_toy(settings, on_save=saved.append)
    names = sorted(p.name for p in settings.folder.glob("*.safetensors"))
    assert names == [STATE, "toy-step-000015.safetensors", "toy-step-000018.safetensors"]
    assert saved == [3, 6, 9, 12, 15, 18, 20]
    with SafetensorsFile(settings.folder / names[1]) as file:
        assert file.metadata["step"] == "15"


def test_samples_are_drawn_with_the_weights_that_are_saved(tmp_path):
    settings = settings_of(tmp_path, sample_every=8, save_every=8, ema=0.9)
    module, drawn, saved = [], {}, {}

    def sample(step):
        drawn[step] = {n: p.detach().clone() for n, p in module[0].named_parameters()}

    reports = train_toy(
        settings, prepare=lambda trainer, _: module.append(trainer.module), sample=sample
    )
    assert len(reports) == 20 and list(drawn) == [0, 8, 16, 20]
    for step in (8, 16):
        saved[step] = settings.folder / f"toy-step-{step:06}.safetensors"
    saved[20] = settings.output
    for step, path in saved.items():
        with SafetensorsFile(path) as file:
            assert all(file.read(n).equal(value) for n, value in drawn[step].items()), step
    assert not drawn[20]["a"].equal(module[0].a), "the average is not what is trained"
    settings.output.unlink()  # as a kill behind the last checkpoint leaves it
    last = drawn.pop(20)["a"]
    train_toy(settings, prepare=lambda trainer, _: module.insert(0, trainer.module), sample=sample)
    assert list(drawn) == [0, 8, 16, 20] and drawn[20]["a"].equal(last)


def test_a_finished_run_is_not_run_again(tmp_path, caplog):
    settings = settings_of(tmp_path)
    train_toy(settings)
    settings.output.write_bytes(b"mine now")
    with caplog.at_level("INFO"):
        assert train_toy(settings) == []
    assert f"{settings.output} is finished: 20 steps" in caplog.text
    assert settings.output.read_bytes() == b"mine now"
    settings.output.unlink()
    assert train_toy(settings) == [], "the result comes from the checkpoint"
    assert settings.output.stat().st_size > 100


def test_other_arguments_are_refused_by_name(tmp_path):
    train_toy(settings_of(tmp_path))
    with pytest.raises(CallError) as fault:
        train_toy(settings_of(tmp_path, lr=0.07))
    words = "of a run with --lr 0.05; this run has --lr 0.07. Give the same arguments to resume it"
    assert words in str(fault.value) and "another --output" in str(fault.value)


def test_a_second_run_at_once_is_refused(tmp_path):
    settings = settings_of(tmp_path)

    def spoil(trainer, examples):
        def before(_):
            trainer.before = lambda _: None
            with pytest.raises(InkstoneError, match="another process trains this LoRA now"):
                train_toy(settings)

        trainer.before = before

    train_toy(settings, prepare=spoil)
    assert settings.output.exists()


def test_a_result_of_something_else_is_not_replaced(tmp_path):
    settings = settings_of(tmp_path)
    check_result(settings)
    settings.output.write_bytes(b"another LoRA")
    with pytest.raises(CallError, match="exists, and no checkpoints of it"):
        check_result(settings)
    settings.output.unlink()
    settings.folder.write_text("a file")
    with pytest.raises(CallError, match="toy-checkpoints is a file"):
        check_result(settings)
    with pytest.raises(CallError, match="the folder .*none does not exist"):
        check_result(settings_of(tmp_path / "none"))


@pytest.mark.parametrize("what", ["state", "log"])
def test_a_full_disk_is_a_sentence_and_the_run_resumes(what, tmp_path, monkeypatch):
    settings, whole = run_of(tmp_path, "cut"), run_of(tmp_path, "whole")
    train_toy(whole)
    full = OSError(errno.ENOSPC, "No space left on device")

    def no_room(*_, **__):
        raise full

    with monkeypatch.context() as patch:
        if what == "state":
            patch.setattr("os.fsync", lambda _: no_room())
        else:
            patch.setattr(progress.os, "write", no_room)
        with pytest.raises(InkstoneError, match="cannot be written: No space left on device"):
            train_toy(settings)
    assert not list(settings.folder.glob("*.tmp"))
    train_toy(settings)
    assert settings.output.read_bytes() == whole.output.read_bytes()


def test_a_damaged_state_is_a_sentence(tmp_path):
    settings = settings_of(tmp_path)
    train_toy(settings)
    settings.output.unlink()
    path = settings.folder / STATE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InkstoneError, match=STATE):
        train_toy(settings)


# --- the log and the line


def test_a_log_keeps_whole_lines_up_to_the_step(tmp_path):
    log = progress.Log(tmp_path / "log.jsonl")
    assert log.resumed(0) == []
    lines = [progress.StepLine(n, 0.5, 1e-4, 1.0, 0.1 * n) for n in range(1, 6)]
    for line in lines:
        log.add(line)
    with open(log.path, "a") as file:
        file.write('{"step": 6, "lo')
    assert progress.read_log(log.path) == lines
    assert log.resumed(3) == lines[:3]
    assert progress.read_log(log.path) == lines[:3]
    log.add(lines[3])
    assert progress.read_log(log.path) == lines[:4]
    for bad in ("[]", '{"step": 1}', '{"step": "1", "loss": 1, "lr": 1, "grad": 1, "seconds": 1}'):
        log.path.write_text(bad + "\n")
        assert progress.read_log(log.path) == []


def test_the_line_says_speed_time_and_memory(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = progress.Meter(3601, torch.device("cpu"))
    now[0] += 2
    report = meter.step(1, 0.5, 1e-4, 1.0)
    assert report.text().startswith("loss 0.5000, 0.50 it/s, 2:00:00 left, ")
    now[0] += 1000
    meter.skip()
    now[0] += 2
    report = meter.step(2, 0.3, 1e-4, 1.0)
    assert report.line.seconds == 4.0 and abs(report.smooth - 0.4) < 1e-6
    before = [progress.StepLine(2, 0.4, 1e-4, 1.0, 50.0)]
    now[0] += 30
    resumed = progress.Meter(10, torch.device("cpu"), before)
    now[0] += 20
    report = resumed.step(3, 0.4, 1e-4, 1.0)
    assert report.line.seconds == 70.0 and "20.0 s/it, 2:20 left" in report.text()


# --- the optimizer with moments in 8 bits


def test_moments_in_8_bits_are_resumed_too(tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install bitsandbytes")
    whole, cut = (run_of(tmp_path, name, optimizer="adamw8bit") for name in ("whole", "cut"))
    reports = train_toy(whole)
    assert reports[-1].line.loss < reports[0].line.loss / 2

    def fail_late(trainer, examples):
        batches = iter(range(17))
        trainer.before = lambda _: next(batches)

    with pytest.raises(StopIteration):
        train_toy(cut, prepare=fail_late)
    assert len(train_toy(cut)) == 14
    assert cut.output.read_bytes() == whole.output.read_bytes()
    state = [(one.folder / STATE).read_bytes() for one in (whole, cut)]
    assert state[0] == state[1]
    with SafetensorsFile(cut.folder / STATE) as file:
        assert file.entries["adam.state1.b"].dtype == torch.uint8


def test_without_bitsandbytes_the_command_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(CallError, match="needs bitsandbytes .*: pip install bitsandbytes, or use"):
        check_optimizer(settings_of(tmp_path, optimizer="adamw8bit"))
