"""Model names: ComfyUI opens what its list offers, a handed-over graph what the folders hold."""

from __future__ import annotations

import sys
import types

import pytest

from inkstone.errors import CallError, InkstoneError
from inkstone.headless.core_nodes.load_save import picture_path
from inkstone.host import headless, model_folders
from inkstone.host.headless import HeadlessHost
from inkstone.host.page_text import for_page
from inkstone.nodes.quantize import output_file

HOSTILE = ("/etc/passwd", "../secret.gguf", "C:/x", "note.txt", ".", "sub", "/dev/zero", 5, None)


@pytest.fixture
def folders(tmp_path):
    for name in ("vae/v.gguf", "vae/sub/w.gguf", "vae/note.txt", "secret.gguf", "unet/u.gguf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "vae" / "link.gguf").symlink_to(tmp_path / "secret.gguf")
    (tmp_path / "diffusion_models").mkdir()
    return tmp_path


@pytest.fixture
def comfyui(folders, monkeypatch):
    kinds = {"vae": ["vae"], "diffusion_models": ["unet", "diffusion_models"]}
    module = types.SimpleNamespace(
        folder_names_and_paths=kinds,
        models_dir=str(folders),
        get_folder_paths=lambda kind: [str(folders / name) for name in kinds[kind]],
    )
    monkeypatch.setitem(sys.modules, "folder_paths", module)
    monkeypatch.setattr(headless, "IN_COMFYUI", True)
    return folders


@pytest.mark.parametrize("name", HOSTILE)
def test_comfyui_opens_what_its_list_offers(comfyui, name):
    answer = model_folders.known_model("vae", name)
    assert answer == f"Value not in list: {name!r} not in {model_folders.model_files('vae')}"
    assert str(comfyui) not in answer  # a remote client learns nothing of the disk
    with pytest.raises(InkstoneError, match="Value not in list"):  # a linked name is not validated
        model_folders.model_path("vae", name)


def test_comfyui_opens_what_it_offers(comfyui):
    names = model_folders.model_files("vae")
    assert names == ["link.gguf", "sub/w.gguf", "v.gguf"]  # links are the owner's own
    for name in (*names, "sub\\w.gguf"):
        assert model_folders.model_path("vae", name).is_file()


def test_new_models_have_new_names_in_the_folder_that_is_said(comfyui):
    assert output_file("new", "Q8_0") == comfyui / "diffusion_models" / "new.gguf"
    (comfyui / "diffusion_models" / "here.gguf").write_bytes(b"")
    (comfyui / "diffusion_models" / "gone.gguf").symlink_to(comfyui / "nowhere")
    for name in ("u", "U.gguf", "here", "gone"):
        with pytest.raises(InkstoneError, match="exists already"):
            output_file(name, "Q8_0")
    for name in ("../x", "/tmp/x", "a/b", "..", ".x", "x\0y", "a\nb", "CON", "x" * 250, "C:x"):
        with pytest.raises(InkstoneError, match="is not a file name"):
            output_file(name, "Q8_0")


@pytest.mark.parametrize("name", [n for n in HOSTILE if n not in ("note.txt", "sub")])
def test_a_graph_without_comfyui_stays_in_the_models_folder(folders, name):
    with headless.using(HeadlessHost(models=(folders,))):
        assert isinstance(model_folders.known_model("vae", name), str)


def test_paths_that_the_user_gave(folders):
    own = str(folders / "secret.gguf")
    with headless.using(HeadlessHost(models=(folders,), own_paths=frozenset({own}))):
        assert str(model_folders.model_path("vae", own)) == own
        with pytest.raises(InkstoneError, match="leads out"):
            model_folders.model_path("vae", str(folders / "vae" / "v.gguf"))


def test_pictures_of_a_graph_stay_in_their_folder(folders):
    (folders / "input").mkdir()
    (folders / "input" / "a.png").write_bytes(b"x")
    (folders / "input" / "link.png").symlink_to(folders / "secret.gguf")
    with headless.using(HeadlessHost(input=folders / "input", output=folders / "output")):
        assert picture_path("a.png").is_file()
        outside = str(folders / "secret.gguf")
        for name in (outside, "../secret.gguf", "link.png", "C:/x", "..\\x [output]", "nul", 5, {}):
            with pytest.raises(InkstoneError, match="leads out|device|expected a text"):
                picture_path(name)
    with headless.using(HeadlessHost(input=folders / "input", any_path=True)):
        assert picture_path(outside).is_file()


def test_links_in_a_circle_do_not_multiply_the_names(folders):
    for number in range(30):
        (folders / "vae" / "sub" / f"up{number}").symlink_to(folders / "vae")
    (folders / "vae" / "a").symlink_to("b")
    (folders / "vae" / "b").symlink_to("a")
    with headless.using(HeadlessHost(models=(folders,))):
        assert model_folders.model_files("vae") == ["link.gguf", "sub/w.gguf", "v.gguf"]
        assert "No vae model" in model_folders.known_model("vae", "a")


def test_a_page_shows_names_without_folders(comfyui, monkeypatch):
    module = sys.modules["folder_paths"]
    for kind in ("input", "output", "temp"):
        folder = str(comfyui / kind)
        monkeypatch.setattr(module, f"get_{kind}_directory", lambda f=folder: f, raising=False)
    where = comfyui / "vae" / "sub" / "w.gguf"

    @for_page
    def fail(error: type[Exception]) -> None:
        raise error(f"{where}: damaged; searched {comfyui / 'vae'}")

    for error in (InkstoneError, CallError, OSError):
        with pytest.raises(InkstoneError) as caught:
            fail(error)
        assert str(caught.value) == "sub/w.gguf: damaged; searched vae"
        assert type(caught.value) is InkstoneError  # other classes show the path of their module

    class Stop(Exception):
        pass

    @for_page
    def stopped() -> None:
        raise Stop("the user stopped the run")

    with pytest.raises(Stop):
        stopped()
    with headless.using(HeadlessHost(models=(comfyui,))):
        with pytest.raises(CallError, match=str(where)):
            fail(CallError)  # on the command line the path is the owner's
