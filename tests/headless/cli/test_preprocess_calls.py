"""Control maps by node and by command: the same map, the picture's size, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from inkstone.controlnet.preprocess.kinds import KINDS, preprocess
from inkstone.errors import InkstoneError
from inkstone.files.images import read_picture
from inkstone.files.png import read_text_chunks, save_png
from inkstone.headless.cli.main import main
from inkstone.host.headless import HeadlessHost, using
from inkstone.nodes.preprocess import NO_FILE, ControlPicture

from ...controlnet.test_pose import JOINTS, SIZE, STANDING, json_of
from ...support.scenes import scene

WIDGETS = {
    i.id: i.default for i in ControlPicture.define_schema().inputs[1:] if i.id != "pose_keypoint"
}


def run_node(image, **inputs):
    """As the page would: every widget has a value."""
    return ControlPicture.execute(image, **WIDGETS | inputs)


@pytest.fixture
def host(tmp_path):
    with using(HeadlessHost(models=(tmp_path / "models",), temp=tmp_path / "temp")) as made:
        yield made


@pytest.fixture
def photo(place):
    x = scene(0, 97, 61)[0]
    save_png(place / "photo.png", (x[0] * 255).round().byte().numpy())
    return read_picture(place / "photo.png")


def saved(path):
    """The pixels of the file, [H,W,3] bytes."""
    return (read_picture(path)[0] * 255).round().byte()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pose"])
def test_the_node_gives_the_map_and_shows_it(kind, host, photo):
    out = run_node(photo, type=kind)
    assert torch.equal(out[0], preprocess(kind, photo))
    shown = out.ui.as_dict()["images"]
    assert len(shown) == 1 and (host.temp / shown[0]["filename"]).is_file()


def test_every_widget_is_a_knob_and_says_whose():
    knobs = {knob.name: knob for kind in KINDS.values() for knob in kind.knobs}
    for item in ControlPicture.define_schema().inputs:
        if item.id in knobs and item.id not in ("model", "keypoints"):
            users = [k.name for k in KINDS.values() if knobs[item.id] in k.knobs]
            assert item.default == knobs[item.id].default and all(u in item.tooltip for u in users)


def test_the_node_draws_poses_of_other_packs(host):
    x = torch.zeros(1, SIZE[1], SIZE[0], 3)
    wire = json.loads(json_of(STANDING))
    out = run_node(x, type="pose", pose_keypoint=wire)[0]
    assert torch.equal(out, run_node(x, type="pose", keypoints=json_of(STANDING))[0])
    assert tuple(out[0, JOINTS[0][1], JOINTS[0][0]].tolist()) == (1.0, 0.0, 0.0)
    assert run_node(x, type="pose")[0].max() == 0, "nobody in a black picture"


def test_the_node_finds_files_of_the_user(host, photo, tmp_path):
    from ...support.oracle import save_file

    folder = tmp_path / "models" / "annotators"
    folder.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, folder / "net.safetensors")
    options = next(i for i in ControlPicture.define_schema().inputs if i.id == "model").options
    assert options == [NO_FILE, "net.safetensors"]
    with pytest.raises(InkstoneError, match="not a HED network"):
        run_node(photo, type="soft_edge", model="net.safetensors")
    assert ControlPicture.validate_inputs(NO_FILE) is True
    assert "annotators" in ControlPicture.validate_inputs("gone.safetensors")


@pytest.mark.parametrize(
    "kind, options, knobs",
    [
        ("canny", ["--low-threshold", "20", "--high-threshold", "60"], (20, 60)),
        ("soft_edge", ["--no-safe"], False),
        ("lineart", ["--coarse"], True),
        ("depth", ["--resolution", "48"], 48),
    ],
)
def test_the_command_writes_the_map(kind, options, knobs, photo, capsys):
    named = {"canny": ("low_threshold", "high_threshold"), "soft_edge": ("safe",)}
    named |= {"lineart": ("coarse",), "depth": ("resolution",)}
    values = dict(zip(named[kind], knobs if isinstance(knobs, tuple) else (knobs,)))
    assert main(["preprocess", kind, "photo.png", "map.png", *options, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["files"] == ["map.png"] and (facts["width"], facts["height"]) == (97, 61)
    expected = (preprocess(kind, photo, values)[0] * 255).round().byte()
    assert torch.equal(saved("map.png"), expected)
    chunk = json.loads(read_text_chunks("map.png")["inkstone"])
    assert chunk == {"type": kind, "picture": "photo.png"} | values


def test_the_command_draws_and_exports_poses(place, capsys):
    (place / "pose.json").write_text(json_of(STANDING))
    call = ["preprocess", "pose", "pose.json", "map.png", "--save-keypoints", "out.json"]
    assert main(call) == 0
    assert capsys.readouterr().out.split() == ["map.png", "out.json"]
    assert saved("map.png").shape == (SIZE[1], SIZE[0], 3)
    assert json.loads((place / "out.json").read_text()) == json.loads(json_of(STANDING))
    first = saved("map.png")
    assert main(["preprocess", "pose", "map.png", "again.png", "--keypoints", "out.json"]) == 0
    assert torch.equal(saved("again.png"), first)


BAD = {
    "kind": (("cany", "photo.png", "m.png"), ("cany", "canny"), 2),
    "knob of another": (("canny", "photo.png", "m.png", "--safe"), ("no option 'safe'",), 2),
    "range": (("canny", "photo.png", "m.png", "--low-threshold", "999"), ("0 to 255",), 2),
    "resolution": (("canny", "photo.png", "m.png", "--resolution", "3"), ("16 to 16384",), 2),
    "no file": (("canny", "none.png", "m.png"), ("none.png: no such file",), 2),
    "no png": (("canny", __file__, "m.jpg"), (".png",), 2),
    "no picture": (("canny", __file__, "m.png"), ("cannot be read as a picture",), 1),
    "keypoints": (("canny", __file__, "m.png", "--save-keypoints", "k"), ("belongs to pose",), 2),
    "model": (("depth", __file__, "m.png", "--safe"), ("no option 'safe'",), 2),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_calls(case, fails, tmp_path):
    words, text, status = case
    save_png(tmp_path / "photo.png", torch.zeros(8, 8, 3).byte().numpy())
    arguments = [tmp_path / word if word == "photo.png" else word for word in words]
    fails(("preprocess", *arguments), text, status)


def test_a_picture_without_people_says_so(place, capsys, caplog):
    save_png(place / "photo.png", torch.zeros(33, 50, 3).byte().numpy())
    assert main(["preprocess", "pose", "photo.png", "m.png", "--save-keypoints", "k.json"]) == 0
    assert "no person was found" in caplog.text + capsys.readouterr().err
    assert saved("m.png").max() == 0 and saved("m.png").shape == (33, 50, 3)
    people = json.loads((place / "k.json").read_text())
    assert people == [{"people": [], "canvas_width": 50, "canvas_height": 33}]
