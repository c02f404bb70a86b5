"""Training steps against diffusers' networks with peft's LoRA and torch's AdamW: the same noise and
timesteps give the same losses and the same weights.
"""

import pytest
import torch
import torch.nn.functional as F

from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.training.dataset.example import Example
from inkstone.training.lora.adapter import Adapter, AdapterSettings
from inkstone.training.lora.objective import Draws, Objective, noise_of, weight_of
from inkstone.training.lora.step import Trainer

from ...support.oracle import fill, library, measured
from ...support.single_stream import CONFIG as SINGLE
from ...support.single_stream import reference_network, trained_velocity

peft = pytest.importorskip("peft", reason="the reference for LoRA training")

STEPS = 5
RATE = 1e-3
PLAIN = Objective()


def first_family(**options):
    """diffusers' network with random weights."""
    diffusers = library("diffusers")
    torch.manual_seed(11)
    return fill(
        diffusers.QwenImageTransformer2DModel(
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            axes_dims_rope=(4, 6, 6),
            **options,
        )
    )


def opened(ref, folder, variant=None):
    """The network in a folder of its own, loaded in float32."""
    ref.save_pretrained(folder / "transformer")
    options = LoadOptions(torch.float32, variant=variant)
    return load_diffusion_model(folder / "transformer", options)


def examples(count, references=(), joint=24, channels=64, masked=False):
    """Random examples of one bucket with texts of different lengths."""
    g = torch.Generator().manual_seed(21)
    grids = ((1, 4, 6), *references)
    tokens = [h * w for _, h, w in grids]
    made = []
    for i in range(count):
        slots = tuple(2 + 3 * j for j in range(len(references)))
        made.append(
            Example(
                name=f"{i}.png",
                latents=torch.randn(24, channels, generator=g),
                grids=grids,
                text=torch.randn(9 + 2 * i, joint, generator=g),
                dropped=torch.randn(8, joint, generator=g),
                references=torch.randn(sum(tokens[1:]), channels, generator=g)
                if references
                else None,
                slots=slots,
                dropped_slots=slots,
                weight=torch.rand(24, generator=g) if masked else None,
            )
        )
    return made


def draws(step, count, dropped=()):
    """Noise levels and seeds of one step."""
    g = torch.Generator().manual_seed(100 + step)
    levels = torch.rand(count, generator=g)
    return [
        Draws(sigma=levels[i].item(), noise=1000 * step + i, dropped=i in dropped)
        for i in range(count)
    ]


def their_velocity(ref, example, x, text, sigma):
    """The velocity [S,C] by diffusers' first network."""
    img = x if example.references is None else torch.cat([x, example.references])
    return ref(
        img[None],
        encoder_hidden_states=text[None],
        timestep=torch.tensor([sigma]),
        img_shapes=[list(example.grids)],
    ).sample[0, : len(x)]


def their_layered_velocity(ref, example, x, text, sigma):
    """The same of a layered network: images that are drawn, then the one that is split."""
    return ref(
        torch.cat([x, example.references])[None],
        encoder_hidden_states=text[None],
        timestep=torch.tensor([sigma]),
        img_shapes=[list(example.grids)],
        additional_t_cond=torch.tensor([0]),
    ).sample[0, : len(x)]


def their_single_velocity(ref, example, x, text, sigma):
    """The same of the network of 2.1."""
    from inkstone.kernels.forward import Inputs
    from inkstone.kernels.references import ReferenceContext, References

    inputs = Inputs(
        img=x[None],
        txt=text[None],
        modulation=None,
        grids=example.grids,
        references=ReferenceContext(References(example.references[None]))
        if example.references is not None
        else ReferenceContext(),
        slots=example.slots,
    )
    return trained_velocity(ref, inputs, torch.tensor([sigma]))[0]


def their_loss(velocity, ref, example, draw, objective):
    """Rectified flow, restated."""
    noise = noise_of(example, draw)
    x = (1 - draw.sigma) * example.latents + draw.sigma * noise
    text = example.dropped if draw.dropped else example.text
    got = velocity(ref, example, x, text, draw.sigma)
    error = F.mse_loss(got, noise - example.latents, reduction="none").mean(1)
    share = torch.ones(len(error)) if example.weight is None else example.weight
    return weight_of(objective, draw.sigma) * (error * share).sum() / share.sum()


