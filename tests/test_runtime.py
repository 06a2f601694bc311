"""Devices, random streams, precision and the cache folder."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_lib import VAE, pick_device, runtime, stream


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with so many GPUs, or an MPS device."""

    def pretend(num_gpus=0, mps=False, wish=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        if wish is None:
            monkeypatch.delenv("VAE_DEVICE", raising=False)
        else:
            monkeypatch.setenv("VAE_DEVICE", wish)

    return pretend


class TestPickDevice:
    @pytest.mark.parametrize(
        ("has", "best"),
        [
            ({}, "cpu"),
            ({"num_gpus": 1}, "cuda"),
            ({"mps": True}, "mps"),
            ({"num_gpus": 1, "mps": True}, "cuda"),
        ],
    )
    def test_the_best_there_is(self, machine, has, best):
        machine(**has)
        assert pick_device() == torch.device(best)

    def test_the_environment_decides_and_the_argument_overrules_it(self, machine):
        machine(num_gpus=2, wish="cpu")
        assert pick_device() == torch.device("cpu")
        assert pick_device("cuda:1") == torch.device("cuda:1")

    def test_an_empty_wish_is_none(self, machine):
        machine(wish="")
        assert pick_device() == torch.device("cpu")

    @pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "cpu", "mps", "mps:0"])
    def test_by_name_or_as_a_device(self, machine, name):
        machine(num_gpus=2, mps=True)
        assert pick_device(name) == pick_device(torch.device(name)) == torch.device(name)

    @pytest.mark.parametrize(
        "name", ["gpu", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "cpu:x", "meta", 0, True, ["cpu"]]
    )
    def test_not_a_device(self, machine, name):
        machine(num_gpus=2)
        with pytest.raises(ValueError, match="^name: expected"):
            pick_device(name)

    @pytest.mark.parametrize("name", ["cuda:2", "cuda:99", "mps", "cpu:1", torch.device("mps")])
    def test_a_device_that_is_not_there(self, machine, name):
        machine(num_gpus=2)
        with pytest.raises(ValueError, match="^name: expected a device that this machine has"):
            pick_device(name)

    @pytest.mark.parametrize(
        ("num_gpus", "name", "available"), [(0, "cuda", 0), (1, "cuda:1", 1), (0, "cpu:1", 1)]
    )
    def test_the_error_says_how_many_there_are(self, machine, num_gpus, name, available):
        machine(num_gpus=num_gpus)
        with pytest.raises(ValueError, match=f"'{name}', but it has {available} of that kind"):
            pick_device(name)

    @pytest.mark.parametrize("wish", ["gpu", "cuda", "cpu:9"])
    def test_a_wrong_wish_names_the_variable(self, machine, wish):
        machine(wish=wish)
        with pytest.raises(ValueError, match="^VAE_DEVICE: expected"):
            pick_device()


class TestStream:
    def test_the_numbers_are_the_book_s(self):
        # Written down once: were they to change, so would every number of the book.
        uniform = torch.rand(3, generator=stream("initialization"))
        assert uniform.tolist() == pytest.approx([0.0105590, 0.5239701, 0.3095788], abs=1e-6)

    @given(st.text(min_size=1, max_size=20), st.integers(0, 2**70))
    def test_the_same_name_and_seed_give_the_same_numbers(self, name, seed):
        first, second = (torch.rand(4, generator=stream(name, seed)) for _ in range(2))
        assert torch.equal(first, second)

    def test_names_and_seeds_give_different_numbers(self):
        keys = [(name, seed) for name in ("order", "noise", "order/1") for seed in range(50)]
        firsts = {torch.rand(1, generator=stream(*key), dtype=torch.float64).item() for key in keys}
        assert len(firsts) == len(keys)

    def test_two_streams_are_not_correlated(self):
        a, b = (torch.randn(100_000, generator=stream(name)) for name in ("order", "noise"))
        assert abs((a * b).mean()) < 4 / 100_000**0.5

    def test_it_is_on_the_cpu_and_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        assert stream("noise").device == torch.device("cpu")
        assert torch.equal(torch.get_rng_state(), before)


