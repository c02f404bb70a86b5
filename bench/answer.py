"""Seconds per token of an answer: ours and llama.cpp on the same file, and the floor.

Writes once, into --folder, Qwen2.5-VL-7B files of full width and few layers (Q4_K, Q6_K for v, down
and the output head, as the usual Q4_K_M) of valid random blocks, and measures single tokens with
two numbers of layers: the difference is the time of a layer, and 28 of them with the rest that of
the whole model, which is what the table shows. `ours packed` is without the form for single tokens
(no room for it). The floor is the bytes of the weights by the measured speed of the memory.

pip install xllamacpp  # llama.cpp compiled, for the side of that name
python bench/answer.py --folder /tmp/inkstone-answer
python bench/answer.py --folder /tmp/inkstone-answer --threads 1 --cpu  # while others work
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from bench.full_size_files import BLOCKS, gguf_text_name, text_type, vocabulary, write_gguf
from inkstone.kernels.configs import TextConfig
from inkstone.loaders.formats.gguf_writer import Value

LAYERS = 28
PROMPT = "<|im_start|>user\nab ab ab<|im_end|>\n<|im_start|>assistant\n"


def kind(name: str, shape: tuple[int, ...]) -> str:
    """The published mix of Q4_K_M."""
    return "Q6_K" if name == "output.weight" else text_type(name, shape)


def file_of(folder: Path, layers: int) -> Path:
    """The file with this many layers, written where it is not there yet."""
    from inkstone.loaders.arch import expected_tensors

    path = folder / f"qwen2.5-vl-7b-{layers}-layers-Q4_K_M.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        config = TextConfig(layers=layers)
        ours = expected_tensors.text_layout(config, lm_head=True)
        named = {gguf_text_name(name): shape for name, shape in ours.items()}
        write_gguf(path, "qwen2vl", named, kind, _header(config))
    return path


def _header(config: TextConfig) -> dict[str, Value]:
    """What llama.cpp reads; ours needs none of it but the tokenizer."""
    return {
        "qwen2vl.context_length": 4096,
        "qwen2vl.embedding_length": config.width,
        "qwen2vl.block_count": config.layers,
        "qwen2vl.feed_forward_length": config.ff,
        "qwen2vl.attention.head_count": config.heads,
        "qwen2vl.attention.head_count_kv": config.kv_heads,
        "qwen2vl.attention.layer_norm_rms_epsilon": config.eps,
        "qwen2vl.rope.freq_base": config.theta,
        "qwen2vl.rope.dimension_sections": [16, 24, 24, 0],
        **vocabulary(),
    }


def scaled(one: Callable[[Path], float], args: argparse.Namespace) -> float:
    """Seconds per token of the whole model, from those of two numbers of layers."""
    few, more = (int(n) for n in args.layers.split(","))
    short, long = (one(file_of(args.folder, n)) for n in (few, more))
    return common.of_all_layers((short, long), (few, more), LAYERS)


def _clock(args: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if args.cpu else time.perf_counter


def _ours(forms: bool) -> harness.Prepare:
    def prepare(args: argparse.Namespace) -> harness.Work:
        return lambda: scaled(lambda path: _one_of_ours(path, args, forms), args)

    return prepare


def _one_of_ours(path: Path, args: argparse.Namespace, forms: bool) -> float:
    import torch

    from inkstone.kernels.interrupt import listen
    from inkstone.loaders.models import generation
    from inkstone.loaders.models.load import load_text_encoder
    from inkstone.loaders.models.weight_file import LoadOptions
    from inkstone.sampling.next_token import Decoding

    tokens, clock = args.tokens, _clock(args)
    generation.STOPS, generation._WORTH = (), 0  # random weights may stop at once
    model = load_text_encoder(path, LoadOptions(torch.bfloat16))
    if not forms:
        model.forms = None
        model.head._model = replace(model.head.open(), forms=None)
    prompt = generation.TextPrompt(PROMPT)
    generation.generate(model, [prompt], Decoding(max_tokens=2))  # reads the weights
    marks: list[float] = []
    listen(lambda task, *_: marks.append(clock()) if task == "tokens" else None)
    generation.generate(model, [prompt], Decoding(max_tokens=tokens + 1))
    listen(None)
    return min(b - a for a, b in zip(marks[1:], marks[2:]))  # the first also reads the prompt


def llama_cpp(args: argparse.Namespace) -> harness.Work:
    """llama.cpp through xllamacpp, whose wheel brings it compiled for AVX2; greedy, one slot."""
    import xllamacpp

    clock = _clock(args)

    def one(path: Path) -> float:
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = str(path), 512, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
        params.verbosity = 0
        marks: list[float] = []
        call = {"prompt": list(range(1, 17)), "n_predict": args.tokens + 2, "stream": True}
        greedy = {"temperature": 0, "samplers": ["temperature"], "ignore_eos": True}
        xllamacpp.Server(params).handle_completions(
            {**call, **greedy}, lambda _: marks.append(clock())
        )
        if len(marks) <= args.tokens:
            raise SystemExit(f"llama.cpp gave {len(marks)} tokens of {args.tokens + 2}.")
        pairs = list(zip(marks, marks[1:]))
        return min(
            b - a for a, b in pairs[1:-2]
        )  # the first reads the prompt, the last says "done"

    return lambda: scaled(one, args)


def floor(args: argparse.Namespace) -> harness.Work:
    """The bytes of all weights but the embeddings, by the speed at which this memory is read."""
    import torch

    from inkstone.kernels.configs import TextConfig
    from inkstone.loaders.arch import expected_tensors

    layout = expected_tensors.text_layout(TextConfig(), lm_head=True)
    sizes = [(kind(gguf_text_name(n), s), torch.Size(s).numel()) for n, s in layout.items()]
    sizes = [size for name, size in zip(layout, sizes) if name != "embed_tokens.weight"]
    nbytes = sum(n // 256 * BLOCKS[k][0] if k in BLOCKS else 4 * n for k, n in sizes)
    data, clock = torch.ones(1 << 28), _clock(args)

    def work() -> float:
        start = clock()
        data.sum()
        return (clock() - start) * nbytes / (4 * data.numel())

    return work


BENCH = harness.Bench(
    title="Seconds per token, Qwen2.5-VL-7B Q4_K_M (scaled from few layers)",
    sides={
        "ours": _ours(True),
        "ours packed": _ours(False),
        "llama.cpp": llama_cpp,
        "floor": floor,
    },
    peer="llama.cpp",
    floor="floor",
)


def main() -> None:
    p = harness.parser(__doc__ or "")
    p.add_argument("--folder", type=Path, required=True, help="where 2.6 GB of files are kept")
    p.add_argument("--layers", default="2,6", help="the two numbers of layers that are measured")
    p.add_argument("--tokens", type=int, default=8, help="that each time is the best of")
    p.add_argument("--cpu", action="store_true", help="time of the processor, with --threads 1")
    args = p.parse_args()
    if not args.one_side:
        for layers in args.layers.split(","):
            file_of(args.folder, int(layers))
    harness.main(BENCH, args)


if __name__ == "__main__":
    main()
