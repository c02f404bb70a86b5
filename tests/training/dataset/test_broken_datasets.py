"""Broken datasets: each is a sentence, or a line of the report, and never a traceback."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from inkstone.errors import CallError, InkstoneError
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model, load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.training.dataset.arrange import CacheSettings, arrange
from inkstone.training.dataset.findings import KINDS, Finding, lines
from inkstone.training.dataset.read import read
from inkstone.training.dataset.report import Report, report

OPTIONS = LoadOptions(torch.float32, wait=True)
CASES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {}


@pytest.fixture(scope="module")
def models():
    return load_diffusion_model(EMBEDDED_FOLDER, OPTIONS), load_text_encoder(
        EMBEDDED_FOLDER, OPTIONS
    )


def case(*words: str):
    """A dataset in the folder that a function gets, and words that have to be said of it. What the
    function returns are further arguments of `read`, or the path to give."""

    def add(build):
        CASES[build.__name__.replace("_", " ")] = build, words
        return build

    return add


def pair(folder: Path, name: str = "a", size: tuple[int, int] = (64, 64), **options) -> Path:
    """A picture and its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    Image.new("RGB", size, options.get("colour", (len(name) * 9, 90, 20))).save(path)
    path.with_suffix(".txt").write_text(options.get("caption", "a red circle"))
    return path


def jsonl(folder: Path, *objects: object, head: bytes = b"") -> Path:
    """A JSONL of objects, or of lines as they are."""
    rows = [one if isinstance(one, str) else json.dumps(one) for one in objects]
    (folder / "list.jsonl").write_bytes(head + "\n".join(rows).encode("utf-8", "surrogatepass"))
    return folder / "list.jsonl"


GOOD = {"image": "a.png", "caption": "a circle"}


# --- folders and files


@case("no picture to train on", "There is none")
def an_empty_folder(d):
    pass


@case("no picture to train on", "1 caption has no picture: a.txt")
def only_captions(d):
    (d / "a.txt").write_text("x")


@case("DATA", "no such folder or JSONL file")
def nothing_at_all(d):
    return d / "missing"


@case("1 picture is left out, it cannot be read: bad.png (broken data")
def a_corrupt_png(d):
    pair(d)
    data = bytearray(pair(d, "bad").read_bytes())
    data[45:60] = b"x" * 15
    (d / "bad.png").write_bytes(data)


