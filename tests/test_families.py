"""A family is data: outside its records, the kernels and their loaders nobody asks which it is."""

import ast
import re
from pathlib import Path

import pytest

from inkstone.loaders.arch.family import FAMILIES
from inkstone.loaders.arch.variant import VARIANTS
from inkstone.loaders.models.architecture import ARCHITECTURES

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("nodes", "pipeline", "sampling", "headless", "host", "controlnet", "quant", "files")
# records that a comparison may not name: their objects, and the words in them
RECORDS = {"QWEN_IMAGE", "QWEN_IMAGE_21", "QWEN25_VL", "QWEN3_VL"}
WORDS = {*FAMILIES, *ARCHITECTURES, "2.1", "2.1-turbo"} - {"inkstone-embedded"}
NETWORKS = {"MMDiT", "SingleStream", "ResidualVAE", "DeepVisionTower"}


def _asked(tree: ast.AST) -> list[str]:
    """Comparisons with a family, and isinstance of a family's network."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for side in sides:
                for part in ast.walk(side):
                    named = isinstance(part, ast.Name) and part.id in RECORDS
                    spelled = isinstance(part, ast.Constant) and part.value in WORDS
                    asks = any(re.search(r"family|variant", ast.unparse(s)) for s in sides)
                    if named or (spelled and asks):
                        found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            kinds = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if kinds & NETWORKS:
                found.append(ast.unparse(node))
    return found


def _files() -> list[Path]:
    return sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_asks_which_family_it_is(room):
    faults = {}
    for file in (ROOT / room).rglob("*.py"):
        asked = _asked(ast.parse(file.read_text("utf-8")))
        if asked:
            faults[file.relative_to(ROOT).as_posix()] = asked
    assert not faults, "make it a field of the family's record (loaders/arch/family.py)"


@pytest.mark.parametrize(
    "line",
    [
        "x = model.family.name == 'qwen-image-2.1'",
        "if family is QWEN_IMAGE_21: pass",
        "y = 1 if model.variant.name in ('2.1', 'other') else 2",
        "z = isinstance(model.network, SingleStream)",
    ],
)
def test_a_question_is_found(line):
    assert _asked(ast.parse(line))


def test_every_record_is_whole():
    """What a third family has to say, all of it is said by each."""
    for family in FAMILIES.values():
        assert family.network in ARCHITECTURES, family.name
        assert len(family.latent_mean) == len(family.latent_std) == family.latents.channels
        own = [v for v in VARIANTS.values() if v.family == family.name]
        assert own, f"{family.name} has no variant"
        kinds = {edit.name for edit in family.edits}
        assert {v.edit for v in own} - {None} <= kinds, family.name
        assert family.preset.size[0] % family.latents.step == 0, family.name
