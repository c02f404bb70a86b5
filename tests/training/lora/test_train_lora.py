"""`inkstone train-lora` on the embedded model: the file, a kill, two processes, a wrong call."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import inkstone
from inkstone.errors import CallError, InkstoneError
from inkstone.headless.cli.main import main
from inkstone.loaders.formats.safetensors import SafetensorsFile
from inkstone.loaders.lora.adapters import Adapter
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model
from inkstone.pipeline.train_choices import TrainSettings
from inkstone.training.grammar import prompt, sample
from inkstone.training.lora.samples import Samples, Stopped
from inkstone.training.lora.session import prepared
from inkstone.training.lora.state import STATE
from inkstone.training.render import render

from ...conftest import ROOT
from ...support.ports import free_port

COMMAND = [
    sys.executable,
    "-B",
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests import conftest\n"
    "from inkstone.headless.cli.main import main; sys.exit(main(sys.argv[1:]))",
]
STARTED = "2026-01-01T00:00:00Z\n"  # the date in a file, else that of the test's run
QUICK = ("--rank", "4", "--batch", "2", "--targets", "attention", "--seed", "3", "--lr", "1e-3")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Six pictures in three sizes, with captions."""
    folder, rng = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(1)
    folder.mkdir()
    sizes = ((64, 64), (64, 64), (96, 64), (64, 96), (64, 64), (96, 64))
    for number, size in enumerate(sizes):
        scene = sample(rng, "shapes", (128, 128))
        Image.fromarray(render(scene)).resize(size).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(prompt(scene) + "\n")
    return folder


