import sys
from types import SimpleNamespace

import pytest
import torch

from drhn_cli.errors import ConfigError
from drhn_cli.network import devices as device_module
from drhn_cli.network.devices import choose_device, choose_dtype, choose_gpu, may_have_gpu


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with some devices."""

    def pretend(*, cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1}, "cuda"), ({"cuda": 1, "mps": True}, "cuda")],
)
def test_auto_takes_the_fastest_there_is(machine, devices, chosen):
    machine(**devices)
    assert choose_device("auto") == torch.device(chosen)


def test_a_device_is_taken_by_name(machine):
    machine(cuda=2, mps=True)
    for name in ("cpu", "mps", "cuda", "cuda:0", "cuda:1"):
        assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(("rank", "chosen"), [("0", "cuda:0"), ("3", "cuda:1"), ("", "cuda")])
def test_processes_of_one_machine_take_its_gpus_in_turn(machine, monkeypatch, rank, chosen):
    machine(cuda=2)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_device("auto") == choose_device("cuda") == torch.device(chosen)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")


def test_each_process_of_several_that_train_takes_a_gpu_of_its_own(machine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    machine(cuda=2)
    for rank, name in enumerate(("cuda", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device(name, is_exclusive=True) == torch.device("cuda", rank)
        assert choose_device("cpu", is_exclusive=True) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="more processes than GPUs"):
        choose_device("cuda", is_exclusive=True)
    machine(mps=True)
    assert choose_device("mps") == torch.device("mps")
    with pytest.raises(ConfigError, match="several processes cannot train on mps"):
        choose_device("mps", is_exclusive=True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert choose_device("mps", is_exclusive=True) == torch.device("mps")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_refused_with_the_way_out(machine, name):
    machine()
    with pytest.raises(ConfigError, match=f"no {name[:4].strip(':')}.* here; use --device auto or --device cpu"):
        choose_device(name)


@pytest.mark.parametrize("name", ["tpu", "", "CPU", "cuda0", "cpu:x", "cuda:-1", "meta"])
def test_an_unknown_device_is_refused(machine, name):
    machine(cuda=1)
    with pytest.raises(ConfigError, match=f"unknown device '{name}'"):
        choose_device(name)


def test_a_device_number_beyond_the_last_is_refused(machine):
    machine(cuda=2)
    with pytest.raises(ConfigError, match=r"no cuda:2 here \(expected cuda:0..1\)"):
        choose_device("cuda:2")


@pytest.mark.parametrize("supported", [True, False])
def test_cuda_trains_in_bfloat16_where_it_is_not_emulated(monkeypatch, supported):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: supported or including_emulation
    )
    assert choose_dtype(torch.device("cuda")) == ("bfloat16" if supported else "float32")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({}, "float32"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
    ],
)
def test_a_cpu_trains_in_bfloat16_where_it_multiplies_it(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: capabilities))
    assert choose_dtype(torch.device("cpu")) == precision


def test_a_cpu_that_does_not_tell_and_a_mac_train_in_float32(monkeypatch):
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    assert choose_dtype(torch.device("cpu")) == "float32"
    assert choose_dtype(torch.device("mps")) == "float32"


def test_a_gpu_is_looked_for_only_where_there_may_be_one(monkeypatch):
    asked = []

    def choose(name):
        asked.append(name)
        return torch.device("cpu" if name == "auto" else name)

    monkeypatch.setattr(device_module, "choose_device", choose)
    monkeypatch.setattr(device_module, "may_have_gpu", lambda: False)
    assert [choose_gpu(name) for name in ("auto", "cpu", "cpu:0")] == [None] * 3
    assert not asked
    assert choose_gpu("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(device_module, "may_have_gpu", lambda: True)
    assert choose_gpu("auto") is None
    assert asked == ["cuda:1", "auto"]
    with pytest.raises(ConfigError, match="unknown device"):
        choose_gpu("cpux")


def test_a_driver_and_torch_are_what_a_gpu_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(device_module, "_GPU_FILES", (str(tmp_path / "nvidiactl"),))
    assert not may_have_gpu()
    (tmp_path / "nvidiactl").touch()
    assert may_have_gpu()
    monkeypatch.setattr(device_module, "find_spec", lambda _: None)
    assert not may_have_gpu()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert may_have_gpu()
