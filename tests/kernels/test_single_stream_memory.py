"""Memory of Qwen-Image-2.1: what a plan counts against the bytes that torch allocates."""

from __future__ import annotations

import pytest
import torch

from inkstone.kernels import rope
from inkstone.kernels.configs import SingleStreamConfig
from inkstone.kernels.forward import ForwardSize, Inputs
from inkstone.kernels.linear import UNPACKED
from inkstone.kernels.prefix_store import PrefixStore
from inkstone.kernels.references import ReferenceContext, References
from inkstone.kernels.shared_modulation import SharedModulation
from inkstone.kernels.single_stream import SingleStream
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise

from ..support import single_stream_files
from ..support.allocated import allocated

CONFIG = SingleStreamConfig(2, 2, 128, 64, 48, 768, (16, 56, 56))
TARGET, REFERENCE, TEXT = (1, 32, 32), (1, 30, 34), 60


@pytest.fixture(autouse=True)
def one_thread():
    """What other threads allocate is not seen."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CHUNKS = 4 * 4 << 17  # of loops that stay in a processor's cache: of the same size at every width


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [True, False], ids=["store", "no-store"])
@pytest.mark.parametrize("references, batch, rows", [(0, 1, 1), (1, 2, 1), (2, 1, 1), (1, 2, 2)])
def test_a_forward(references, batch, rows, stored, dtype):
    """Text and references of all rows count once where all rows have the same."""
    width, tokens = CONFIG.width, references * 30 * 34
    network = SingleStream(CONFIG).to(dtype).eval()
    still = torch.randn(2, 4, width).split(1)
    mod = SharedModulation(*still, torch.randn(1, 1, width))
    text = torch.randn(rows, TEXT, CONFIG.joint, dtype=dtype).expand(batch, -1, -1)
    store = PrefixStore(CONFIG.layers) if stored else None
    clean = torch.randn(1, tokens, CONFIG.channels, dtype=dtype)
    inputs = Inputs(
        torch.randn(batch, 32 * 32, CONFIG.channels, dtype=dtype),
        text,
        mod,
        [TARGET] + [REFERENCE] * references,
        references=ReferenceContext(References(clean) if references else None),
        slots=tuple(4 + 5 * n for n in range(references)),
        prefix=store,
    )
    rope._sequence_tables.cache_clear()
    with torch.inference_mode():
        used = allocated(lambda: network(inputs))
    used -= (store.nbytes if store else 0) + tokens * width * 4  # what is counted elsewhere
    size = ForwardSize(32 * 32, TEXT + tokens, batch, rows, stored)
    planned = network.activation_bytes(size, dtype) - UNPACKED * dtype.itemsize
    assert used <= planned + CHUNKS, f"{used} bytes, planned {planned}"
    assert planned <= 1.05 * used, f"{used} bytes, planned {planned}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("single-stream") / "model.safetensors"
    save_safetensors(path, single_stream_files.weights(config=CONFIG))
    return load_diffusion_model(path, LoadOptions(torch.float32))


@pytest.mark.parametrize("keep", ["device", "off"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_run(model, batch, keep):
    """One prompt and two references for all pictures of a batch."""
    own = model.with_prefix_kept(keep)
    pictures = tuple(torch.randn(1, *own.latents.shape(480, 544)) for _ in range(2))
    text = torch.randn(1, TEXT, CONFIG.joint)
    sigmas = torch.tensor([1.0, 0.0])
    request = Request(512, 512, sigmas, batch=batch, references=pictures, slots=(4, 9))
    planned = working_bytes(own, request, {"positive": text}) - UNPACKED * 4
    rope._sequence_tables.cache_clear()
    model.prefix_stores([], "off")
    used = allocated(lambda: denoise(own, text, None, request))
    latents = 2 * (2 * 30 * 34 + batch * 32 * 32) * 64 * 4  # a 64th of a stream of the real model
    assert used <= planned + CHUNKS + latents, f"{used} bytes, planned {planned}"
    assert planned <= 1.05 * used, f"{used} bytes, planned {planned}"
