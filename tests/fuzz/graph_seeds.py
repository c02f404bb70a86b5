"""Seeds: graphs of both forms, node lists, job lines, journals, prompts, options, poses."""

from __future__ import annotations

import json
from pathlib import Path

from inkstone.headless.workflow.load import find_graph

from ..support.ui_graphs import feature_graphs
from .files import joined

_SHIPPED = ("text_to_image_embedded", "edit_2511", "inpaint_embedded", "text_to_image_qwen_image")


def _text(value: object) -> bytes:
    return json.dumps(value).encode()


def shipped() -> list[bytes]:
    """Some example graphs."""
    return [find_graph(Path(name)).read_bytes() for name in _SHIPPED]


def ui_graphs() -> list[bytes]:
    """Small graphs of the page, one feature each."""
    return [_text(graph) for graph in feature_graphs().values()]


def core_loaders() -> list[bytes]:
    """Graphs with core's loaders, which `--to-inkstone` replaces."""
    api = {
        "1": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": "qwen_image.safetensors", "weight_dtype": "default"},
        },
        "2": {
            "class_type": "CLIPLoader",
            "inputs": {"clip_name": "qwen.safetensors", "type": "qwen_image"},
        },
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "qwen_vae.safetensors"}},
        "4": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": ["1", 0], "lora_name": "a.safetensors", "strength_model": 1},
        },
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a cat"}},
    }
    nodes = [
        {
            "id": int(key),
            "type": entry["class_type"],
            "pos": [0, 0],
            "widgets_values": [v for v in entry["inputs"].values() if not isinstance(v, list)],
            "inputs": [],
            "outputs": [{"name": "OUT", "type": "MODEL", "links": []}],
            "properties": {"models": [{"name": "a", "url": "https://x/a", "directory": "loras"}]},
        }
        for key, entry in api.items()
    ]
    ui = {"nodes": nodes, "links": [], "version": 0.4, "last_node_id": 5, "last_link_id": 0}
    return [_text(api), _text(ui)]


