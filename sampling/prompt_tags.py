"""Tags of other programs inside a prompt, which Qwen-Image reads as plain words.

They mean something to the text encoders of older models or to a node pack that reads them before;
here they would be encoded letter by letter and change the picture by chance.
"""

from __future__ import annotations

import re

_TAG = re.compile(
    r"<(?:lora|lyco|lycoris|hypernet|hypernetwork):[^<>\n]{1,200}>"  # <lora:name:0.8>
    r"|\bembedding:[^\s,:()]+"  # embedding:easynegative
    r"|(?<!\\)\([^()\n]{1,200}:\s*[+-]?(?:\d{1,3}(?:\.\d{0,8})?|\.\d{1,8})\s*\)"  # (word:1.3)
    r"|\[trigger\]"  # ai-toolkit's place of the trigger word
    r"|(?<![\w])__[A-Za-z0-9][\w\-./*]{0,80}?__(?!\w)",  # __wildcard__
    re.IGNORECASE,
)
_RATIO = re.compile(r"\d\s*:\s*[\d.]+\s*\)$")  # "(16:9)", "(at 10:30)"


def prompt_tags(prompt: str) -> list[str]:
    """The tags in a prompt in order, without repeats; texts in double quotes are left out."""
    plain = re.sub(r'"[^"\n]*"', " ", prompt)
    tags = (match[0] for match in _TAG.finditer(plain))
    return list(dict.fromkeys(tag for tag in tags if tag[0] != "(" or not _RATIO.search(tag)))
