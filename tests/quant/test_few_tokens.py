"""The second form of packed weights for products of few tokens."""

from __future__ import annotations

import pytest
import torch

from inkstone.kernels.few_tokens import FewTokenForms, few_tokens_reason
from inkstone.kernels.linear import FEW, Linear
from inkstone.quant.few_tokens import SMALL, few_token_form, form_bytes
from inkstone.quant.few_tokens import TYPES as PLANES
from inkstone.quant.gguf_quantizer import ENCODE, quantize_rows
from inkstone.quant.gguf_storage import GGUFStorage
from inkstone.quant.gguf_types import TYPES
from inkstone.quant.storage import PackedWeight, PlainStorage

from ..support.oracle import measured, relative

REASON = few_tokens_reason(torch.device("cpu"), torch.bfloat16)
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


def kind_of(name: str):
    return next(kind for kind in TYPES.values() if kind.name == name)


def storage_of(name: str, rows: int, columns: int) -> GGUFStorage:
    kind = kind_of(name)
    if name in ENCODE:
        torch.manual_seed(2)
        raw = quantize_rows(torch.randn(rows, columns) * 0.02, kind)
    else:  # no encoder: any bytes, with scales of 0.01
        raw = torch.randint(0, 256, (rows * columns // kind.block, kind.bytes)).to(torch.uint8)
        for at in kind.scales:
            raw[:, at : at + 2] = torch.tensor([0.01], dtype=torch.float16).view(torch.uint8)
        raw = raw.view(rows, -1)
    return GGUFStorage(raw, kind, (rows, columns))


def packed(storage) -> PackedWeight:
    return PackedWeight("w", storage.shape, storage.format, storage.nbytes, ("w",), lambda: storage)


@pytest.mark.parametrize("rows, columns", [(64, 256), (1104, 512), (2128, 256)])
@pytest.mark.parametrize("name", [*PLANES, *SMALL, "Q2_K"])
def test_products_of_few_tokens(name, rows, columns):
    """As near to the exact product as weights that are rounded to bfloat16, or nearly so."""
    storage = storage_of(name, rows, columns)
    form = few_token_form(lambda: storage)
    assert form.nbytes == form_bytes(packed(storage))
    x = torch.randn(3, columns).bfloat16()
    exact = x.double() @ storage.dequantize().double().T
    usual = x.float() @ storage.dequantize(torch.bfloat16).float().T
    error = measured(form.product(x), exact)
    floor = relative(usual.bfloat16(), exact)
    assert error < 3 * floor < 0.02, f"{error:.1e} against {floor:.1e}"


def test_other_formats_become_bfloat16():
    weight = PlainStorage((torch.randn(48, 96) * 0.1).to(torch.float8_e4m3fn))
    form = few_token_form(lambda: weight)
    x = torch.randn(1, 96).bfloat16()
    want = x.float() @ weight.dequantize().T
    assert relative(form.product(x), want) < 5e-3
    assert form.nbytes == form_bytes(packed(weight)) == 2 * 48 * 96


def test_layers_use_it_for_few_tokens_only():
    layer = Linear(256, 64)
    layer.weight.data = torch.randn(64, 256) * 0.1
    layer = layer.bfloat16()
    plain = layer.weight.detach().clone()
    layer.hold(PlainStorage(plain))
    forms = FewTokenForms({"a": layer})
    with torch.inference_mode():
        forms.forms[0].hold(few_token_form(lambda: PlainStorage(torch.zeros_like(plain))))
        x = torch.randn(1, FEW + 1, 256).bfloat16()
        want = layer(x)
        with forms.used():
            assert torch.equal(layer(x), want), "many tokens go the usual way"
            few = layer(x[:, :FEW])
            assert torch.equal(few, layer.bias.expand_as(few)), "few tokens: zeros and the bias"
        assert torch.equal(layer(x[:, :FEW]), want[:, :FEW])
        forms.forms[0].hold(None)
        with forms.used():
            assert torch.equal(layer(x[:, :FEW]), want[:, :FEW]), "a form that is not in memory"
