"""Measures how soon the stop button answers in a real ComfyUI on full-size files, and what /free
frees.

The graph is the shipped GGUF one without its LoRA, at CFG 1. It is stopped at random moments: while
the prompt is encoded, while weights come in, in the midst of blocks. Files are those of
bench/full_size.py; the server is made from INKSTONE_COMFYUI_SOURCE (tests/support/comfy_server.py).

python bench/interrupt.py --folder /tmp/inkstone-full --size 512x512 --times 9
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import harness
from bench.full_size_files import MODEL, TEXT, VAE
from inkstone.nodes.canvas import CUSTOM
from tests.support.comfy_install import given_source
from tests.support.comfy_server import ComfyServer
from tests.support.comfy_socket import WebSocket, event

GRAPH = harness.ROOT / "workflows" / "api" / "text_to_image_gguf_lightning_lora.json"
FILES = {"diffusion_models": MODEL, "text_encoders": TEXT, "vae": VAE}
LEFT_OUT = ("InkstoneLoraLoader", "InkstoneModelInfo")
GOAL = 1.0  # seconds
LAST = {"encode": 8.0, "denoise": 25.0}  # seconds after a node's begin until which it is stopped


def graph(size: str) -> dict[str, Any]:
    """The graph for these files."""
    entries = json.loads(GRAPH.read_text("utf-8"))
    width, height = map(int, size.split("x"))
    model = next(k for k, n in entries.items() if n["class_type"] == "InkstoneLoadDiffusionModel")
    values = {
        "InkstoneLoadDiffusionModel": {"model": MODEL, "variant": "qwen-image"},
        "InkstoneLoadTextEncoder": {"text_encoder": TEXT},
        "InkstoneLoadVAE": {"vae": VAE},
        "InkstoneEmptyLatent": {"size": CUSTOM, "width": width, "height": height},
    }
    out = {k for k, n in entries.items() if n["class_type"] in LEFT_OUT}
    for node in entries.values():
        node["inputs"] |= values.get(node["class_type"], {})
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in out:
                node["inputs"][name] = [model, 0]
    return {k: n for k, n in entries.items() if k not in out}


def stopped(server: ComfyServer, prompt: dict[str, Any], node: str, wait: float) -> float:
    """Seconds from the request to the event that the run has ended."""
    client, at = uuid.uuid4().hex, []

    def press() -> None:
        at.append(time.perf_counter())
        server.post("/interrupt", {})

    with WebSocket(server.port, f"/ws?clientId={client}", 600) as channel:
        server.post("/prompt", {"prompt": prompt, "client_id": client})
        for message in channel:
            kind, data = event(message)
            if kind == "executing" and data.get("node") == node:
                threading.Timer(wait, press).start()
            if kind == "execution_interrupted":
                return time.perf_counter() - at[0]
            if kind in ("execution_success", "execution_error"):
                raise SystemExit(f"the run ended by itself: {data}")
    raise SystemExit("the server closed the connection")


def resident(server: ComfyServer) -> float:
    """GB of the server's process."""
    status = Path(f"/proc/{server.process}/status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e9


def freed(server: ComfyServer) -> dict[str, float]:
    """Memory before and after POST /free, and how long that took."""
    before, start = resident(server), time.perf_counter()
    server.post("/free", {"unload_models": True, "free_memory": True})
    seconds, least = 0.0, before
    while time.perf_counter() - start < max(3.0, seconds + 1.0):
        if resident(server) < least - 0.05:
            seconds, least = time.perf_counter() - start, resident(server)
        time.sleep(0.02)
    return {
        "GB before": round(before, 2),
        "GB after": round(least, 2),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    """Runs it and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="of bench/full_size.py's files")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source, chance = given_source(), random.Random(args.seed)
    if source is None:
        parser.error("set INKSTONE_COMFYUI_SOURCE to a git directory or tree of ComfyUI")
    prompt = graph(args.size)
    took: dict[str, list[float]] = {"encode": [], "denoise": []}
    kinds = {n["class_type"]: k for k, n in prompt.items()}
    nodes = {"encode": kinds["InkstoneEncodePrompt"], "denoise": kinds["InkstoneDenoise"]}
    with ComfyServer(source) as server:
        for kind, name in FILES.items():
            folder = server.base / "models" / kind
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to((args.folder / name).resolve())
        for turn in range(args.times):
            stage = "encode" if turn % 3 == 2 else "denoise"
            if stage == "encode":
                prompt[nodes[stage]]["inputs"]["prompt"] = f"a house, number {turn}"
            wait = chance.uniform(0.5, LAST[stage])
            took[stage].append(round(stopped(server, prompt, nodes[stage], wait), 3))
        left = freed(server)
    worst = max(max(seconds, default=0.0) for seconds in took.values())
    print(
        json.dumps(
            {
                "what": f"stop at {args.size}, 20B Q4_K_M",
                "seconds until it answered": took,
                "worst": worst,
                "worst / goal": round(worst / GOAL, 3),
                "POST /free": left,
                "load of the machine": round(os.getloadavg()[0], 1),
                "command": harness.command(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
