"""docs/deploy: the files agree with the server, and with programs that read them, if found."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from inkstone.headless.cli.parser import build_parser
from inkstone.headless.serve.desk.settings import Limits

from ...test_arrows import ROOT, modules
from .running import QUICK

FOLDER = ROOT / "docs" / "deploy"
BOARD = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
UNIT, SITE, IMAGE = (
    (FOLDER / name).read_text("utf-8") for name in ("inkstone@.service", "nginx.conf", "Dockerfile")
)
SELECTOR = re.compile(r"\b(inkstone_\w+)\{([^}]*)\}")
ADDED = {"instance", "job"}  # labels that Prometheus adds itself


def expressions() -> list[str]:
    """All queries of the board."""
    return [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]


def test_every_metric_of_the_board_exists(server):
    job = server.client.post("/v1/jobs", json={"prompt": "a red circle", **QUICK}).json()
    server.ended(job["id"])
    text = server.client.get("/metrics").text
    samples = re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.M)
    labels: dict[str, set[str]] = {}
    for name, given in samples:
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', given))
    seen = set()
    for text in expressions():
        for name, given in SELECTOR.findall(text):
            assert name in labels, name
            assert set(re.findall(r"(\w+)=", given)) <= labels[name] | ADDED, text
            seen.add(name)
        by = re.search(r"by \(([^)]*)\)", text)
        names = set(re.findall(r"\w+", by[1])) if by else set()
        assert names <= set().union(*(labels[n] for n, _ in SELECTOR.findall(text))) | ADDED, text
    query = BOARD["templating"]["list"][1]["query"]["query"]
    assert re.search(r"\((\w+),", query)[1] in labels and len(seen) >= 11
    unused = {n for n in labels if n.startswith("inkstone_serve_")} - seen
    assert not unused, f"no panel shows {unused}"


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        cells = {(a, b) for a in range(x, x + w) for b in range(y, y + h)}
        assert x + w <= 24 and not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids) == 12


def test_a_refused_request_is_counted(server):
    pattern = r'inkstone_serve_refused_total\{status="400"\} (\d+)'
    count = [int(n) for n in re.findall(pattern, server.client.get("/metrics").text)]
    server.client.post("/v1/jobs", json={"prompt": "x", "steps": -1})
    after = [int(n) for n in re.findall(pattern, server.client.get("/metrics").text)]
    assert after == [count[0] + 1]
    assert 'inkstone_serve_refused_total{status="429"} 0' in server.client.get("/metrics").text


def command_of_the_image() -> list[str]:
    """ENTRYPOINT with the options of the example."""
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", IMAGE, re.M)[1])
    return [*entry, "--model", "/models/checkpoints/MODEL.safetensors"]


def command_of_the_unit() -> list[str]:
    """ExecStart of the first server, with the options of the example."""
    line = re.search(r"^ExecStart=(.*)$", UNIT, re.M)[1]
    example = re.search(r'ARGS="(.*)"', UNIT)[1]
    for name, value in {"%i": "0", "%S": "/var/lib", "%d": "/run/keys", "$ARGS": example}.items():
        line = line.replace(name, value)
    assert "%" not in line
    return shlex.split(line)


@pytest.mark.parametrize("command", [command_of_the_image(), command_of_the_unit()])
def test_the_commands_are_those_of_the_server(command):
    assert Path(command[0]).name == "inkstone"
    arguments = build_parser().parse_args(command[1:])
    assert arguments.command == "serve" and arguments.api_key_file and arguments.state
    assert arguments.port == 8190


def test_the_image_is_built_from_the_whole_package():
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text("utf-8")
    kept = set(re.findall(r"^!(\S+)$", ignored, re.M))
    tops = {file.parts[0] for file in modules()}
    assert tops | {"pyproject.toml", "README.md", "LICENSE", "web", "workflows"} <= kept
    assert all((ROOT / name).exists() for name in kept), kept
    assert "tests" not in kept
    assert re.search(r"^USER [1-9]\d+$", IMAGE, re.M) and "HEALTHCHECK" in IMAGE


def test_the_proxy_lets_through_what_the_server_takes():
    limits = Limits()
    assert f"client_max_body_size {limits.upload >> 20}m;" in SITE
    assert int(re.search(r"proxy_read_timeout (\d+)s;", SITE)[1]) > limits.seconds
    assert "proxy_buffering off;" in SITE and "access_log off;" in SITE


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_the_site(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, for a certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        + ["-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"],
        check=True,
        capture_output=True,
    )
    site = SITE.replace("/etc/ssl/inkstone", str(tmp_path)).replace("listen 443", "listen 8443")
    parts = "".join(
        f"{name}_temp_path {tmp_path}/{name}; "
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    for text, good in ((site, True), (site.replace("proxy_buffering", "proxy_bufering"), False)):
        conf = tmp_path / "nginx.conf"
        conf.write_text(
            f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{ {parts}\n{text} }}"
        )
        run = subprocess.run(["nginx", "-t", "-c", conf], capture_output=True, text=True)
        assert (run.returncode == 0) == good, run.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path):
    unit = UNIT.replace("/opt/inkstone/bin/inkstone", "/bin/true")
    for name, text, good in (("a", unit, True), ("b", unit.replace("UMask", "Umaks"), False)):
        path = tmp_path / f"{name}@0.service"
        path.write_text(text)
        run = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
        if "bus" in run.stderr:
            pytest.skip(run.stderr.strip())
        assert (run.stderr.strip() == "") == good, run.stderr