@case("1 picture", "bad.jpg", "truncated")
def a_jpeg_that_is_cut_off(d):
    pair(d)
    Image.effect_noise((400, 400), 90).save(d / "bad.jpg")
    data = (d / "bad.jpg").read_bytes()
    (d / "bad.jpg").write_bytes(data[: len(data) // 2])
    (d / "bad.txt").write_text("x")


@case("1 picture", "bad.png (it is none of PNG")
def a_file_of_no_bytes(d):
    pair(d)
    (d / "bad.png").write_bytes(b"")


@case("no picture to train on", "2 pictures cannot be read, left out: a.png", "b.gif")
def nothing_but_damage(d):
    (d / "a.png").write_bytes(b"junk")
    (d / "b.gif").write_bytes(b"GIF89a")


@case("too small: tiny.png (1x1, expected sides of at least 32 pixels)", "1 picture to train on")
def a_picture_of_one_pixel(d):
    pair(d)
    pair(d, "tiny", (1, 1))


@case("too small: strip.png (20000x1")
def a_picture_of_one_row(d):
    pair(d)
    pair(d, "strip", (20000, 1))


@case("too long and narrow: strip.png (4000x64", "would be cropped")
def a_picture_that_is_too_narrow(d):
    pair(d)
    pair(d, "strip", (4000, 64))


@case("bomb.png (is 1", "holds 12000x12000 pixels, which take", "1 picture to train on")
def a_decompression_bomb(d):
    data = bytearray(pair(d, "bomb").read_bytes())
    data[16:24] = struct.pack(">II", 12000, 12000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (d / "bomb.png").write_bytes(data)
    pair(d)


@case(
    "2 folders have numbers of repeats in their names: pictures are shown in these proportions: "
    "10_style, 2_more/3_x",
    "5 pictures to train on: 5 with captions, 16 in an epoch with repeats",
    "1 folder begins with a number that is none of repeats, 1 to 100: its pictures count once: "
    "2024_x",
)
def folders_with_repeats(d):
    pair(d)
    for name in ("10_style", "2_more/3_x", "other_5", "2024_x"):
        pair(d / name, name[:1])


@case(
    "1 folder has a number of repeats in its name, which all pictures share: each is shown once in "
    "an epoch: 10_style",
    "1 picture to train on: 1 with captions\n",
)
def repeats_of_all_pictures_alike(d):
    pair(d / "10_style")


@case("1 folder has a number of repeats in its name, which all", "in an epoch: 10_cat")
def a_folder_of_repeats_itself(d):
    pair(d.parent / "10_cat")
    return d.parent / "10_cat"


@case(
    "2 folders have numbers of repeats in their names: pictures are shown in these proportions: "
    "5_dog, 5_dog/2_small",
    "4 pictures to train on: 4 with captions, 13 in an epoch with repeats",
)
def folders_inside_a_folder_of_repeats(d):
    for folder, name in ((d, "a"), (d / "5_dog", "b"), (d / "5_dog/sub", "c")):
        pair(folder, name, colour=(ord(name), 0, 0))
    pair(d / "5_dog/2_small/deep", "d")


@case("in their names: pictures are shown in these proportions: 1_, 3_", "4 in an epoch")
def repeats_without_a_word(d):
    for name in ("1_", "3_"):
        pair(d / name, name)


@case("1 file is neither picture nor caption: a.caption (rename it to .txt to use it)")
def a_caption_with_another_ending(d):
    pair(d).with_suffix(".txt").rename(d / "a.caption")


@case("1 picture to train on: 1 with captions", "nothing is cropped")
def cmyk(d):
    pair(d)
    Image.new("CMYK", (64, 64), (9, 9, 9, 9)).save(d / "a.jpg")
    (d / "a.png").unlink()


@case("1 picture to train on: 1 with captions", "nothing is cropped")
def sixteen_bits(d):
    pair(d)
    Image.new("I;16", (64, 64), 40000).save(d / "a.png")


@case("1 picture is an animation, its first frame is used: b.gif", "2 pictures to train on")
def an_animation(d):
    pair(d)
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(d / "b.gif", save_all=True, append_images=frames[1:])
    (d / "b.txt").write_text("x")


@case("loop.png (Too many levels of symbolic links)")
def a_circle_of_links(d):
    pair(d)
    (d / "loop.png").symlink_to(d / "loop.png")


@case("1 folder is a link and is not followed: again", "1 picture to train on")
def a_link_to_the_folder_itself(d):
    pair(d)
    (d / "again").symlink_to(d, target_is_directory=True)


@case("1 file is left out: a link that leads out of its folder", "b.png", "1 picture to train on")
def a_link_that_leads_out(d):
    pair(d)
    outside = pair(d.parent / "outside", "b")
    (d / "b.png").symlink_to(outside)


@case("2 pictures to train on: 2 with captions")
def a_link_that_stays(d):
    pair(d)
    (d / "b.png").symlink_to(d / "a.png")
    (d / "b.txt").symlink_to(d / "a.txt")


@case("1 picture", "x.png", "it is a FIFO")
def a_pipe(d):
    pair(d)
    os.mkfifo(d / "x.png")


@case("1 picture is left out, its caption cannot be used: x.png", "a FIFO")
def a_caption_that_is_a_pipe(d):
    pair(d)
    pair(d, "x")
    (d / "x.txt").unlink()
    os.mkfifo(d / "x.txt")


@case("b.png (No such file or directory)", "folder.png/inside.png (it is none of PNG")
def a_folder_with_the_name_of_a_picture(d):
    pair(d)
    (d / "folder.png").mkdir()
    (d / "folder.png" / "inside.png").write_bytes(b"x")
    (d / "b.png").symlink_to(d / "gone.png")


@case(
    "2 pictures to train on: 2 with captions",
    "1 name belongs to more than one picture, which share",
)
def two_pictures_of_one_name(d):
    pair(d)
    Image.new("RGB", (64, 64), "blue").save(d / "a.jpg")


@case("1 picture is there more than once, with the same bytes", "b.png (as a.png)")
def the_same_picture_twice(d):
    pair(d, colour="red")
    pair(d, "b", colour="red")


@case("2 files are neither picture nor caption: film.mp4, list.jsonl (to use it")
def other_files(d):
    pair(d)
    (d / "film.mp4").write_bytes(b"x")
    jsonl(d, GOOD)
    (d / ".DS_Store").write_bytes(b"x")


@case("2 pictures to train on: 2 with captions")
def folders_in_folders(d):
    pair(d)
    pair(d / "sub" / "more", "b")
    pair(d / ".hidden", "c")


@case("3 pictures to train on", "evil\\nname.png", "\U0001f600.png", "\\udcff")
def names_that_hold_anything(d):
    for name in ("evil\nname", "\U0001f600", os.fsdecode(b"\xff")):
        Image.new("RGB", (64, 64), (len(name), 1, 1)).save(d / f"{name}.png")


@case("1 picture is left out, it cannot be read: other.png (Permission denied)")
def a_picture_without_permission(d):
    pair(d)
    pair(d, "other")
    return {"deny": d / "other.png"}


@case("1 folder cannot be read: sub (permission denied)")
def a_folder_without_permission(d):
    pair(d)
    pair(d / "sub", "b")
    return {"deny": d / "sub"}


# --- captions


@case("1 picture has no caption: b.png", "1 caption is empty: c.png", "3 pictures")
def captions_that_lack_or_are_empty(d):
    pair(d)
    pair(d, "b", colour="red").with_suffix(".txt").unlink()
    pair(d, "c", caption=" \n", colour="blue")


@case("1 picture to train on: 1 with captions")
def a_caption_in_utf_16(d):
    pair(d).with_suffix(".txt").write_bytes("a circle".encode("utf-16"))


@case("a.txt: it has a NUL", "no picture to train on")
def a_caption_in_utf_16_without_its_mark(d):
    pair(d).with_suffix(".txt").write_bytes("a circle".encode("utf-16-le"))


@case("b.png (b.txt: it is not UTF-8: save it again as UTF-8)")
def a_caption_in_latin_1(d):
    pair(d)
    pair(d, "b").with_suffix(".txt").write_bytes("über".encode("latin-1"))


@case("b.png (b.txt: it is larger than 64 KiB)")
def a_caption_of_a_megabyte(d):
    pair(d)
    pair(d, "b", caption="word " * 200_000)


@case("1 caption is longer than the text encoder takes", "b.png (", "tokens of 96)")
def a_caption_that_is_cut(d):
    pair(d)
    pair(d, "b", caption="a red circle " * 100)


@case("1 caption has marks of other programs", "a.png (<lora:x:1>)")
def a_caption_with_tags(d):
    pair(d, caption="a circle <lora:x:1>")


@case(
    "2 captions have ai-toolkit's [trigger], which nothing replaces, --trigger neither: write the "
    "word itself: a.png, b.png",
    "1 caption has marks of other programs, which are read as plain words: b.png (<lora:x:1>)",
)
def captions_with_the_place_of_a_trigger(d):
    pair(d, caption="a photo of [trigger]")
    pair(d, "b", (64, 48), caption="[trigger], [trigger] <lora:x:1>")


@case("1 picture is left out, its caption cannot be used: a.png (<|image_pad|> marks")
def a_caption_with_a_place_for_pictures(d):
    pair(d, caption="<|image_pad|>")
    pair(d, "b")
    pair(d.parent / "before")
    pair(d.parent / "before", "b")
    return {"control_dir": d.parent / "before"}


# --- references and masks


@case("1 picture is left out, it has no reference of its name: b.png", "1 reference has no picture")
def references_that_lack_or_are_lone(d):
    pair(d)
    pair(d, "b")
    pair(d.parent / "before")
    pair(d.parent / "before", "elsewhere")
    return {"control_dir": d.parent / "before"}


@case("no picture to train on", "have no reference of their name")
def no_reference_fits(d):
    pair(d)
    pair(d, "b")
    pair(d.parent / "before", "x")
    return {"control_dir": d.parent / "before"}


@case("1 picture is left out for its references: b.png", "take 1 picture, got 2")
def more_references_than_the_model_takes(d):
    pair(d)
    pair(d, "b")
    for name in ("a", "b", "b_1"):
        pair(d.parent / "before", name)
    return {"control_dir": d.parent / "before"}


@case("more than one reference of one name or number: b (b.jpg, b.png)")
def two_references_of_one_name(d):
    pair(d)
    pair(d, "b")
    pair(d.parent / "before")
    path = pair(d.parent / "before", "b")
    Image.open(path).save(path.with_suffix(".jpg"))
    return {"control_dir": d.parent / "before"}


@case("b.png (Picture 1: it is none of PNG")
def a_damaged_reference(d):
    pair(d)
    pair(d, "b")
    pair(d.parent / "before")
    (d.parent / "before" / "b.png").write_bytes(b"junk")
    return {"control_dir": d.parent / "before"}


@case("no reference of its name: b.png (of Picture 1)")
def a_second_reference_without_the_first(d):
    pair(d)
    pair(d, "b")
    pair(d.parent / "one")
    pair(d.parent / "two", "b")
    return {"control_dir": (d.parent / "one", d.parent / "two")}


@case("--control-dir", "is the folder of the pictures")
def references_in_the_folder_of_the_pictures(d):
    pair(d)
    return {"control_dir": d}


@case("1 picture to train on: 1 with captions, 1 with references")
def references_in_a_folder_inside(d):
    pair(d)
    pair(d / "before")
    return {"control_dir": d / "before"}


@case("no such folder", "--mask-dir")
def no_folder_of_masks(d):
    pair(d)
    return {"mask_dir": d.parent / "missing"}


@case(
    "2 pictures are left out for their masks: b.png (64x32, the picture 64x64: another aspect",
    "c.png (it is black: nothing of the picture would be learned)",
    "1 picture has no mask of its name: all of it is learned: d.png",
    "1 mask has no picture: x.png",
    "more than one mask, the first is used: a (a.jpg, a.png)",
    "1 with masks",
)
def masks_of_all_kinds(d):
    for n, name in enumerate("abcd"):
        pair(d, name, colour=(n, 9, 9))
    masks = d.parent / "masks"
    masks.mkdir()
    for name, size, value in (
        ("a.png", (128, 128), 200),
        ("a.jpg", (64, 64), 200),
        ("b.png", (64, 32), 255),
        ("c.png", (64, 64), 3),
        ("x.png", (64, 64), 255),
    ):
        Image.new("L", size, value).save(masks / name)
    return {"mask_dir": masks}


def masked(d: Path, image: Image.Image, name: str = "a") -> dict[str, Path]:
    """A picture of 64x64 and its mask."""
    pair(d, name, colour=(len(list(d.glob("*.png"))) * 9, 90, 20))
    masks = d.parent / "masks"
    masks.mkdir(exist_ok=True)
    image.save(masks / f"{name}.png")
    return {"mask_dir": masks}


def halves(mode: str, colour: int) -> Image.Image:
    """One colour, opaque on the left and transparent on the right."""
    bands = (colour,) * (len(mode) - 1)
    image = Image.new(mode, (64, 64), (*bands, 255))
    image.paste((*bands, 0), (32, 0, 64, 64))
    return image


@case(
    "4 masks have transparent parts: what is opaque is learned, whatever its colour: a.png, b.png,"
    " c.png, d.png",
    "4 with masks",
)
def masks_in_the_alpha_channel(d):
    masked(d, halves("RGBA", 255), "a")
    masked(d, halves("RGBA", 0), "b")
    masked(d, halves("LA", 255), "c")
    return masked(d, halves("LA", 0), "d")


@case("a.png (it is transparent everywhere: nothing of the picture would be learned)")
def a_mask_of_nothing(d):
    return masked(d, Image.new("RGBA", (64, 64), (255, 255, 255, 0)))


@case("2 masks are white everywhere: they change nothing: a.png, b.png", "2 with masks")
def masks_that_change_nothing(d):
    masked(d, Image.new("RGBA", (64, 64), "white"))
    return masked(d, Image.new("L", (64, 64), 250), "b")


@case(
    "2 pictures have transparent parts: learned as white, or as they are by a VAE with alpha: "
    "b.png, c.png"
)
def transparent_pictures(d):
    pair(d)
    halves("RGBA", 90).save(pair(d, "b"))
    halves("LA", 70).save(pair(d, "c"))
    Image.new("RGBA", (64, 64), "blue").save(pair(d, "d"))


@case("has transparent parts", ": a.png (Picture 1)")
def a_transparent_reference(d):
    pair(d)
    pair(d.parent / "before")
    halves("RGBA", 90).save(d.parent / "before" / "a.png")
    return {"control_dir": d.parent / "before"}


@case(
    "1 picture is left out, OneTrainer's mask of another: put it into a folder of masks under that "
    "picture's name, and give --mask-dir: a-masklabel.png",
    "3 pictures to train on",
)
def masks_of_onetrainer(d):
    for name in ("a", "a-masklabel", "other-masklabel", "-masklabel"):
        pair(d, name).with_suffix(".txt").unlink()


# --- JSONL


@case(
    "lines of the JSONL are left out",
    "line 2 (not JSON: Expecting",
    "line 3 (list, expected an object)",
    'line 4 (the key "image" is missing)',
    "line 5 (a key appears twice)",
    "1 picture to train on",
)
def lines_that_are_wrong(d):
    pair(d)
    twice = '{"image": "a.png", "image": "a.png"}'
    return jsonl(d, GOOD, "{'image'}", "[]", {"caption": "x"}, twice, "")


@case('line 2 ("image": The name', "leads out of its folder", "line 3", "is a whole path", "line 4")
def paths_that_lead_out(d):
    pair(d)
    outside = pair(d.parent / "outside", "b")
    (d / "link.png").symlink_to(outside)
    others = ("../outside/b.png", str(outside), "link.png")
    return jsonl(d, GOOD, *({**GOOD, "image": other} for other in others))


@case(
    "4 pictures to train on: 4 with captions, 1 with references, 1 with masks",
    "2 lines of the JSONL are left out",
    'line 5 ("image": The name',
    "has a control character",
    "line 6",
    "b.png' is a whole path",
)
def whole_paths_that_stay(d):
    """As musubi-tuner's have it; also through a link to the folder, and in a folder below."""
    for folder, name in ((d, "a"), (d, "b"), (d / "sub", "c")):
        pair(folder, name)
    (d.parent / "link").symlink_to(d)
    mask = {"mask": str(d / "a.png"), "control_path": str(d / "b.png")}
    return jsonl(
        d,
        {"image_path": str(d / "a.png"), "caption": "x", **mask},
        {"image_path": str(d / "b.png"), "caption": "x"},
        {"image_path": str(d / "sub" / "c.png"), "caption": "x"},
        {"image_path": str(d.parent / "link" / "a.png"), "caption": "y"},
        {"image_path": str(d / "\0.png")},
        {"image_path": str(pair(d.parent, "b"))},
    )


@case("2 pictures to train on: 2 with captions, 1 with references\n", "line 3", "is null, and")
def keys_of_null(d):
    pair(d)
    pair(d, "b")
    nothing = {"control_path_0": None, "control_path_1": None, "mask_path": None, "layers": None}
    return jsonl(
        d,
        {**GOOD, **nothing},
        {**GOOD, "image": "b.png", "control_path_0": "a.png", "control_path_1": None},
        {**GOOD, "control_path_0": None, "control_path_1": "b.png"},
    )


@case(
    'line 2 ("image" is int, expected a path)',
    'line 3 ("caption" is list, expected a text)',
    'line 4 ("references" is dict, expected a path)',
    'line 5 ("mask" is list, expected a path)',
)
def values_of_wrong_types(d):
    pair(d)
    wrong = {"image": 1}, {"caption": []}, {"references": {"a": 1}}, {"mask": ["a.png"]}
    return jsonl(d, GOOD, *({**GOOD, **one} for one in wrong))


@case(
    'line 2 ("image": there is no gone.png)',
    'line 3 ("image": The name',
    "names no file",
    'line 4 (more than one key for "image")',
    "line 5 (the caption has half a character)",
)
def more_lines_that_are_wrong(d):
    pair(d)
    others = {"image": "gone.png"}, {"image": ""}, {"file_name": "a.png"}
    half = '{"image": "a.png", "caption": "\\ud800"}'
    return jsonl(d, GOOD, *({**GOOD, **one} for one in others), half)


@case("1 picture to train on: 1 with captions")
def a_mark_at_its_beginning(d):
    pair(d)
    return jsonl(d, GOOD, head=b"\xef\xbb\xbf")


@case("2 pictures to train on", "more than once, with the same bytes", "a.png (as a.png)")
def one_picture_in_two_lines(d):
    pair(d)
    return jsonl(d, GOOD, {**GOOD, "caption": "another"})


@case("2 keys of the JSONL are not read: weight (line 1), source (line 1)")
def keys_that_nobody_reads(d):
    pair(d)
    return jsonl(d, {**GOOD, "weight": 2, "source": "web"})


@case("cannot be read as JSONL: it is not UTF-8", "Give a folder")
def a_file_that_is_no_text(d):
    return pair(d)


@case(
    "list.jsonl has no picture to train on: expected one object a line, such as",
    "line of the JSONL is left out: line 1 (not JSON",
)
def a_list_of_names(d):
    (d / "list.jsonl").write_text("a.png\n")
    return d / "list.jsonl"


@case("no picture to train on", "There is none")
def an_empty_jsonl(d):
    return jsonl(d)


@case("nested too deeply")
def a_jsonl_that_is_deep(d):
    pair(d)
    return jsonl(d, GOOD, "[" * 100_000)


@case("references and masks itself: remove --control-dir")
def a_jsonl_and_a_folder_of_references(d):
    pair(d)
    return {"data": jsonl(d, GOOD), "control_dir": d}


@case("names layers", "draws one picture")
def layers_for_another_model(d):
    pair(d)
    pair(d, "b")
    return jsonl(d, {**GOOD, "layers": ["b.png"]})


@case("left out for its layers: b.png (layer 1 is 32x32, the picture 64x64: expected the same size")
def layers_of_another_size(d):
    pair(d)
    pair(d, "b")
    pair(d, "c", (32, 32))
    return jsonl(d, GOOD, {"image": "b.png", "layers": ["c.png"]})


@case("is left out for its references: a.png (Picture 1: it is none", "1 with references")
def references_of_other_trainers(d):
    for name in "ab":
        pair(d, name)
    (d / "bad.png").write_bytes(b"x")
    lines = {"image_path": "b.png", "control_path_0": "a.png", "text": "x"}
    return jsonl(d, lines, {"image": "a.png", "control_path": "bad.png"})


@case("resolution is 16: expected 32 to")
def a_resolution_of_nothing(d):
    pair(d)
    return {"resolution": 16}


@contextmanager
def denied(path: Path | None) -> Iterator[None]:
    """Within it a path cannot be read, by root either: it gives up the right to override modes, for
    this thread and those that it starts (capset of Linux, version 3).
    """
    if path is None:
        yield
        return
    path.chmod(0)
    head, old = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    root = os.geteuid() == 0
    libc = ctypes.CDLL(None, use_errno=True)
    if root and libc.capget(head, old):
        pytest.skip("root may read everything here")
    new = type(old)(*old)
    new[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    try:
        if root and libc.capset(head, new):
            pytest.skip("root may read everything here")
        yield
    finally:
        if root:
            libc.capset(head, old)
        path.chmod(0o700)


def said_of(models, folder: Path, build) -> str:
    """What a person reads: the report, or the error."""
    given = build(folder) or {}
    given = {"data": given} if isinstance(given, Path) else dict(given)
    resolution = given.pop("resolution", 64)
    try:
        with denied(given.pop("deny", None)):
            dataset = read(given.pop("data", folder), **given)
        found = report(arrange(dataset, models[0], CacheSettings(resolution)), models[1])
    except InkstoneError as error:
        return str(error)
    checked(found)
    return str(found)


def checked(found: Report) -> None:
    """Every line is one line of Unicode, and the facts are JSON."""
    assert all(line.isprintable() for line in found.lines), found.lines
    json.dumps(found.facts).encode()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_broken_dataset_is_said(models, tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    build, words = CASES[name]
    said = said_of(models, folder, build)
    assert all(word in said for word in words), f"{words} expected in:\n{said}"


def test_there_are_enough_of_them():
    assert len(CASES) >= 50


def test_five_thousand_files_are_read_quickly(tmp_path, models):
    one = pair(tmp_path, "a", (64, 64)).read_bytes()
    for n in range(5000):
        (tmp_path / f"{n}.png").write_bytes(one + b"%d" % n)  # behind its end, bytes of its own
    start = time.process_time()  # of all threads, whatever else runs here
    found = report(arrange(read(tmp_path), models[0], CacheSettings(64)), models[1])
    seconds = time.process_time() - start
    lacking, alike = found.lines[3:]
    assert lacking == "5,000 pictures have no caption: 0.png, 1.png, 10.png, 100.png and 4,996 more"
    assert alike.startswith("5,000 pictures look the same as others, in other bytes") and (
        alike.endswith(
            ": 1.png (as 0.png), 10.png (as 0.png), 100.png (as 0.png), 1000.png (as "
            "0.png) and 4,996 more"
        )
    )
    assert found.facts["pictures"] == 5001
    assert seconds < 20, f"{seconds:.1f} s"


def test_every_kind_has_a_line_for_one_and_for_many():
    for kind in KINDS:
        (one,) = lines([Finding(kind, "a.png")])
        (many,) = lines([Finding(kind, f"{n}.png", "why") for n in range(7)])
        assert one.startswith("1 ") and one.endswith(": a.png")
        assert many.startswith("7 ") and many.endswith("3.png (why) and 3 more")


def test_wrong_calls_are_call_errors(tmp_path):
    pair(tmp_path)
    with pytest.raises(CallError):
        read(tmp_path / "missing")
    with pytest.raises(CallError):
        read(tmp_path, tmp_path)


@pytest.mark.parametrize("option", ["DATA", "control_dir", "mask_dir"])
def test_a_whole_disk_is_not_searched(option, tmp_path):
    pair(tmp_path)
    places = {"data": tmp_path, "control_dir": None, "mask_dir": None}
    places[option.lower()] = Path(os.path.abspath(os.sep))
    with pytest.raises(CallError, match="is a whole disk: give the folder that holds only"):
        read(**places)


def test_a_folder_without_a_mask_is_refused(tmp_path):
    pair(tmp_path / "pictures")
    (tmp_path / "masks").mkdir()
    with pytest.raises(CallError, match="--mask-dir .*: no picture has a mask there. .* as a.png"):
        read(tmp_path / "pictures", None, tmp_path / "masks")
