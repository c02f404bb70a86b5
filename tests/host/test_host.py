"""The headless host: node interface, folders, model lists, progress, stop."""

from __future__ import annotations

import os
import sys
import threading
import types

import pytest

from inkstone.errors import InkstoneError
from inkstone.host import api, directories, memory, model_folders, progress
from inkstone.host import headless as headless_module
from inkstone.host.api import io
from inkstone.host.headless import HeadlessHost


def test_schema_filters_fields_that_the_host_does_not_know():
    made = api.schema(node_id="X", category="a/b", search_aliases=["y"], is_dev_only=True)
    assert (made.node_id, made.category) == ("X", "a/b")
    assert not hasattr(made, "search_aliases")


def test_stub_refuses_what_the_oldest_host_refuses():
    with pytest.raises(TypeError):
        io.Int.Input("x", advanced=True)
    with pytest.raises(TypeError):
        io.Image.Input("x", default=1)
    with pytest.raises(ValueError, match="more than once"):
        io.Schema(node_id="X", inputs=[io.Int.Input("a")], outputs=[io.Int.Output("a")]).validate()


def test_types_and_custom_types():
    assert io.Image.Input("x").get_io_type() == "IMAGE"
    assert io.Vae.Output().io_type == "VAE"
    assert io.Custom("INKSTONE_MMDIT").Input("x").get_io_type() == "INKSTONE_MMDIT"
    assert io.MultiType.Input("x", [io.Int, io.Float]).get_io_type() == "INT,FLOAT"


@pytest.fixture
def models(tmp_path):
    files = [
        "diffusion_models/a.safetensors",
        "diffusion_models/sub/b.safetensors",
        "diffusion_models/notes.txt",
        "unet/old.safetensors",
        "vae/v.safetensors",
        "diffusers/Qwen/model_index.json",
        "diffusers/Qwen/transformer/x.safetensors",
        "diffusers/OnlyVae/model_index.json",
        "diffusers/OnlyVae/vae/x.safetensors",
        "diffusion_models/shards/x-00001-of-00002.safetensors",
        "diffusion_models/shards/x.safetensors.index.json",
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with headless_module.using(HeadlessHost(models=(tmp_path,))):
        yield tmp_path


def test_model_files_and_folders(models):
    assert model_folders.model_files("diffusion_models") == [
        "a.safetensors",
        "old.safetensors",
        "Qwen",
        "shards",
        "sub/b.safetensors",
    ]
    assert model_folders.model_files("vae") == ["OnlyVae", "v.safetensors"]
    assert model_folders.model_files("diffusers") == ["OnlyVae", "Qwen"]
    assert model_folders.model_path("diffusion_models", "sub/b.safetensors").is_file()
    assert model_folders.model_path("diffusion_models", "sub\\b.safetensors").is_file()
    assert model_folders.model_path("diffusion_models", "Qwen") == models / "diffusers" / "Qwen"


def test_model_list_sees_a_new_file(models):
    model_folders.model_files("vae")
    (models / "vae" / "new.safetensors").write_bytes(b"")
    os.utime(models / "vae", ns=(1, 1))
    assert "new.safetensors" in model_folders.model_files("vae")


def test_model_path_names_folders_and_nearest(models):
    with pytest.raises(InkstoneError) as caught:
        model_folders.model_path("diffusion_models", "aa.safetensors")
    assert str(models / "diffusion_models") in str(caught.value)
    assert "a.safetensors" in str(caught.value)
    with pytest.raises(InkstoneError, match="Unknown model kind"):
        model_folders.model_files("loraz")
    with pytest.raises(InkstoneError):
        model_folders.model_path("vae", "../secret.safetensors")


def test_known_model_is_an_answer_for_validate_inputs(models):
    assert model_folders.known_model("vae", "v.safetensors") is True
    outside = models / "elsewhere.safetensors"
    outside.write_bytes(b"")
    assert "leads out" in model_folders.known_model("vae", str(outside))
    own = HeadlessHost(models=(models,), own_paths=frozenset({str(outside)}))
    with headless_module.using(own):
        assert model_folders.known_model("vae", str(outside)) is True
    assert str(models / "vae") in model_folders.known_model("vae", "w.safetensors")


def test_progress_reports_and_stops():
    seen, stop = [], threading.Event()
    headless = HeadlessHost(on_progress=lambda *args: seen.append(args), interrupt=stop)
    with headless_module.using(headless):
        bar = progress.Progress(4)
        bar.update(1)
        stop.set()
        with pytest.raises(headless_module.Interrupted):
            bar.update(2, "preview")
    assert seen == [(1, 4, None), (2, 4, "preview")]


def test_services_without_comfyui(tmp_path):
    import torch

    with headless_module.using(
        HeadlessHost(output=tmp_path / "o", input=tmp_path / "i", device="cpu")
    ):
        assert directories.output_directory() == tmp_path / "o"
        assert directories.input_directory() == tmp_path / "i"
        assert memory.torch_device() == torch.device("cpu")
        assert memory.free_memory(1, torch.device("cpu")) > 1 << 20
    assert api.versions().startswith("headless")
    assert "torch" in api.versions()


def test_comfyui_services_are_used_when_it_hosts(monkeypatch, tmp_path):
    """With fake host modules: every service goes to them, unless a headless host is set."""
    calls = []

    class Bar:
        def __init__(self, total):
            calls.append(("bar", total))

        def update_absolute(self, *args):
            calls.append(args)

    management = types.SimpleNamespace(
        throw_exception_if_processing_interrupted=lambda: calls.append("check"),
        get_torch_device=lambda: "device",
        free_memory=lambda need, device: calls.append(("free", need)),
        get_free_memory=lambda device: 5,
    )
    folders = types.SimpleNamespace(
        folder_names_and_paths={"vae": 0},
        models_dir=str(tmp_path),
        get_folder_paths=lambda kind: [str(tmp_path / kind)],
        get_output_directory=lambda: str(tmp_path / "out"),
    )
    comfy = types.ModuleType("comfy")
    comfy.model_management = management
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.utils", types.SimpleNamespace(ProgressBar=Bar))
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    monkeypatch.setattr(headless_module, "IN_COMFYUI", True)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "v.safetensors").write_bytes(b"")
    progress.Progress(3).update(1, "pil")
    assert calls == [("bar", 3), (1, 3, ("JPEG", "pil", 512)), "check"]
    assert model_folders.model_files("vae") == ["v.safetensors"]
    assert model_folders.model_folders("diffusers") == [tmp_path / "diffusers"]
    assert directories.output_directory() == tmp_path / "out"
    assert memory.torch_device() == "device"
    assert memory.free_memory(9, "device") == 5
    with headless_module.using(HeadlessHost(output=tmp_path)):
        assert directories.output_directory() == tmp_path
