"""The rules that an enhanced prompt must keep: quoted text, language; and how an answer is cleaned.

Text in quotes is text to write into the picture. It must come out as it was, and none may be added:
an answer that breaks this is no use, however well it reads. The language is known by its script
only, so an answer in German to a prompt in English passes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_QUOTED = re.compile(
    r'"([^"]*)"'
    r"|“([^“”]*)”"
    r"|„([^„“”]+)[“”]"
    r"|「([^「」]+)」"
    r"|『([^『』]+)』"
    r"|«([^«»]+)»"
    r"|‘([^‘\n]+?)’(?![^\W_])"  # the closing mark is an apostrophe too
    r"|(?<![A-Za-z0-9])'([^\n]+?)'(?![A-Za-z0-9])"
)
_PAIRS = {'"': '"', "“": "”", "„": "“", "「": "」", "『": "』", "«": "»", "‘": "’", "'": "'"}
LANGUAGES = {  # first word of a letter's Unicode name -> what it is called in a sentence
    "CJK": "Chinese",
    "KANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "a language in Cyrillic letters",
    "ARABIC": "a language in Arabic letters",
    "HEBREW": "Hebrew",
    "GREEK": "Greek",
    "THAI": "Thai",
    "DEVANAGARI": "a language in Devanagari letters",
    "LATIN": "a language in Latin letters",
}
_KANA = ("HIRAGANA", "KATAKANA")
_LETTERS_OF_A_WORD = 6
_FENCE = re.compile(r"```(?:[\w-]*\n)?(.*?)(?:```|\Z)", re.DOTALL)
_NOUN = r"(?:prompt|version|description|instruction|rewrite|rewriting|output|answer|result)s?"
_CHATTER = (
    re.compile(r"(?:sure|certainly|of course|okay|absolutely)\s*[!.,:]\s*", re.IGNORECASE),
    # up to a colon: "Here is the improved prompt:", "Rewritten prompt:"
    re.compile(
        rf"(?:#+\s*)?(?:\*\*)?(?:(?:here(?:'s|’s|\s+is|\s+are)|this\s+is|below\s+is|the|your|an?"
        rf"|my|improved|enhanced|rewritten|revised|refined|edited|final)\b[^:\n\"“「]{{0,60}}?)?"
        rf"\b{_NOUN}\b[^:\n\"“「]{{0,40}}?:(?:\*\*)?\s*",
        re.IGNORECASE,
    ),
    re.compile(r"(?:好的|当然可以|当然|没问题)\s*[，。！,!：:]\s*"),
    re.compile(
        r"(?:#+\s*)?(?:\*\*)?[^：:\n“「\"]{0,20}(?:提示词|提示詞|指令|描述|版本|结果|結果)[^：:\n“「\"]{0,12}"
        r"[：:](?:\*\*)?\s*"
    ),
)
_AFTERWARDS = re.compile(
    r"(?:let me know|i hope|feel free|note:|this (?:prompt|version|description|instruction)\b"
    r"|希望|如果您|如果你|如需|注：|注:)",
    re.IGNORECASE,
)


def quoted(text: str) -> list[str]:
    """The texts in quotes of any kind, in order, without the marks. An apostrophe is no mark."""
    matches = _QUOTED.finditer(unicodedata.normalize("NFC", text))
    inner = ("".join(group or "" for group in match.groups()) for match in matches)
    return [one for one in inner if one.strip()]


def script_of(text: str) -> str:
    """The script of most words outside quotes, a key of LANGUAGES or another; "" without letters.

    A letter of Chinese or Japanese weighs as much as a word of six letters.
    """
    counts = _scripts(_QUOTED.sub(" ", text))
    kana = sum(counts.pop(name, 0) for name in _KANA)
    if kana * 10 >= counts["CJK"] and kana:
        counts["KANA"] = kana + counts.pop("CJK", 0)
    dense = {"CJK", "KANA", "HANGUL"}  # of a mixture in equal parts the script with Latin names
    return max(counts, key=lambda name: (counts[name], name in dense), default="")


def _scripts(text: str) -> Counter[str]:
    """Words by script."""
    counts: Counter[str] = Counter()
    run, before = 0, ""
    for letter in f"{text} ":
        name = unicodedata.name(letter, " ").split(" ")[0] if letter.isalpha() else ""
        if name != before:
            if before:
                dense = before == "CJK" or before in _KANA
                counts[before] += run if dense else -(-run // _LETTERS_OF_A_WORD)
            run, before = 0, name
        run += 1
    return counts


def cleaned(answer: str) -> list[str]:
    """The prompt in an answer, without talk around it and code fences: as it stands, and without
    quotes around the whole where it has them.
    """
    text = answer.strip()
    fence = _FENCE.search(text)
    if fence:
        text = fence[1].strip()
    text = _without_talk(text)
    text = re.sub(r"[ \t]*\n\s*", "\n", text)
    close = _PAIRS.get(text[:1])
    inner = text[1:-1].strip() if close and len(text) > 2 and text.endswith((close, "”")) else ""
    return [text, _without_talk(inner)] if inner else [text]


def _without_talk(text: str) -> str:
    """Without sentences about the answer before and behind it."""
    for _ in range(3):
        match = next(filter(None, (pattern.match(text) for pattern in _CHATTER)), None)
        if match is None:
            break
        text = text[match.end() :].strip()
    parts = re.split(r"\n\s*\n", text)
    while len(parts) > 1 and _AFTERWARDS.match(parts[-1].strip()):
        parts.pop()
    return "\n\n".join(parts).strip().removesuffix("```").strip()


def fault(prompt: str, answer: str) -> str:
    """What is wrong with an answer to this prompt, behind "it"; "" where nothing is."""
    if not answer:
        return "was empty"
    want, got = Counter(quoted(prompt)), Counter(quoted(answer))
    lost = next((text for text in want if text not in got), None)
    if lost is not None:
        return f'lacks the text "{_short(lost)}"'
    more = next((text for text in got if text not in want), None)
    if more is not None:
        return f'has the text "{_short(more)}", which the prompt does not have'
    twice = next((text for text in got if got[text] > want[text]), None)
    if twice is not None:
        return f'has the text "{_short(twice)}" {got[twice]} times, the prompt {want[twice]}'
    script = script_of(prompt)
    if script and script_of(answer) != script:
        return f"is not in the language of the prompt ({LANGUAGES.get(script, script.title())})"
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
