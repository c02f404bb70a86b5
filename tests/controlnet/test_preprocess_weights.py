"""Files of preprocessor networks: every number of them is finite."""

import pytest
import torch

from inkstone.controlnet.preprocess.weights import read_network
from inkstone.errors import InkstoneError
from inkstone.loaders.formats.safetensors import save_safetensors


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_not_finite_is_named(value, dtype, tmp_path):
    path = tmp_path / "net.safetensors"
    weight = torch.ones(3, 3, dtype=dtype)
    weight[1, 2] = value
    save_safetensors(path, {"a.weight": torch.ones(2), "b.weight": weight})
    with pytest.raises(InkstoneError, match="net.safetensors: tensor b.weight: 1 of 9 values"):
        read_network(str(path), "a network")
