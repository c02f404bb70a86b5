"""Our models as guests of ComfyUI's memory manager: a manager of the same rules, in 40 lines."""

from __future__ import annotations

import sys
import types
import weakref

import pytest
import torch

from inkstone.host import headless, memory
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions

MB = 1_000_000


class Loaded:
    """As the manager's list holds a model: weakly."""

    def __init__(self, model):
        self._model, self.device = weakref.ref(model), model.load_device
        self.real_model = self.model_finalizer = None

    @property
    def model(self):
        return self._model()

    def __eq__(self, other):
        return self.model is other.model


class Manager(types.ModuleType):
    """free_memory as ComfyUI has it: models leave until there is room, those kept do not."""

    def __init__(self, free):
        super().__init__("comfy.model_management")
        self.current_loaded_models, self.free, self.asked = [], free, []
        self.LoadedModel, self.vram_state = Loaded, types.SimpleNamespace(name="NORMAL_VRAM")
        self.extra_reserved_memory = lambda: 3 * MB
        self.throw_exception_if_processing_interrupted = lambda: None

    def cleanup_models(self):
        alive = [e for e in self.current_loaded_models if e.real_model() is not None]
        self.current_loaded_models[:] = alive

    def get_free_memory(self, device):
        return self.free

    def free_memory(self, need, device, keep_loaded=()):
        self.asked.append(need)
        for entry in list(self.current_loaded_models):
            if entry.device != device or entry in keep_loaded or self.free > need:
                continue
            self.free += entry.model.loaded_size()
            entry.model.detach(True)
            entry.model_finalizer.detach()
            self.current_loaded_models.remove(entry)


@pytest.fixture
def manager(monkeypatch):
    made, comfy, args = Manager(4000 * MB), types.ModuleType("comfy"), types.SimpleNamespace()
    comfy.model_management, made.args = made, args
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", made)
    monkeypatch.setitem(sys.modules, "comfy.cli_args", types.SimpleNamespace(args=args))
    monkeypatch.setattr(headless, "IN_COMFYUI", True)
    monkeypatch.setattr(memory, "memory_limit", lambda: None)
    return made


def opened():
    return load_all(None, LoadOptions(None, "cpu", wait=True, free=memory.make_room))


def networks(manager):
    return [e.model.model for e in manager.current_loaded_models]


@pytest.mark.slow
def test_a_model_that_works_is_a_guest_and_leaves_when_asked(manager):
    bundle = opened()
    bundle.text_encoder.weights.settle()
    bundle.model.weights.settle()
    bundle.model.weights.fill()
    assert bundle.model.network in networks(manager)
    assert bundle.text_encoder.network in networks(manager)
    held = bundle.model.weights.reserved
    assert held and manager.asked[-1] >= held - bundle.text_encoder.weights.reserved
    manager.free = 0
    manager.free_memory(1e30, torch.device("cpu"))  # what /free and a core model do
    assert bundle.model.weights.reserved == bundle.text_encoder.weights.reserved == 0
    assert manager.current_loaded_models == [] and manager.free >= held
    bundle.model.weights.settle()
    assert bundle.model.weights.reserved == held, "it comes back for the next run"
    assert bundle.model.network in networks(manager)


def test_our_own_models_are_not_asked_to_leave_for_one_another(manager):
    bundle = opened()
    bundle.text_encoder.weights.settle()
    manager.free = 0  # the manager would unload everybody
    memory.make_room(1, torch.device("cpu"))
    assert bundle.text_encoder.weights.reserved


def test_a_model_that_is_gone_leaves_the_list(manager):
    bundle = opened()
    bundle.model.weights.settle()
    mine = id(bundle.model.network)
    assert mine in map(id, networks(manager))
    del bundle
    assert mine not in map(id, networks(manager))


@pytest.mark.parametrize(
    "state, reserve, share",
    [
        ("NORMAL_VRAM", None, 1),
        ("LOW_VRAM", None, 0.5),
        ("NO_VRAM", None, 0.25),
        ("NORMAL_VRAM", 2.0, 1),
    ],
)
def test_flags_bound_the_room(manager, state, reserve, share):
    manager.vram_state.name, manager.args.reserve_vram = state, reserve
    extra = 3 * MB if reserve else 0
    got = memory.make_room(100, torch.device("cuda:0"))
    assert manager.asked == [100 + extra]
    assert got == int((4000 * MB - extra) * share)
    assert memory.make_room(0, torch.device("cpu")) <= 4000 * MB - extra


def test_the_limit_of_the_settings_bounds_the_room(manager, monkeypatch, caplog):
    caplog.set_level("INFO")
    device, limit = torch.device("cuda:0"), [1000 * MB]
    monkeypatch.setattr(memory, "memory_limit", lambda: limit[0])
    monkeypatch.setattr(memory, "used_bytes", lambda device: 300 * MB)
    assert memory.make_room(100, device, ask=False) == 700 * MB
    assert manager.asked == []
    assert memory.make_room(500 * MB, device) == 700 * MB
    assert manager.asked == [500 * MB + 4000 * MB - 700 * MB]  # core models leave for it too
    limit[0] = 100 * MB
    assert memory.make_room(100, device) == 0
    limit[0] = 9000 * MB
    assert memory.make_room(100, device) == 4000 * MB  # no more than there is
    limit[0] = None
    assert memory.make_room(100, device) == 4000 * MB
    lines = [r.getMessage() for r in caplog.records if "of the settings" in r.getMessage()]
    assert [line.rpartition(" is ")[2] for line in lines] == [
        "1.00 GB",
        "0.10 GB",
        "9.00 GB",
        "lifted",
    ]


def test_headless_nobody_is_asked(manager):
    with headless.using(headless.HeadlessHost()):
        assert memory.make_room(1 << 60, torch.device("cpu")) > 0
    assert manager.asked == []
