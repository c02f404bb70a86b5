"""The lineart generator against a restatement of the published network, on random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inkstone.controlnet.preprocess import lineart_net
from inkstone.controlnet.preprocess.kinds import preprocess
from inkstone.errors import InkstoneError

from ..support.locked import picture
from ..support.oracle import save_file


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        norm = nn.InstanceNorm2d
        half = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), norm(c)]
        other = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), norm(c)]
        self.conv_block = nn.Sequential(*half, nn.ReLU(), *other)

    def forward(self, x):
        return x + self.conv_block(x)


class Generator(nn.Module):
    """As published: five sequences of modules."""

    def __init__(self):
        super().__init__()
        norm, relu = nn.InstanceNorm2d, nn.ReLU
        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 64, 7), norm(64), relu())
        down = [nn.Conv2d(64, 128, 3, 2, 1), norm(128), relu()]
        self.model1 = nn.Sequential(*down, nn.Conv2d(128, 256, 3, 2, 1), norm(256), relu())
        self.model2 = nn.Sequential(*(Residual(256) for _ in range(3)))
        up = [nn.ConvTranspose2d(256, 128, 3, 2, 1, 1), norm(128), relu()]
        self.model3 = nn.Sequential(*up, nn.ConvTranspose2d(128, 64, 3, 2, 1, 1), norm(64), relu())
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(64, 1, 7), nn.Sigmoid())

    def forward(self, x):
        return self.model4(self.model3(self.model2(self.model1(self.model0(x)))))


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    torch.manual_seed(0)
    model = Generator().eval()
    file = tmp_path_factory.mktemp("lineart") / "sk_model.safetensors"
    save_file(model.state_dict(), file)
    return model, file


def test_the_map_is_the_networks_negative(generator):
    model, file = generator
    assert sum(x.numel() for x in model.parameters()) == 4_290_945, "the published count"
    x = picture(64, 48)
    with torch.no_grad():
        theirs = 1 - model(x.movedim(-1, 1))[:, 0]
    ours = lineart_net.lineart_net(x, str(file))
    worst = float((ours - theirs).abs().max())
    print(f"lineart generator: largest difference {worst:.1e}")
    assert worst < 1e-5 and theirs.std() > 1e-3, (worst, float(theirs.std()))
    made = preprocess("lineart", x, {"model": str(file)})
    assert float((made[..., 0] - ours).abs().max()) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (33, 18)])
def test_any_size_and_batches(generator, size):
    x = torch.cat([picture(*size), picture(*size).flip(2) * 0.5])
    made = preprocess("lineart", x, {"model": str(generator[1])})
    assert made.shape == (2, size[1], size[0], 3) and made.isfinite().all()
    assert torch.equal(made[1:], preprocess("lineart", x[1:], {"model": str(generator[1])}))


def test_other_spellings_and_files(generator, tmp_path):
    model, file = generator
    prefixed = {f"module.{n}": x for n, x in model.state_dict().items()}
    save_file(prefixed, tmp_path / "wrapped.safetensors")
    x = picture(16, 16)
    same = preprocess("lineart", x, {"model": str(tmp_path / "wrapped.safetensors")})
    assert torch.equal(same, preprocess("lineart", x, {"model": str(file)}))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "sk_model.pth").write_bytes(b"x")
    cases = (
        ("other.safetensors", "not a lineart generator"),
        ("sk_model.pth", "weights_only=True"),
    )
    for name, words in cases:
        with pytest.raises(InkstoneError) as error:
            preprocess("lineart", x, {"model": str(tmp_path / name)})
        assert words in str(error.value), error.value