def api_graphs() -> list[bytes]:
    """API graphs of stand-ins and of ours."""
    picture = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 1}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    drawn = {
        "1": {"class_type": "InkstoneLoadAll", "inputs": {"folder": "Inkstone embedded"}},
        "2": {"class_type": "InkstoneEncodePrompt", "inputs": {"text_encoder": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
        "4": {"class_type": "InkstoneDenoise", "inputs": {"model": ["1", 0], "latent": ["3", 0]}},
        "5": {"class_type": "InkstoneDecode", "inputs": {"vae": ["1", 2], "latent": ["4", 0]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}},
    }
    wide = {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 9, "height": 9}}
    return [
        _text({"1": picture, "2": save}),
        _text({"prompt": {"1": picture, "2": {**save, "_meta": {"title": "end"}}}}),
        _text({"1": picture, "3": wide, "2": {**save, "inputs": {"images": ["3", 0]}}}),
        _text(drawn),
    ]


def settings() -> list[bytes]:
    """--set on graphs."""
    ui, api = ui_graphs(), api_graphs()
    return [joined(s, api[0]) for s in (b"1.width=32", b"end.images=3", b"2.filename_prefix=a")] + [
        joined(b"5.width=32", graph) for graph in ui[:8]
    ]


def object_infos() -> list[bytes]:
    """Classes with every kind of input."""
    required = {
        "image": ["IMAGE"],
        "seed": ["INT", {"default": 0, "min": 0, "control_after_generate": True}],
        "text": ["STRING", {"multiline": True, "dynamicPrompts": True}],
        "name": [["a", "b"], {"image_upload": True}],
        "choice": ["COMBO", {"options": ["x", "y"]}],
        "flag": ["BOOLEAN", {"default": False}],
        "wired": ["FLOAT", {"forceInput": True}],
        "mode": [
            "COMFY_DYNAMICCOMBO_V3",
            {"options": [{"key": "k", "inputs": {"required": {"seed": ["INT", {"min": 2}]}}}]},
        ],
        "colour": ["COLOR", {}],
        "growing": ["COMFY_AUTOGROW_V3", {}],
    }
    node = {
        "input": {"required": required, "optional": {"mask": ["MASK", {}]}},
        "input_order": {"required": list(required), "optional": ["mask"]},
        "output": ["IMAGE", ["a", "b"]],
        "display_name": "A node",
    }
    return [_text({"A": node}), _text({"A": {"input": {"required": {"x": ["INT"]}}}})]


def jobs() -> list[bytes]:
    """Defaults and lines."""
    lines = [
        {"id": "a", "prompt": "a red circle", "seed": 1, "size": "256x256", "steps": 4},
        {"prompt": "x", "lora": ["a.safetensors:0.5"], "negative": "y", "cfg": 2.5, "batch": 2},
        {"prompt": "x", "image": ["a.png"], "mask": "m.png", "strength": 0.5, "save_latent": True},
        {"prompt": "x", "control": ["canny:a.png:0.8:0-0.5"], "control_model": ["c"]},
        {"graph": "g.json", "set": {"3.text": "a", "4.seed": 7}, "id": "g"},
    ]
    every = b"\n".join(map(_text, lines))
    return [joined(b"{}", every), *(joined(b'{"steps": 4}', _text(line)) for line in lines)]


def options() -> list[bytes]:
    """One object of options."""
    values = [
        {"size": "1024x768", "memory": "12GB", "device": "cuda:1", "negative": "0-19:0.5,20:1"},
        {"lora": ["a.safetensors:0.5", "b"], "prompt": "0-19:0.5,20-59:1.0"},
        {"control": "canny:photo.png:0.8:0-0.5", "image": ["a.png"], "mask": "m"},
        {"steps": 8, "batch": 2, "cfg": 4.5, "seed": 3, "strength": 0.4, "layers": 3},
    ]
    return [_text(value) for value in values]


def journals() -> list[bytes]:
    """Results of earlier runs."""
    record = {
        "id": "a",
        "status": "done",
        "job": "0123",
        "content": "",
        "files": ["a.png", "a_00001_.png"],
        "seconds": 1.5,
    }
    failed = {"id": "b", "status": "failed", "error": "no such file"}
    return [
        _text(record) + b"\n",
        _text(record) + b"\n" + _text(failed) + b"\n" + _text({**record, "files": []}) + b"\n",
        _text(record)[:20],
    ]


def prompts() -> list[bytes]:
    """Tags of other programs, choices, places."""
    return [
        b'a cat <lora:name:0.8> (word:1.3) embedding:easy __wild__ "(quoted:1.1)"',
        b"a {red|{green|blue} big} ball // remark\n/* more */ \\{kept\\}",
        b"%date:yyyy-MM-dd%/%a.b%_x",
    ]


def poses() -> list[bytes]:
    """OpenPose JSON."""
    body = [float(v) for n in range(18) for v in (n * 10, n * 9 + 1, 0.9)]
    hand = [float(v) for n in range(21) for v in (n, n, 1)]
    person = {"pose_keypoints_2d": body, "hand_left_keypoints_2d": hand, "face_keypoints_2d": None}
    doc = {"people": [person], "canvas_width": 640, "canvas_height": 480}
    coco = {"people": [{"pose_keypoints_2d": [v / 1000 for v in body[:51]]}]}
    return [_text(doc), _text([doc, coco]), _text(coco)]


def answers() -> list[bytes]:
    """Boxes as Qwen2.5-VL writes them, and as its predecessors do."""
    rows = [{"bbox_2d": [12, 9.5, 200, 80], "label": 'a "cat"'}, {"bbox_2d": [1, 2, 33, 44]}]
    tagged = "<ref>cat</ref><box>(100,200),(500,1000)</box><|box_start|>(1,2),(3,4)<|box_end|>"
    return [_text(rows), b"Here:\n```json\n" + _text(rows) + b"\n```", tagged.encode()]
