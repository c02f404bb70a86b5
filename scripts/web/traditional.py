"""Fills traditional.json: every Chinese text of the pack in the Traditional Chinese of Taiwan.

    pip install opencc-python-reimplemented; python scripts/web/traditional.py; python
    scripts/web/build.py

OpenCC turns characters and the words it knows (s2twp); WORDS are those that Taiwan's users of
ComfyUI write otherwise, as the page's own zh-TW has them. A line that is there already stays, so
one that was mended by hand is kept; lines of texts that are gone are dropped. Only this script
needs OpenCC: build.py reads the JSON.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILE = HERE / "traditional.json"
# what OpenCC gives -> what is written; in order
WORDS = (
    ("影象", "影像"),
    ("圖像", "影像"),
    ("型別", "類型"),
    ("畫素", "像素"),
    ("連線", "連接"),
    ("應用", "套用"),
    ("區域性", "局部"),
    ("擴充套件", "擴展"),
    ("映象", "鏡像"),
    ("流式", "串流"),
    ("噪聲", "雜訊"),
    ("采樣", "取樣"),
    ("實現", "實作"),
    ("自定義", "自訂"),
    ("工作流", "工作流程"),
    ("響應", "回應"),
    ("日誌", "記錄"),
    ("裁剪", "裁切"),
    ("插口", "插槽"),
    ("節點包", "節點套件"),
    ("調製", "調變"),
    ("“", "「"),
    ("”", "」"),
)
BLOCK = re.compile("(?<![區分逐色拼一])塊")


def traditional(converter: object, text: str) -> str:
    """One text for Taiwan."""
    made = converter.convert(text)
    for found, written in WORDS:
        made = made.replace(found, written)
    return BLOCK.sub("區塊", made)


def fill(known: dict[str, str], wanted: list[str], converter: object) -> dict[str, str]:
    """The table of all wanted texts; known lines as they are."""
    return {text: known.get(text) or traditional(converter, text) for text in wanted}


if __name__ == "__main__":
    from opencc import OpenCC

    spec = importlib.util.spec_from_file_location("inkstone_web_build", HERE / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    kept = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    table = fill(kept, build.chinese_texts(), OpenCC("s2twp"))
    FILE.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", "utf-8")