def call(pictures: Path, output: Path, *more: str) -> list[str]:
    """A quick training; its folder is there, with the date of its start."""
    folder = output.with_name(f"{output.stem}-checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "started").write_text(STARTED)
    options = ("-o", str(output), *QUICK, "--resolution", "64")
    return ["train-lora", str(pictures), *options, *more]


def steps_in(output: Path) -> list[int]:
    """The steps in the log."""
    text = (output.with_name(f"{output.stem}-checkpoints") / "log.jsonl").read_text()
    return [json.loads(line)["step"] for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Path:
    """The file of a run that nothing stopped: 16 steps."""
    output = tmp_path_factory.mktemp("whole") / "toy.safetensors"
    assert main(call(pictures, output, "--steps", "16", "--save-every", "5", "--ema", "0.9")) == 0
    return output


def test_the_file_loads_with_all_its_modules(whole, pictures):
    model = load_diffusion_model(EMBEDDED_FOLDER)
    lora = load_lora(whole)
    adapted = model.with_loras([Adapter(lora, 1.0)])
    (fitted,) = adapted.adapters
    assert not lora.unknown_modules and not fitted.misses
    assert fitted.layers.keys() == lora.model.keys() and len(lora.model) == 6 * 8 - 2
    with SafetensorsFile(whole) as file:
        facts = file.metadata
        up = [file.read(name) for name in file.entries if name.endswith("lora_up.weight")]
    assert all(tensor.any() for tensor in up)
    assert facts["ss_num_train_images"] == "6" and facts["modelspec.date"] == STARTED.strip()
    assert facts["ss_steps"] == "16" and facts["ss_network_dim"] == "4"
    folder = whole.with_name("toy-checkpoints")
    names = {path.name for path in folder.iterdir()}
    steps = {f"toy-step-{step:06}.safetensors" for step in (5, 10, 15)}
    assert names == {STATE, "run.json", "started", "log.jsonl", "loss.png", *steps}
    assert steps_in(whole) == list(range(1, 17))
    assert (pictures / ".inkstone-cache").is_dir()


def test_a_finished_run_does_nothing_and_others_are_refused(whole, pictures, capsys):
    before = whole.stat()
    base = call(pictures, whole, "--save-every", "5", "--ema", "0.9")
    assert main([*base, "--steps", "16"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(whole) and whole.stat() == before
    for more, words in (
        (("--steps", "20"), "--steps 16; this run has --steps 20"),
        (("--steps", "16", "--rank", "8"), "--rank 4; this run has --rank 8"),
        (("--steps", "16", "--accumulate", "2"), "--accumulate 1; this run has --accumulate 2"),
    ):
        assert main([*base, *more]) == 2
        assert words in capsys.readouterr().err
    assert main([*base, "--steps", "16", "--keep", "9", "--device", "cpu"]) == 0


def test_other_pictures_are_another_run(whole, pictures, tmp_path, capsys):
    other = tmp_path / "pictures"
    other.mkdir()
    for path in pictures.glob("?.*"):
        (other / path.name).write_bytes(path.read_bytes())
    base = call(other, whole, "--steps", "16", "--ema", "0.9")
    assert main(base) == 0, "the same pictures at another place"
    (other / "0.txt").write_text("another caption\n")
    assert main(base) == 2
    said = capsys.readouterr().err
    assert (
        "of a run on 6 pictures, and pictures, captions, references or masks were changed" in said
    )
    assert "there are 6 now. Put them back as they were to resume it, or choose another" in said
    assert main([*base, "--rank", "8"]) == 2
    assert "--rank 4" in capsys.readouterr().err, "other arguments are said by their names"
    (other / "0.png").unlink()
    assert main(base) == 2
    assert "there are 5 now" in capsys.readouterr().err


def test_other_repeats_are_another_run(whole, pictures, tmp_path, capsys):
    """The number that a folder says; one for all pictures alike changes nothing."""
    folder = tmp_path / "10_all"
    folder.mkdir()
    for path in pictures.glob("?.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    base = call(tmp_path, whole, "--steps", "16", "--ema", "0.9")
    assert main(base) == 0
    (tmp_path / "5_last").mkdir()
    for path in folder.glob("5.*"):
        path.rename(tmp_path / "5_last" / path.name)
    assert main(base) == 2
    assert "references or masks were changed since: there are 6 now" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 8, 14])
def test_a_killed_run_ends_on_the_same_bytes(after, whole, pictures, tmp_path):
    output = tmp_path / "toy.safetensors"
    arguments = call(pictures, output, "--steps", "16", "--save-every", "5", "--ema", "0.9")
    log = tmp_path / "toy-checkpoints" / "log.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": str(os.environ.get("OMP_NUM_THREADS", ""))}
    run = subprocess.Popen([*COMMAND, *arguments, "--quiet"], env=environment)
    while run.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= after):
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "it was too quick"
    assert not output.exists()
    assert main(arguments) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert steps_in(output) == list(range(1, 17))
    state = tmp_path / "toy-checkpoints" / STATE
    assert state.read_bytes() == (whole.with_name("toy-checkpoints") / STATE).read_bytes()


@pytest.mark.slow
def test_two_processes_give_the_same_curve(pictures, tmp_path):
    """One process with --accumulate 2 against two."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert main(call(pictures, one, "--steps", "6", "--accumulate", "2")) == 0
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = [
        subprocess.Popen(
            [*COMMAND, *call(pictures, two, "--steps", "6")],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [out.strip() for out, _ in said] == [str(two), ""], "the first one says what is done"
    assert "step 6/6" in said[0][1] and "step" not in said[1][1]
    logs = [
        [json.loads(line) for line in text.splitlines()]
        for text in (
            (tmp_path / f"{name}-checkpoints" / "log.jsonl").read_text() for name in ("one", "two")
        )
    ]
    for a, b in zip(*logs, strict=True):
        assert abs(a["loss"] / b["loss"] - 1) < 1e-5 and abs(a["grad"] / b["grad"] - 1) < 1e-4
    with SafetensorsFile(one.with_name("one-checkpoints") / STATE) as left:
        with SafetensorsFile(two.with_name("two-checkpoints") / STATE) as right:
            for name in left.entries:
                if name.startswith("model."):
                    error = (left.read(name) - right.read(name)).abs().max().item()
                    assert error < 1e-4, f"{name}: {error}"


def test_an_interrupt_says_how_to_go_on(whole, pictures, tmp_path, monkeypatch, capsys, caplog):
    output = tmp_path / "toy.safetensors"
    arguments = call(pictures, output, "--steps", "16", "--save-every", "5", "--ema", "0.9")

    def interrupt(self, value, total, detail=""):
        if value == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with caplog.at_level("INFO"), monkeypatch.context() as patch:
        patch.setattr("inkstone.headless.cli.train_lora.ProgressLine.__call__", interrupt)
        assert main(arguments) == 1
    assert "stopped; run the same command to continue" in capsys.readouterr().err
    state = tmp_path / "toy-checkpoints" / STATE
    assert f"step 2 of 16 is saved in {state}" in caplog.text and not output.exists()
    assert main(arguments) == 0
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", ["checking pictures", "encoding pictures", "encoding captions"])
def test_an_interrupt_before_the_training(
    stage, number, pictures, tmp_path, monkeypatch, capsys, caplog
):
    """While pictures are read or encoded: a sentence, nothing half done, and it goes on."""
    output, handlers = tmp_path / "toy.safetensors", signal.getsignal(signal.SIGTERM)
    cache = tmp_path / "cache"
    arguments = call(pictures, output, "--steps", "1", "--cache-dir", str(cache))

    def interrupt(what, done, total):
        if (what, done) == (stage, 2):
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr("inkstone.headless.cli.train_lora._show_item", interrupt)
        assert main(arguments) == 1
    assert "stopped; run the same command to continue" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handlers
    left = [path.name for path in tmp_path.rglob(".*")]
    assert not left and not output.exists(), left
    assert main(arguments) == 0 and output.exists()


def test_pairs_and_masks_train_an_edit(pictures, tmp_path):
    before, masks = tmp_path / "before", tmp_path / "masks"
    before.mkdir(), masks.mkdir()
    losses = {}
    for path in pictures.glob("*.png"):
        with Image.open(path) as picture:
            ImageOps.invert(picture).save(before / path.name)
            half = Image.new("L", picture.size)
            half.paste(255, (0, 0, picture.width // 2, picture.height))
            half.save(masks / path.name)
    for name, more in (
        ("plain", {}),
        ("pairs", {"control_dir": before}),
        ("masked", {"control_dir": before, "mask_dir": masks}),
    ):
        reports = []
        inkstone.train_lora(
            pictures,
            tmp_path / f"{name}.safetensors",
            steps=2,
            rank=2,
            resolution=64,
            caption_dropout=0.5,
            cache_dir=tmp_path / "cache",
            on_step=reports.append,
            **more,
        )
        losses[name] = [report.line.loss for report in reports]
    assert len({tuple(each) for each in losses.values()}) == 3, losses
    with SafetensorsFile(tmp_path / "pairs.safetensors") as file:
        up = [file.read(name) for name in file.entries if name.endswith("lora_up.weight")]
    assert up and all(tensor.any() for tensor in up)


# --- the call


def test_options_come_before_the_file_of_settings(pictures, tmp_path, caplog, capsys):
    path = tmp_path / "settings.json"
    output = tmp_path / "l.safetensors"
    stored = {"data": str(pictures), "output": str(output), "steps": 900, "rank": 2}
    stored |= {"resolution": 64, "lr": 0.5, "targets": ["attention"]}
    path.write_text(json.dumps(stored))
    with caplog.at_level("INFO"):
        assert main(["train-lora", "--settings", str(path), "--steps", "1", "--lr", "0.5"]) == 0
    assert f"--steps of the command line, not of {path}" in caplog.text
    assert capsys.readouterr().out.strip() == str(output) and steps_in(output) == [1]
    with SafetensorsFile(output) as file:
        assert file.metadata["ss_network_dim"] == "2"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "DATA is missing: expected a folder of pictures, or --settings."),
        (("DATA",), "--output is missing: expected -o OUT.safetensors"),
        (("DATA", "-o", "x.bin"), "a LoRA is a .safetensors file. Name one, such as x.safetensors"),
        (("DATA", "-o", "no/x.safetensors"), "the folder no does not exist"),
        (("nothing", "-o", "x.safetensors"), "nothing: no such folder or JSONL file"),
        (("DATA", "-o", "x.safetensors", "--model", "no.gguf"), "--model no.gguf: no such file"),
        (("DATA", "-o", "x.safetensors", "--device", "cuda:77"), "--device cuda:77: this torch"),
        (
            ("DATA", "-o", "x.safetensors", "--optimizer", "adamw8bit"),
            "--optimizer adamw8bit needs bitsandbytes",
        ),
        (("DATA", "-o", "x.safetensors", "--ranks", "0-9=x"), "expected PATTERN=RANK, such as"),
        (("DATA", "-o", "x.safetensors", "--dtype", "int8"), "'int8' (choose from"),
        (
            ("DATA", "-o", "x.safetensors", "--control-dir", ".", "--control-dir", "no"),
            "--control-dir no: no such folder",
        ),
        (("DATA", "-o", "x.safetensors", "--lr", "7"), "'7': expected a number from 1e-09 to 1"),
        (("DATA", "-o", "x.safetensors", "--settings", "s.json"), "--settings s.json: no such"),
        (("DATA", "-o", "x.safetensors", "--targets", "*no*"), "no layer is named '*no*'"),
        (("DATA", "-o", "x.safetensors", "--ranks", "7-9=4"), "no layer is named '7-9'"),
        (("DATA", "-o", "x.safetensors", "--ranks", "0-5=0"), "All layers have rank 0"),
        (("DATA", "-o", "x.safetensors", "--rank", "999"), "rank 999 is larger than a layer of"),
        (("DATA", "-o", "x.safetensors", "--report", "--plan"), "--plan: not allowed with"),
    ],
)
def test_a_wrong_call_is_a_sentence(arguments, words, pictures, tmp_path, monkeypatch, capsys):
    if "adamw8bit" in arguments:
        monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.chdir(tmp_path)
    given = [str(pictures) if word == "DATA" else word for word in arguments]
    try:
        status = main(["train-lora", *given])
    except SystemExit as stop:
        status = stop.code
    err = capsys.readouterr().err
    assert status == 2 and words in err, err
    assert not list(tmp_path.iterdir())


def test_an_empty_name_in_a_settings_file_is_a_sentence(tmp_path, capsys):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"data": str(tmp_path), "output": ""}))
    assert main(["train-lora", "--settings", str(path)]) == 2
    assert "--output is empty: expected a path." in capsys.readouterr().err


def test_a_single_file_needs_its_parts(pictures, tmp_path, capsys):
    weights = EMBEDDED_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors"
    output = tmp_path / "x.safetensors"
    assert main(["train-lora", str(pictures), "-o", str(output), "--model", str(weights)]) == 2
    assert "so --text-encoder and --vae must be given too" in capsys.readouterr().err


def test_the_report_is_all_that_is_printed(pictures, tmp_path, capsys):
    output = tmp_path / "x.safetensors"
    assert (
        main(["train-lora", str(pictures), "-o", str(output), "--report", "--resolution", "64"])
        == 0
    )
    text = capsys.readouterr().out
    assert text.startswith("6 pictures to train on: 6 with captions\n"), text
    base = ["train-lora", str(pictures), "-o", str(output), "--report", "--json"]
    assert main([*base, "--resolution", "64"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 6
    assert not list(tmp_path.iterdir())


def test_the_plan_counts_what_the_settings_ask_for(pictures, tmp_path, capsys):
    plans = []
    for more in ((), ("--rank", "8"), ("--batch", "4"), ("--ema", "0.9")):
        base = ["train-lora", str(pictures), "-o", str(tmp_path / "x.safetensors")]
        assert main([*base, "--plan", "--json", "--resolution", "64", "--rank", "4", *more]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    plain, rank, batch, average = plans
    assert rank["adapter"] == 2 * plain["adapter"] and average["adapter"] == 1.25 * plain["adapter"]
    assert batch["activations"] > 2 * plain["activations"] and batch["adapter"] == plain["adapter"]
    assert plain["peak"] == plain["program"] + plain["weights"] + plain["working"]
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_a_sentence_before_anything_runs(pictures, tmp_path, capsys):
    base = ["train-lora", str(pictures), "-o", str(tmp_path / "x.safetensors"), "--memory", "110MB"]
    for more in ((), ("--plan",)):
        assert main([*base, *more]) == 1
        assert "This training needs at least" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_samples_change_nothing(pictures, tmp_path):
    files = []
    for name, more in (("a", {}), ("b", {"sample_prompts": ["a red circle", "a blue star"]})):
        output = tmp_path / name / "x.safetensors"
        call(pictures, output)
        more |= {"sample_every": 2, "rank": 2, "resolution": 64, "targets": "attention"}
        files.append(inkstone.train_lora(pictures, output, steps=3, **more).read_bytes())
    assert files[0] == files[1]
    names = {path.name for path in (tmp_path / "b" / "x-checkpoints" / "samples").iterdir()}
    assert names == {"sheet.png"} | {
        f"step-{step:06}-{number}.png" for step in (0, 2, 3) for number in (1, 2)
    }
    assert not (tmp_path / "a" / "x-checkpoints" / "samples").exists()


def test_samples_that_an_interrupt_cut_are_drawn_by_the_same_command(pictures, tmp_path, caplog):
    output = tmp_path / "x.safetensors"
    more = {"sample_prompts": ["a red circle"], "sample_every": 2, "rank": 2, "resolution": 64}
    draw, drawn = Samples.draw, []

    def cut(self, step, *rest):
        drawn.append(step)
        if drawn == [0, 2, 3]:
            raise Stopped
        return draw(self, step, *rest)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(Samples, "draw", cut)
        data = inkstone.train_lora(pictures, output, steps=3, **more).read_bytes()
        assert "samples of step 3 were drawn: the same command draws them" in caplog.text
        for _ in range(2):
            assert inkstone.train_lora(pictures, output, steps=3, **more).read_bytes() == data
    assert drawn == [0, 2, 3, 3], "once more, not twice"
    assert (output.with_name("x-checkpoints") / "samples" / "step-000003-1.png").is_file()


def test_settings_that_pictures_or_model_leave_without_effect_are_said(pictures, tmp_path, caplog):
    more = {"reference_resolution": 64, "ranks": {"0-99": 2, "1": 3}, "targets": ["attention"]}
    inkstone.train_lora(pictures, tmp_path / "x.safetensors", steps=1, resolution=64, **more)
    assert "--reference-resolution 64 has no effect: no picture has references" in caplog.text
    assert "--ranks 0-99=2: the model has only the blocks 0 to 5" in caplog.text
    assert caplog.text.count("--ranks") == 1


def test_pictures_of_another_run_are_none_of_its_samples(pictures, tmp_path):
    """A run that left no checkpoint, and one that goes on with other prompts."""
    output, folder = tmp_path / "x.safetensors", tmp_path / "x-checkpoints" / "samples"
    usual = {"steps": 3, "rank": 2, "resolution": 64, "sample_every": 1, "lr": 0.01}
    inkstone.train_lora(pictures, output, sample_prompts=["a red circle"], **usual)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in (output, *output.with_name("x-checkpoints").glob("*.safetensors")):
        path.unlink()
    inkstone.train_lora(
        pictures, output, sample_prompts=["a red circle"], **usual | {"lr": 1e-5, "steps": 2}
    )
    second = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert second["step-000003-1.png"] == first["step-000003-1.png"], "left by the first"
    assert all(second[f"step-00000{k}-1.png"] != first[f"step-00000{k}-1.png"] for k in (1, 2))
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.height < 900, "three rows, not the fourth"
    inkstone.train_lora(
        pictures, output, sample_prompts=["a blue star"], **usual | {"lr": 1e-5, "steps": 2}
    )
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.height < 400, "one row: the others are of another prompt"


def test_other_weights_at_the_same_place_are_another_run(pictures, tmp_path):
    model, output = tmp_path / "model", tmp_path / "x.safetensors"
    shutil.copytree(EMBEDDED_FOLDER, model)
    usual = {"model": model, "rank": 2, "resolution": 64, "steps": 2}
    inkstone.train_lora(pictures, output, **usual)
    moved = shutil.move(model, tmp_path / "moved")
    assert inkstone.train_lora(pictures, output, **usual | {"model": moved}) == output
    (weights,) = (Path(moved) / "transformer").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CallError, match="other weights: the content of --model is not what it was"):
        inkstone.train_lora(pictures, output, **usual | {"model": moved})


def test_the_usual_number_of_steps_counts_batches(tmp_path):
    """Of pictures of many shapes a batch is seldom full."""
    for n, size in enumerate([(64, 64), (64, 64), (64, 64), (64, 80), (64, 96), (64, 128)]):
        Image.new("RGB", size, (n, n, n)).save(tmp_path / f"{n}.png")
    settings = TrainSettings(
        data=tmp_path, output=tmp_path / "x.safetensors", batch=4, resolution=64
    )
    run = prepared(settings)
    assert len({work.grids for work in run.arranged.works}) >= 3
    batches = sum(-(-n // 4) for n in Counter(work.grids for work in run.arranged.works).values())
    assert run.steps == max(500, 100 * batches)


def test_a_lokr_without_factors_says_that_alpha_does_nothing(pictures, tmp_path, caplog):
    more = {"kind": "lokr", "rank": 16, "alpha": 1.0, "steps": 1, "resolution": 64}
    inkstone.train_lora(pictures, tmp_path / "x.safetensors", **more)
    assert "--alpha 1 has no effect in" in caplog.text


def test_it_trains_within_inference_mode(pictures, tmp_path):
    with torch.inference_mode():
        path = inkstone.train_lora(pictures, tmp_path / "x.safetensors", steps=1, resolution=64)
    assert path.is_file()


def test_a_damaged_state_is_no_download(pictures, tmp_path):
    output = tmp_path / "x.safetensors"
    inkstone.train_lora(pictures, output, steps=1, resolution=64, rank=2)
    state = output.with_name("x-checkpoints") / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InkstoneError, match="damaged.*to start over") as caught:
        inkstone.train_lora(pictures, output, steps=1, resolution=64, rank=2)
    assert "download" not in str(caught.value)


def test_the_python_call(pictures, tmp_path):
    reports = []
    output = tmp_path / "x.safetensors"
    path = inkstone.train_lora(
        pictures,
        output,
        steps=3,
        rank=2,
        resolution=64,
        targets="attention",
        ranks={"0": 4},
        on_step=reports.append,
    )
    assert path == output and output.stat().st_size > 1000
    assert [report.line.step for report in reports] == [1, 2, 3] and reports[0].steps == 3
    with pytest.raises(CallError, match="'learning_rates' is no setting"):
        inkstone.train_lora(pictures, output, learning_rates=1)
    with pytest.raises(CallError, match="data is of type int: expected a path"):
        inkstone.train_lora(3, output)


def test_a_distilled_model_warns(monkeypatch, caplog):
    from types import SimpleNamespace

    from inkstone.sampling.lightning import Distilled
    from inkstone.sampling.schedule import TURBO_21
    from inkstone.training.lora import models

    few = Distilled(8, "its variant", TURBO_21, "this model")
    turbo = SimpleNamespace(trained_for=few, path=Path("turbo.gguf"))
    monkeypatch.setattr(models, "load_diffusion_model", lambda *_: turbo)
    files = models.ModelFiles(Path("m"), Path("t"), Path("v"), None)
    assert files.diffusion_model() is turbo
    assert "turbo.gguf is a distilled 2.1 Turbo one (8 steps), its variant: a LoRA" in caplog.text