class TestFullPrecision:
    @pytest.fixture(autouse=True)
    def keep(self):
        before = torch.get_float32_matmul_precision()
        yield
        torch.set_float32_matmul_precision(before)

    def test_inside_and_after(self):
        torch.set_float32_matmul_precision("high")
        with runtime.full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"

    def test_after_an_exception(self):
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(KeyboardInterrupt), runtime.full_precision():
            raise KeyboardInterrupt
        assert torch.get_float32_matmul_precision() == "medium"


class TestDraws:
    """The same numbers for a model of any precision."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
    def test_normal_draws_of_any_precision_are_those_of_float32(self, dtype):
        as_float32 = runtime.standard_normal((3, 5), stream("draws"), torch.zeros(1))
        draws = runtime.standard_normal((3, 5), stream("draws"), torch.zeros(1, dtype=dtype))
        assert draws.dtype == dtype and torch.equal(draws, as_float32.to(dtype))
        assert torch.equal(as_float32, torch.randn(3, 5, generator=stream("draws")))

    @pytest.mark.parametrize("default", [torch.float32, torch.float64])
    def test_default_precision_has_no_say(self, default):
        before = torch.get_default_dtype()
        expected = runtime.uniform((1000,), stream("draws"), -2.0, 3.0)
        like = torch.zeros(1, dtype=torch.float32)
        expected_normal = runtime.standard_normal((1000,), stream("draws"), like)
        torch.set_default_dtype(default)
        try:
            draws = runtime.uniform((1000,), stream("draws"), -2.0, 3.0)
            normal = runtime.standard_normal((1000,), stream("draws"), like)
            vae = VAE(hidden_dim=3, generator=stream("draws"))
        finally:
            torch.set_default_dtype(before)
        assert draws.dtype == torch.float32 and torch.equal(draws, expected)
        assert normal.dtype == torch.float32 and torch.equal(normal, expected_normal)
        assert -2.0 <= draws.min() < -1.9 and 2.9 < draws.max() < 3.0
        as_float32 = VAE(hidden_dim=3, generator=stream("draws"))
        for weight, wanted in zip(vae.parameters(), as_float32.parameters()):
            assert weight.dtype == default and torch.equal(weight, wanted.to(default))

    def test_default_device_has_no_say(self):
        with torch.device("meta"):
            normal = runtime.standard_normal((3,), stream("draws"), torch.zeros(1, device="cpu"))
            uniform = runtime.uniform((3,), stream("draws"))
        assert normal.device.type == uniform.device.type == "cpu"

    def test_both_ends_of_the_unit_interval(self):
        draws = runtime.uniform((100_000,), stream("draws"))
        assert draws.min() >= 0.0 and draws.max() < 1.0


class TestCacheFolder:
    def test_the_argument_then_the_environment_then_the_user_s(self, monkeypatch, tmp_path):
        monkeypatch.setenv("VAE_DATA", str(tmp_path / "environment"))
        assert runtime.cache_folder(tmp_path / "argument") == tmp_path / "argument"
        assert runtime.cache_folder() == tmp_path / "environment"
        monkeypatch.delenv("VAE_DATA")
        assert runtime.cache_folder().is_absolute() and "vae_lib" in runtime.cache_folder().parts

    def test_home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        monkeypatch.setenv("VAE_DATA", "~/data")
        assert runtime.cache_folder() == Path(tmp_path / "data")
        monkeypatch.setenv("VAE_DATA", "~nobody-of-this-name/data")
        assert runtime.cache_folder() == Path("~nobody-of-this-name/data")

    def test_what_the_environment_names_is_no_path(self, monkeypatch):
        # The system lets no variable hold this, but a program may.
        monkeypatch.setattr(runtime.os, "environ", {"VAE_DATA": "a\0b"})
        with pytest.raises(ValueError, match="^VAE_DATA: expected a path"):
            runtime.cache_folder()

    @pytest.mark.parametrize("root", ["", 3, b"here"])
    def test_not_a_folder(self, root):
        with pytest.raises(ValueError, match="^root: expected a path"):
            runtime.cache_folder(root)
