"""Memory estimates of the answers in a graph: prompts that are enhanced, questions about pictures.

As those of drawings (memory_estimate.py), from the graph and file headers alone. A text that a node
writes is planned as a short one, a picture of unknown size at the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ...errors import InkstoneError
from ...files.images import glance
from ...loaders.models.text_encoder import TextEncoderModel
from ...nodes.ask import AskPicture
from ...nodes.enhance import EnhancePrompt
from ...nodes.find import FindInPicture
from ...nodes.sockets import GROWN
from ...pipeline.answer_stages import PlannedAnswer
from ...pipeline.ask import question_of
from ...pipeline.ask_choices import MOST_PIXELS
from ...pipeline.enhance import EnhanceRequest, planned
from ...pipeline.find import question_for
from ...sampling.next_token_limits import MOST_TOKENS
from ..core_nodes.load_save import LoadFirstFrame, picture_path
from ..graph.api_graph import Graph, Link, Node

_LOADERS = ("LoadImage", LoadFirstFrame.ID)
_UNKNOWN = "a picture"  # in place of a text that is not known before the run


def prompt_writer(graph: Graph, encode: Node | None) -> Node | None:
    """The node that writes the prompt of a node that encodes one; None where nothing does."""
    node = None if encode is None else source(graph, encode, "prompt")
    return node if node is not None and node.class_type == EnhancePrompt.ID else None


def planned_answer(
    graph: Graph, node: Node | None, text: TextEncoderModel | None
) -> PlannedAnswer | None:
    """The answer that a node asks for; None of any other node, and of a prompt that is written
    already. Raises InkstoneError for what the node refuses.
    """
    kind = None if node is None or text is None else _KINDS.get(node.class_type)
    return None if kind is None or node is None or text is None else kind(graph, node, text)


def _enhanced(graph: Graph, node: Node, text: TextEncoderModel) -> PlannedAnswer | None:
    if _text(node, "enhanced", ""):
        return None
    request = EnhanceRequest(
        prompt=_text(node, "prompt"),
        pictures=[torch.empty(h, w, 3, device="meta") for w, h in _pictures(graph, node, text)],
        instructions=_text(node, "instructions", ""),
    )
    return planned(text, request)


def _asked(graph: Graph, node: Node, text: TextEncoderModel) -> PlannedAnswer:
    caption, words = node.inputs.get("caption"), node.inputs.get("question")
    known = isinstance(caption, str) and isinstance(words, str)
    return _question(
        graph, node, text, question_of(str(caption), str(words), text.family) if known else _UNKNOWN
    )


def _sought(graph: Graph, node: Node, text: TextEncoderModel) -> PlannedAnswer:
    return _question(graph, node, text, question_for(_text(node, "what"), text.family))


def _question(graph: Graph, node: Node, text: TextEncoderModel, question: str) -> PlannedAnswer:
    most = node.inputs.get("max_tokens")
    most = most if isinstance(most, int) else MOST_TOKENS
    return PlannedAnswer(text, question, _pictures(graph, node, text), MOST_PIXELS, most)


_KINDS: Mapping[str, Callable[[Graph, Node, TextEncoderModel], PlannedAnswer | None]] = {
    EnhancePrompt.ID: _enhanced,
    AskPicture.ID: _asked,
    FindInPicture.ID: _sought,
}


def source(graph: Graph, node: Node, name: str) -> Node | None:
    """The node that an input is linked to."""
    link = node.inputs.get(name)
    return graph.get(link.node) if isinstance(link, Link) else None


def picture_size(file: str) -> tuple[int, int] | None:
    """Width and height of an input picture; None if it cannot be read."""
    try:
        return glance(picture_path(file)).size
    except InkstoneError:
        return None


def _text(node: Node, name: str, unknown: str = _UNKNOWN) -> str:
    """The text of a widget; `unknown` where another node writes it."""
    value = node.inputs.get(name)
    return value.strip() if isinstance(value, str) else unknown


def _pictures(graph: Graph, node: Node, text: TextEncoderModel) -> Sequence[tuple[int, int]]:
    """Width and height of each picture of a node."""
    names = [name for name in node.inputs if name == "image" or name.startswith(f"{GROWN}.")]
    makers = (source(graph, node, name) for name in names)
    return [_size(maker) or text.family.preset.size for maker in makers if maker is not None]


def _size(maker: Node) -> tuple[int, int] | None:
    file = str(maker.inputs.get("image")).removesuffix(" [input]")
    return picture_size(file) if maker.class_type in _LOADERS else None
