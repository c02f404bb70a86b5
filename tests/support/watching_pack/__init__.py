"""A custom node pack for tests: writes every path that the server opens or changes into a file.

INKSTONE_WATCH names the file; one JSON line per event: [event, path, writes].
"""

import json
import os
import sys

NODE_CLASS_MAPPINGS: dict[str, type] = {}
_EVENTS = ("os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link")
_EVENTS += ("os.symlink", "os.truncate", "os.chmod", "shutil.rmtree", "subprocess.Popen")
_READS = ("os.listdir", "os.scandir")
_file = open(os.environ["INKSTONE_WATCH"], "a", encoding="utf-8", errors="backslashreplace")


def _watch(event: str, values: tuple) -> None:
    if event == "open":
        path, mode, flags = values
        writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    elif event in _EVENTS:
        path, writes = values[0], event not in _READS
    else:
        return
    if not isinstance(path, int) and path is not None:
        _file.write(json.dumps([event, os.path.abspath(os.fsdecode(path)), writes]) + "\n")
        _file.flush()


sys.addaudithook(_watch)
