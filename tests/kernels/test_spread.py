"""Pieces of work on threads: each once, errors and stops reach the caller, nothing runs on."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from inkstone.host.headless import Interrupted
from inkstone.kernels import interrupt
from inkstone.kernels.adaln import over_tokens
from inkstone.kernels.attention import attention
from inkstone.kernels.linear import Linear, packed_product
from inkstone.kernels.spread import Buffers, apart, spread, threads
from inkstone.quant.storage import PlainStorage


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_each_piece_once(count):
    done = []
    spread(done.append, count)
    assert sorted(done) == list(range(count))


def test_a_slow_thread_takes_fewer():
    taken = {}

    def work(index):
        taken.setdefault(threading.get_ident(), []).append(index)
        time.sleep(0.2 if index == 0 else 0.001)

    spread(work, 60)
    assert sorted(map(len, taken.values()))[0] < 10, taken


def test_pieces_run_on_one_thread_of_torch_and_the_callers_number_stays():
    seen = set()
    spread(lambda index: seen.add((torch.get_num_threads(), torch.is_grad_enabled())), 8)
    assert seen == {(1, False)} and torch.get_num_threads() == 2
    new = []  # a thread that begins later has the caller's number too
    thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
    thread.start(), thread.join()
    assert new == [2]


def test_with_gradients_the_caller_does_it_alone():
    seen = []
    with torch.enable_grad():
        spread(lambda index: seen.append(threading.get_ident()), 4)
    assert set(seen) == {threading.get_ident()}


def test_a_piece_may_spread_again():
    done = []
    spread(lambda index: spread(lambda inner: done.append((index, inner)), 3), 4)
    assert sorted(done) == [(a, b) for a in range(4) for b in range(3)]


def test_an_error_is_raised_when_all_have_stopped():
    running = []

    def work(index):
        running.append(index)
        time.sleep(0.01)
        running.remove(index)
        if index == 3:
            raise ValueError("piece 3")

    with pytest.raises(ValueError, match="piece 3"):
        spread(work, 1000)
    assert running == []


def test_a_stop_is_raised_between_pieces():
    done = []

    def stop(*_):
        raise Interrupted("now")

    before = interrupt.listen(stop)
    try:
        with pytest.raises(Interrupted):
            spread(lambda index: (time.sleep(0.02), done.append(index)), 1000)
    finally:
        interrupt.listen(before)
    count = len(done)
    time.sleep(0.1)
    assert len(done) == count < 100


def test_inference_mode_goes_along():
    seen = []
    with torch.inference_mode():
        spread(lambda index: seen.append(torch.ones(1).is_inference()), 4)
    assert seen == [True] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    spread(lambda index: None, 4)
    child = os.fork()
    if child == 0:
        done = []
        spread(done.append, 4)
        os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
    ended = 0
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended and status == 0


def test_buffers_belong_to_one_piece_at_a_time():
    buffers = Buffers(lambda: torch.zeros(1))
    with buffers.one() as first, buffers.one() as second:
        assert first is not second
    with buffers.one() as third:
        assert third is first or third is second


@pytest.mark.parametrize("tokens", [1, 3, 700])
def test_a_packed_product_in_pieces_is_the_whole_one(tokens):
    weight, bias = torch.randn(1500, 1024).bfloat16(), torch.randn(1500)
    x = torch.randn(2, tokens, 1024)
    whole = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    got = packed_product(x, PlainStorage(weight), bias)
    error = (got - whole).abs().max() / whole.abs().max()
    assert error < 2e-6, f"maximum relative error {error}"


def test_a_layers_gelu_in_pieces():
    layer = Linear(1024, 1500)
    x, weight = torch.randn(1, 40, 1024), layer.weight.detach().bfloat16()
    layer.hold(PlainStorage(weight))
    whole = torch.nn.functional.gelu(
        torch.nn.functional.linear(x, weight.float(), layer.bias), approximate="tanh"
    )
    error = (layer.gelu(x) - whole).abs().max()
    assert error < 1e-5, f"maximum error {error}"


def test_over_tokens_meets_every_token_once():
    x = torch.zeros(2, 517, 1024)
    over_tokens(x, lambda part: x[:, part].add_(1))
    assert (x == 1).all()


def test_apart_leaves_threads_to_the_pieces_alone():
    cpu, taken = torch.device("cpu"), set()
    with pytest.raises(ValueError), apart(cpu), apart(cpu):
        assert torch.get_num_threads() == 1 and threads() == 2
        spread(lambda index: (taken.add(threading.get_ident()), time.sleep(0.05)), 4)
        raise ValueError("out of both")
    assert len(taken) == 2
    assert torch.get_num_threads() == 2 and threads() == 2


def test_apart_is_for_processors_of_few_cores():
    torch.set_num_threads(8)
    with apart(torch.device("cpu")):
        assert torch.get_num_threads() == 8
    torch.set_num_threads(2)
    with apart(torch.device("meta")):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("heads, kv_heads, length, keys", [(6, 3, 1100, 900), (1, 1, 4700, 400)])
def test_attention_in_pieces_has_the_bits_of_the_whole(heads, kv_heads, length, keys, monkeypatch):
    monkeypatch.setattr("inkstone.kernels.attention._PIECE", 1)
    q = torch.randn(2, heads, length, 64)
    k, v = (torch.randn(2, kv_heads, keys, 64) for _ in range(2))
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads)
    got = attention(q, k, v)
    assert torch.equal(got, whole), f"maximum error {(got - whole).abs().max()}"


@pytest.mark.parametrize("heads, length", [(3, 1500), (1, 1100)])
def test_bf16_attention_of_ours_in_parts_of_heads(heads, length, monkeypatch):
    monkeypatch.setattr("inkstone.kernels.attention._chunks_pay", lambda: True)
    q, k, v = (torch.randn(2, heads, length, 64).bfloat16() for _ in range(3))
    got = attention(q, k, v).float()
    torch.set_num_threads(1)
    one = attention(q, k, v).float()
    assert torch.equal(got, one), f"maximum error {(got - one).abs().max()}"