def paired(model, ref, settings, **options):
    """Our adapter, and peft's with the same first weights."""
    adapter = Adapter.create(model.network, settings)
    adapter.start(model.read)
    alpha = settings.rank if settings.alpha is None else settings.alpha
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=alpha, target_modules=list(adapter.names), **options
    )
    ref.requires_grad_(False)
    ref.add_adapter(config)
    theirs = {n: p for n, p in ref.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, value in adapter.tensors().items():
            value.add_(torch.randn(value.shape) * 0.05)
            theirs[their_name(name)].copy_(value)
    return adapter, theirs


def their_name(name):
    layer, _, part = name.rpartition(".")
    if part == "magnitude":
        return f"{layer}.lora_magnitude_vector.default.weight"
    return f"{layer}.{part}.default.weight"


def compare(model, ref, adapter, theirs, batches, velocity, objective=PLAIN):
    """Five steps of both; the worst relative error of losses and weights. batches: examples of each
    micro-batch."""
    trainer = Trainer(model, adapter, objective)
    own = dict(weight_decay=0.01, lr=RATE)
    ours_opt = torch.optim.AdamW(adapter.parameters(), **own)
    trained = [theirs[their_name(n)] for n in adapter.tensors()]
    their_opt = torch.optim.AdamW(trained, **own)
    losses = []
    for step in range(STEPS):
        every = [draws(step * 10 + micro, len(batch)) for micro, batch in enumerate(batches)]
        trainer.look_ahead([draw for some in every for draw in some])
        count = sum(map(len, batches))
        for batch, some in zip(batches, every):
            got = trainer.backward(batch, some, 1 / count)
            want = [
                their_loss(velocity, ref, example, draw, objective)
                for example, draw in zip(batch, some)
            ]
            (torch.stack(want).sum() / count).backward()
            losses.append(measured(torch.tensor(got), torch.stack(want).detach()))
        for optimizer in (ours_opt, their_opt):
            optimizer.step()
            optimizer.zero_grad()
    weights = [
        measured(value, theirs[their_name(name)].detach())
        for name, value in adapter.tensors().items()
    ]
    assert max(losses) <= 1e-4, f"worst loss {max(losses):.1e}"
    assert max(weights) <= 1e-4, f"worst weight {max(weights):.1e}"


CASES = {
    "one": ([1], {}),
    "three": ([3], {}),
    "accumulated": ([2, 1, 2], {}),
    "masked": ([2], dict(masked=True)),
    "edit": ([1], dict(references=((1, 3, 5),))),
    "edit, three references": ([3], dict(references=((1, 3, 5), (1, 4, 4), (1, 2, 7)))),
}


def batches_of(sizes, options, **more):
    made = iter(examples(sum(sizes), **options, **more))
    return [[next(made) for _ in range(size)] for size in sizes]


@pytest.mark.parametrize("case", CASES)
def test_five_steps(case, tmp_path):
    ref = first_family()
    model = opened(ref, tmp_path)
    adapter, theirs = paired(model, ref, AdapterSettings(rank=4, alpha=6))
    sizes, options = CASES[case]
    compare(model, ref, adapter, theirs, batches_of(sizes, options), their_velocity)


def test_edit_2511_whose_references_have_a_time_of_their_own(tmp_path):
    ref = first_family(zero_cond_t=True)
    model = opened(ref, tmp_path, variant="edit-2511")
    assert model.apart
    adapter, theirs = paired(model, ref, AdapterSettings(rank=4))
    batches = batches_of([2], dict(references=((1, 3, 5), (1, 2, 2))))
    compare(model, ref, adapter, theirs, batches, their_velocity)


@pytest.mark.parametrize("layers", [1, 3])
def test_layers_of_a_picture(layers, tmp_path):
    """The picture is drawn too, before its layers, and stands behind them as their condition."""
    ref = first_family(use_additional_t_cond=True, use_layer3d_rope=True)
    model = opened(ref, tmp_path)
    assert model.layered
    adapter, theirs = paired(model, ref, AdapterSettings(rank=4, alpha=6))
    g, grid = torch.Generator().manual_seed(31), (1, 4, 6)
    drawn, made = 1 + layers, []
    for n in range(3):
        latents = torch.randn(24 * drawn, 64, generator=g)
        made.append(
            Example(
                name=f"{n}.png",
                latents=latents,
                grids=(grid,) * (drawn + 1),
                text=torch.randn(9 + 2 * n, 24, generator=g),
                dropped=torch.randn(8, 24, generator=g),
                drawn=drawn,
                references=latents[:24],
                weight=torch.rand(24, generator=g).repeat(drawn) if n else None,
            )
        )
    compare(model, ref, adapter, theirs, [made[:1], made[1:]], their_layered_velocity)


@pytest.mark.parametrize("references", [(), ((1, 4, 6),), ((1, 4, 4), (1, 2, 6))])
def test_the_second_family(references, tmp_path):
    ref = reference_network(SINGLE)
    model = opened(ref, tmp_path)
    adapter, theirs = paired(model, ref, AdapterSettings(rank=4, alpha=2))
    options = dict(references=references, joint=SINGLE.joint, channels=SINGLE.channels)
    compare(model, ref, adapter, theirs, batches_of([3], options), their_single_velocity)


def test_dora(tmp_path):
    ref = first_family()
    model = opened(ref, tmp_path)
    settings = AdapterSettings(kind="dora", rank=4, alpha=6)
    adapter, theirs = paired(model, ref, settings, use_dora=True)
    compare(model, ref, adapter, theirs, batches_of([2], {}), their_velocity)


@pytest.mark.parametrize("weighting", ["sigma-sqrt", "cosmap"])
def test_weighted_losses(weighting, tmp_path):
    ref = first_family()
    model = opened(ref, tmp_path)
    adapter, theirs = paired(model, ref, AdapterSettings(rank=2))
    batches, objective = batches_of([1], {}), Objective(weighting=weighting)
    compare(model, ref, adapter, theirs, batches, their_velocity, objective)
