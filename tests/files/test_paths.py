"""Names from others stay in their folder; devices, FIFOs and folders are not opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from inkstone.errors import CallError, InkstoneError
from inkstone.files.atomic import write_text
from inkstone.files.paths import below, check_given, name_fault, open_regular, read_regular
from inkstone.files.png import numbered_path

OUT = (
    *("..", "../x", "a/../x", "a\\..\\..\\x", "/x", "//server/share/x", "\\\\server\\share\\x"),
    *("C:/x", "C:\\x", "C:x", "E:", "a/C:x", "\\\\?\\C:\\x", ".. /x", "a/.. ./x", "..."),
)
ODD = {
    "control": ("x\0y", "a\nb", "\x1b[2J", "x\x7f"),
    "device": ("CON", "nul.png", "sub/com1.safetensors", "LPT9 .txt", "aux", "COM¹", "conin$"),
    "too long": ("x" * 256, "é" * 128, "a/" * 2500 + "x"),
    "names no file": ("", " ", ".", "./"),
    "expected a text": (5, None, {"a": 1}, ["x"]),
}
FINE = (
    "x.png",
    "sub/x.png",
    "sub\\x.png",
    "a..b",
    ".hidden",
    "100% é 图.png",
    "console.png",
    "x" * 255,
)


@pytest.mark.parametrize("name", OUT)
def test_names_that_lead_out(name, tmp_path):
    assert "leads out of its folder" in name_fault(name)
    with pytest.raises(InkstoneError, match="leads out"):
        below(tmp_path, name)
    with pytest.raises(InkstoneError, match="filename_prefix .* leads out"):
        numbered_path(tmp_path, name, 1, 1)


@pytest.mark.parametrize("words, name", [(w, name) for w, names in ODD.items() for name in names])
def test_odd_names(words, name, tmp_path):
    assert words in name_fault(name)
    with pytest.raises(InkstoneError) as caught:
        below(tmp_path, name)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", FINE)
def test_names_that_stay(name, tmp_path):
    assert below(tmp_path, name) == tmp_path.joinpath(*name.replace("\\", "/").split("/"))


def test_a_prefix_leaves_room_for_its_number(tmp_path):
    assert numbered_path(tmp_path, "%date:yyyy%", 1, 1)[1] == "%date:yyyy%"
    with pytest.raises(InkstoneError, match="too long"):
        numbered_path(tmp_path, "x" * 250, 1, 1)


def test_links_that_lead_out(tmp_path):
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    (folder / "out").symlink_to(secret)
    (folder / "in").symlink_to(folder)
    (folder / "file").symlink_to("../secret/x")
    for name in ("out", "out/x", "file", "in/out/x"):
        with pytest.raises(InkstoneError, match="by a link"):
            below(folder, name)
    assert below(folder, "in/x") == folder / "in" / "x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_only_files_are_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("link").symlink_to("fifo")
    Path("a").symlink_to("b")
    Path("b").symlink_to("a")
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("socket")
    unix.close()
    odd = {"fifo": "a FIFO", "link": "a FIFO", "/dev/zero": "a device", "/": "a folder"}
    odd |= {"a": "", "socket": "a socket", "x" * 300: "", "no": "", "x\0y": ""}
    for name, words in odd.items():
        with pytest.raises(OSError) as caught:
            open_regular(Path(name))
        assert words in caught.value.strerror
        with pytest.raises(CallError, match="no such file"):
            check_given(Path(name), kinds=("file",))
    with pytest.raises(CallError, match="--model fifo: no such file or folder: it is a FIFO"):
        check_given(Path("fifo"), "--model")
    check_given(Path("/"))


def test_files_are_read_up_to_a_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="larger than"):
        read_regular(tmp_path / "x", 4)
    (tmp_path / "x").write_bytes(bytes(3 << 20))
    for most, words in ((2 << 10, "larger than 2 KiB"), (2 << 20, "larger than 2 MiB")):
        with pytest.raises(OSError, match=words):
            read_regular(tmp_path / "x", most)


def test_a_new_file_replaces_files_only(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name, kind in (("fifo", "a FIFO"), ("loop", "a circle"), ("folder", "a folder")):
        with pytest.raises(InkstoneError, match=kind):
            write_text(tmp_path / name, "x")
        assert not (tmp_path / name).is_file()
    for name in ("a\0b", "h" * 300):
        with pytest.raises(InkstoneError, match="NUL|too long"):
            write_text(tmp_path / name, "x")
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")  # a link to a file is replaced, not followed
    assert (tmp_path / "real").read_text() == "old" and (tmp_path / "link").read_text() == "new"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["fifo", "folder", "link", "loop", "real"]
