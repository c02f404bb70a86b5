"""What must not work: wrong keys, other sites, paths, bombs, floods, slow clients."""

from __future__ import annotations

import io
import json
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from inkstone.errors import CallError
from inkstone.headless.cli.main import main
from inkstone.headless.serve import run
from inkstone.headless.serve.api.keys import Keys, read_keys
from inkstone.headless.serve.desk.orders import in_request
from inkstone.headless.serve.desk.settings import Limits, ServeCall, check_binding
from inkstone.kernels.memory import process_bytes

from .running import QUICK, ROOT, as_text, keys_file, png, serving
from .test_jobs import JOB

PATHS = ["/etc/passwd", "../../etc/passwd", "..\\..\\x", "file:///etc/passwd", "C:\\x", "a\0b"]
KEY = "a-key-of-twenty-letters"


def raw(server, text: bytes, wait: float = 5) -> bytes:
    """Bytes to a server, and all that comes back."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as link:
        link.sendall(text)
        parts = []
        try:
            while part := link.recv(65536):
                parts.append(part)
        except (TimeoutError, ConnectionResetError):
            pass
    return b"".join(parts)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "name",
    ["model", "lora", "control_model", "vae", "text_encoder", "instructions", "out", "save_latent"]
    + ["image", "mask", "device", "memory", "id", "graph"],
)
def test_no_field_takes_a_path(server, name, path):
    answer = server.client.post("/v1/jobs", json={**JOB, name: path})
    assert answer.status_code in (400, 404), answer.text
    message = answer.json()["error"]["message"]
    assert "root:" not in message and str(ROOT) not in message


@pytest.mark.parametrize("path", PATHS)
def test_names_inside_rows_are_no_paths_either(server, path):
    rows = (
        {"lora": [{"name": path, "strength": 1}]},
        {"control": {"type": "canny", "picture": path}},
        {"control": {"type": path, "picture": as_text(png())}},
    )
    for row in rows:
        answer = server.client.post("/v1/jobs", json={**JOB, **row})
        assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("path", PATHS)
def test_addresses_are_no_paths(server, path):
    from urllib.parse import quote

    for address in (f"/v1/files/{quote(path, safe='')}/0.png", f"/v1/jobs/{quote(path, safe='')}"):
        assert server.client.get(address).status_code == 404
    name = server.client.post("/v1/jobs", json=JOB).json()["id"]
    server.ended(name)
    for number in (quote(path, safe=""), "99.png", "-1.png", "٣.png", "0" * 5, "0", "0.exe"):
        assert server.client.get(f"/v1/files/{name}/{number}").status_code == 404


def test_a_file_name_of_a_form_leads_nowhere(server, tmp_path):
    answer = server.client.post(
        "/v1/images/edits",
        data={"prompt": "x", "inkstone": json.dumps(QUICK)},
        files={"image": ("../../../tmp/evil.png", png(), "image/png")},
    )
    assert answer.status_code == 200, answer.text
    assert not list(tmp_path.parent.rglob("evil.png"))


def test_without_the_right_key_nothing_opens(tmp_path, caplog):
    call = ServeCall(models=tmp_path, api_key_file=keys_file(tmp_path, KEY))
    with caplog.at_level("DEBUG"), serving(call, start=False) as server:
        for wrong in ("", "Bearer", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Basic {KEY}", KEY):
            headers = {"Authorization": wrong}
            for path in ("/v1/models", "/metrics", "/v1/jobs/x"):
                answer = server.client.get(path, headers=headers)
                assert answer.status_code == 401, (wrong, path)
            assert answer.json()["error"]["code"] == "invalid_api_key"
        headers = {"Authorization": f"Bearer {KEY}"}
        assert server.client.get("/v1/models", headers=headers).status_code == 200
        assert server.client.get("/health").status_code == 200
        early = raw(
            server,
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n"
            b"Content-Length: 2000000000\r\n\r\n",
        )
        assert early.startswith(b"HTTP/1.1 401"), "before a byte of the body has come"
    ours = [r.getMessage() for r in caplog.records if r.name.startswith(("inkstone", "uvicorn"))]
    assert not [line for line in ours if KEY in line]


def test_keys_of_a_file(tmp_path):
    assert read_keys(None).owner(None) == "anybody" and not read_keys(None).asked
    keys = Keys([KEY, "x" * 20])
    assert keys.owner(f"Bearer {KEY}") != keys.owner("Bearer " + "x" * 20) is not None
    assert KEY not in repr(vars(keys))
    for bad in ("", "# only a note\n", "short\n", "with space in it 12345\n"):
        path = tmp_path / "bad.txt"
        path.write_text(bad)
        with pytest.raises(CallError, match="key"):
            read_keys(path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_others_are_served_with_a_key_only(host, capsys, tmp_path):
    with pytest.raises(CallError, match="--api-key-file"):
        check_binding(ServeCall(host=host))
    check_binding(ServeCall(host=host, api_key_file=tmp_path))
    assert main(["serve", "--host", host]) == 2
    assert "asks for no key" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, said",
    [
        (("--models", "nowhere"), "--models nowhere: there is no such folder"),
        (("--memory", "12"), "12 is 12 bytes, less than any model needs: write the unit"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_the_start(
    given, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["serve", "--port", "0", *given])
    except SystemExit as end:
        status = end.code
    assert status == 2 and said in " ".join(capsys.readouterr().err.split())


def test_without_the_extra_there_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(run, "NEEDED", ("a_package_nobody_has",))
    assert main(["serve"]) == 2
    assert "pip install 'inkstone[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),  # a name that was led to this machine
        ({"Host": "localhost:1"}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(server, headers, status):
    assert server.client.get("/v1/models", headers=headers).status_code == status


def test_a_page_of_another_site_cannot_send_json_as_text(server):
    answer = server.client.post(
        "/v1/jobs", content=json.dumps(JOB), headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 415


def test_two_gigabytes_are_refused_before_they_come(server):
    before = process_bytes()
    answer = raw(
        server,
        b"POST /v1/images/edits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2147483648\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 413") and process_bytes() - before < 8 << 20


def test_a_flood_without_a_length_is_cut_off(tmp_path):
    call = ServeCall(models=tmp_path, limits=Limits(upload=1 << 20))

    def flood():
        for _ in range(64):
            yield bytes(1 << 18)

    with serving(call, start=False) as server:
        for kind in ("application/json", "multipart/form-data; boundary=x"):
            path = "/v1/jobs" if "json" in kind else "/v1/images/edits"
            answer = server.client.post(path, content=flood(), headers={"Content-Type": kind})
            assert answer.status_code in (400, 413), answer.text
        assert server.client.get("/health").status_code == 200


def test_a_slow_client_is_given_up(tmp_path):
    call = ServeCall(models=tmp_path, limits=Limits(wait=0.3, request=1.0))
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with serving(call, start=False) as server:
        answer = raw(server, head + b"Content-Length: 100\r\n\r\n{", 20)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as link:
            link.sendall(head + b"Content-Length: 1000\r\n\r\n")
            began = time.monotonic()
            while time.monotonic() - began < 3:  # a byte now and then: the whole has a bound too
                try:
                    link.sendall(b" ")
                    time.sleep(0.1)
                except OSError:
                    break
            assert link.recv(100).startswith(b"HTTP/1.1 408")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def animated(side: int) -> bytes:
    """An animated PNG of 16x16 that says it has two thousand million frames, one of which is of
    this side and holds megabytes of zeros.
    """
    data, pixels = png(16, 16), zlib.compress(bytes(64 << 20), 9)
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4

    def control(number: int, side: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, side, side, 0, 0, 1, 9, 0, 0))

    first = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + control(0, 16)
    second = control(1, side) + chunk(b"fdAT", struct.pack(">I", 2) + pixels)
    return data[:start] + first + data[start:end] + second + data[end:]


def bomb() -> bytes:
    """A PNG of 60000x60000 pixels in some bytes."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def webp_bomb() -> bytes:
    """A WebP of 16384x16384 pixels in some bytes."""
    size = 16383 | 16383 << 14
    chunk = b"VP8L" + struct.pack("<IBI", 5, 0x2F, size) + bytes(9)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def zip_bomb() -> bytes:
    """Megabytes of zeros in a ZIP."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(64 << 20))
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [bomb(), png(3000, 3000), png()[:60], b"GIF89a", b"%!PS", b"<svg/>", b"", bytes(1000)]
    + [webp_bomb(), zip_bomb()],
    ids=["bomb", "large", "cut", "gif", "ps", "svg", "nothing", "zeros", "webp", "zip"],
)
def test_bad_pictures_are_refused(server, data):
    before = process_bytes()
    for name in ("image", "mask"):
        files = {"image": ("a.png", png(), "image/png"), name: ("a.png", data, "image/png")}
        answer = server.client.post("/v1/images/edits", data={"prompt": "x"}, files=files)
        assert answer.status_code == 400, answer.text
        assert "/accepted/" not in answer.text and "Traceback" not in answer.text
    assert process_bytes() - before < 64 << 20


@pytest.mark.parametrize("side", [16, 60000])
def test_of_an_animation_one_frame_is_read(server, side):
    before = process_bytes()
    files = {"image": ("a.png", animated(side), "image/png")}
    data = {"prompt": "x", "inkstone": '{"steps": 1}'}
    answer = server.client.post("/v1/images/edits", data=data, files=files)
    assert answer.status_code in (200, 400), answer.text
    assert process_bytes() - before < 64 << 20


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"prompt": NaN}', b"\xff\xfe", b'{"a":' * 5000, b'{"prompt": 3}']
    + [b'{"prompt":"x","prompt":"y"}', b'{"prompt":"x","n":true}', b'{"prompt":"x","n":1e99}']
    + [b'{"prompt":"x","seed":' + b"9" * 5000 + b"}", b'{"prompt":"\\ud800"}']
    + [b'{"prompt":"x","steps":"4"}', b'{"prompt":"x","size":["64x64"]}', b'{"prompt":"x","n":[]}']
    + [b'{"prompt":"x","control":{"type":"canny","strength":1e999,"picture":""}}']
    + [b'{"prompt":"x","region":[["a"]]}', b'{"prompt":"x","model":7}', b'{"prompt":"x","lora":7}']
    + [b"{}", b'{"prompt":null}', b'{"prompt":0}', b'{"prompt":[]}']
    + [b'{"prompt":"x","a":[' + b"{}," * 200_000 + b"{}]}"]
    + [b'{"prompt":"x","negative":"' + b"y" * 40_000 + b'"}'],
)
def test_bad_json_is_refused(server, body):
    for path in ("/v1/jobs", "/v1/images/generations"):
        answer = server.client.post(
            path, content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400, (path, answer.status_code, answer.text)
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize("named", ["models", "a/models", "/srv/models"])
def test_a_sentence_names_no_folder_of_the_machine(monkeypatch, tmp_path, named):
    """Also where the folder is given as it lies below the one that the server was started in."""
    monkeypatch.chdir(tmp_path)
    models, order = Path(named), Path("/var/state/accepted/12ab")
    for file in (
        models / "loras" / "x.safetensors",
        (models / "loras" / "x.safetensors").absolute(),
    ):
        text = in_request(
            f"{file}: none of 9 modules fit, {order / 'mask.png'} too.", order, models
        )
        assert text == "loras/x.safetensors: none of 9 modules fit, mask.png too."


def test_unknown_routes_answer_in_openais_form(server):
    for method, path, status, said in (
        ("GET", "/v1/x", 404, "There is no such route: GET /openapi.json lists them."),
        ("PUT", "/v1/jobs", 405, "This route has no such method: expected POST."),
    ):
        answer = server.client.request(method, path)
        assert answer.status_code == status and answer.json()["error"]["message"] == said


def test_a_second_server_stays_out_of_a_state_folder(tmp_path):
    with serving(ServeCall(models=tmp_path, state=tmp_path / "s")):
        code = (
            "import sys; sys.path.insert(0, '.')\nimport tests.conftest\n"
            "from inkstone.headless.cli.main import main\nsys.exit(main(sys.argv[1:]))"
        )
        call = ["serve", "--port", "0", "--state", str(tmp_path / "s")]
        done = subprocess.run(
            [sys.executable, "-c", code, *call], cwd=ROOT, capture_output=True, timeout=60
        )
    assert done.returncode == 2 and b"another run is using this folder" in done.stderr
