"""Fills traditional.json: every Chinese text of the pack in the Traditional Chinese of Taiwan.

    pip install opencc-python-reimplemented
    python scripts/web/traditional.py; python scripts/web/build.py

OpenCC turns characters and the words it knows (s2twp); WORDS are those that Taiwan's users of
ComfyUI write otherwise, as the page's own zh-TW has them. Existing lines stay, so corrections by
hand are kept; lines of texts that are gone are dropped. Only this script needs OpenCC: build.py
reads the JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts.web import build

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


class Converter(Protocol):
    """The part of OpenCC that is used."""

    def convert(self, text: str) -> str: ...


def traditional(converter: Converter, text: str) -> str:
    """One text for Taiwan."""
    result = converter.convert(text)
    for opencc, ours in WORDS:
        result = result.replace(opencc, ours)
    return BLOCK.sub("區塊", result)


def fill(known: dict[str, str], texts: list[str], converter: Converter) -> dict[str, str]:
    """The table of all texts; known lines as they are."""
    return {text: known.get(text) or traditional(converter, text) for text in texts}


if __name__ == "__main__":
    from opencc import OpenCC  # type: ignore[import-not-found]  # only this script needs it

    kept = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    table = fill(kept, build.chinese_texts(), OpenCC("s2twp"))
    FILE.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", "utf-8")
