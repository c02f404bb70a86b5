"""Readers of the public sets' files, where a user has them; none of their prompts is ours.

- GenEval (github.com/djghosh13/geneval, prompts/evaluation_metadata.jsonl): tag, prompt, `include`
  ({class, count, color, position: [relation, number of an earlier object]}), `exclude` ({class,
  count}: fewer than that).
- LongText-Bench (github.com/X-Omni-Team/X-Omni, textbench/text_prompts.jsonl and _zh): prompt_id,
  prompt, `text` (a list of texts), category, length.
- CVTG-2K (github.com/NJU-PCALab/TextCrafter): CVTG/2.json to 5.json and CVTG-Style, each
  {"data_list": [{index, prompt, sentence_list}]}; in N_combined.json {"0": prompt}, with the texts
  in quotes.
- Characters, one a line, as the lists behind ChineseWord: each becomes a prompt of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..errors import InkstoneError
from .own_format import MOST_ID, MOST_PROMPT, Json, colour_of, count_of, relation, text_of, texts_of
from .task import Task, WantedThing, is_han

_QUOTED = re.compile(r"'((?:[^']|(?<=\w)'(?=\w)){1,300})'(?!\w)|\"([^\"]{1,300})\"|“([^”]{1,300})”")
CHARACTER_PROMPT = "一张白色背景的图片，正中间用黑色楷体写着一个很大的汉字“{}”"


def geneval_task(data: Mapping[str, Json]) -> Task:
    """A line of GenEval."""
    things: list[WantedThing] = []
    include = data.get("include")
    if not isinstance(include, list) or not include:
        raise InkstoneError('"include" is no list of objects, as GenEval has it.')
    for number, item in enumerate(include):
        if not isinstance(item, dict):
            raise InkstoneError('"include" holds what is no object, as GenEval has them.')
        thing = WantedThing(
            what=text_of(item, "class", 100),
            least=count_of(item, "count", 1) or 0,
            colour=colour_of(item, "color"),
            beside=relation(item.get("position"), number),
        )
        things.append(thing)
    exclude = data.get("exclude", [])
    if not isinstance(exclude, list) or not all(isinstance(item, dict) for item in exclude):
        raise InkstoneError('"exclude" is no list of objects, as GenEval has it.')
    for item in exclude:
        what, fewer = text_of(item, "class", 100), count_of(item, "count", 1) or 1
        same = [n for n, thing in enumerate(things) if thing.what == what]
        if same:
            things[same[0]] = replace(things[same[0]], most=fewer - 1)
        else:
            things.append(WantedThing(what=what, least=0, most=fewer - 1))
    return Task(
        id="",
        prompt=text_of(data, "prompt", MOST_PROMPT),
        group=text_of(data, "tag", MOST_ID),
        things=tuple(things),
    )


def long_text_task(data: Mapping[str, Json]) -> Task:
    """A line of LongText-Bench."""
    texts = texts_of(data, "text")
    if not texts:
        raise InkstoneError('"text" is no list of texts, as LongText-Bench has it.')
    identity = data.get("prompt_id")
    if isinstance(identity, bool) or not isinstance(identity, (int, str)):
        raise InkstoneError('"prompt_id" is no number, as LongText-Bench has it.')
    group = " ".join(filter(None, (text_of(data, k, MOST_ID, "") for k in ("category", "length"))))
    return Task(
        id=str(identity), prompt=text_of(data, "prompt", MOST_PROMPT), group=group, texts=texts
    )


def cvtg_tasks(data: Json, name: str) -> list[Task]:
    """The prompts of a file of CVTG-2K. name: its group."""
    if isinstance(data, dict) and isinstance(data.get("data_list"), list):
        items = data["data_list"]
    elif isinstance(data, dict) and data and all(isinstance(v, str) for v in data.values()):
        items = [{"index": key, "prompt": prompt} for key, prompt in data.items()]
    else:
        raise InkstoneError(
            'is no file of CVTG-2K: expected {"data_list": [{"index": 0, "prompt": "..."}]}.'
        )
    tasks = []
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise InkstoneError(f"entry {number} is no object, as CVTG-2K has them.")
        prompt = text_of(item, "prompt", MOST_PROMPT)
        texts = texts_of(item, "sentence_list") if "sentence_list" in item else quoted(prompt)
        if not texts:
            raise InkstoneError(f"entry {number} has no text in quotes: nothing can be counted.")
        identity = f"{name}-{item.get('index', number)}"[:MOST_ID]
        tasks.append(Task(id=identity, prompt=prompt, group=name, texts=tuple(texts)))
    return tasks


def quoted(prompt: str) -> tuple[str, ...]:
    """The texts that stand in quotes; an apostrophe inside a word ends none."""
    return tuple("".join(match.groups("")).strip() for match in _QUOTED.finditer(prompt))


def character_task(line: str) -> Task:
    """A line with one Chinese character."""
    character = line.strip()
    if len(character) != 1 or not is_han(character):
        raise InkstoneError("is not one Chinese character.")
    return Task(
        id=character,
        prompt=CHARACTER_PROMPT.format(character),
        group="characters",
        texts=(character,),
    )
