"""Every check lets the right values through and names the argument when it rejects one."""

import contextvars
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_lib import checks

NAN, INF = math.nan, math.inf


def rejected(check, *arguments, **keywords):
    """The message with which `check` rejects the value of the argument "weight"."""
    with pytest.raises(ValueError) as caught:
        check("weight", *arguments, **keywords)
    message = str(caught.value)
    assert message.startswith("weight: expected ") and ", got " in message
    return message


def test_the_message_says_argument_expectation_and_value():
    message = rejected(checks.check_integer, -3, 1)
    assert message == "weight: expected a whole number ≥ 1, got -3 (int)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3), "a torch.float32 tensor of shape (2, 3)"),
        ("cat", "'cat' (str)"),
        (None, "None (NoneType)"),
    ],
)
def test_describe(value, text):
    assert checks.describe(value) == text


@pytest.mark.parametrize("length", [59, 60, 61, 10_000])
def test_describe_shortens_what_is_longer_than_sixty_characters(length):
    text = "'" + "a" * (length - 2) + "'"
    shown = text if length <= 60 else text[:57] + "..."
    assert checks.describe(text[1:-1]) == f"{shown} (str)"


class TestTensors:
    def test_a_named_dimension_is_free_and_a_number_is_not(self):
        x = torch.zeros(5, 784)
        assert checks.check_tensor("x", x, ("batch", 784)) is x
        assert "(5, 784)" in rejected(checks.check_tensor, x, ("batch", 2))

    @pytest.mark.parametrize(
        "value",
        [
            None,
            [[0.0, 1.0]],
            np.zeros((1, 2)),
            torch.zeros(1, 2, dtype=torch.int64),
            torch.zeros(1, 2, dtype=torch.bool),
            torch.zeros(1, 2, dtype=torch.complex64),
            torch.zeros(2),
            torch.zeros(1, 1, 2),
            torch.zeros(2, 1),
            torch.zeros(0, 2),
        ],
        ids=checks.describe,
    )
    def test_anything_else_is_rejected(self, value):
        assert "(batch, 2)" in rejected(checks.check_tensor, value, ("batch", 2))

    def test_same_shape_does_not_broadcast(self):
        checks.check_same_shape("weight", torch.zeros(3, 2), "mu", torch.ones(3, 2))
        message = rejected(checks.check_same_shape, torch.zeros(1, 2), "mu", torch.zeros(3, 2))
        assert "mu, (3, 2)" in message and "(1, 2)" in message

    def test_same_kind(self):
        checks.check_same_kind("weight", torch.zeros(1), "x is", torch.zeros(2))
        checks.check_same_kind("weight", torch.zeros(1).to("cpu:0"), "x is", torch.zeros(2))
        double, meta = torch.zeros(1).double(), torch.zeros(1, device="meta")
        assert "float64" in rejected(checks.check_same_kind, double, "x is", torch.zeros(2))
        assert "meta" in rejected(checks.check_same_kind, meta, "x is", torch.zeros(2))

    def test_same_kind_counts_devices_from_zero(self):
        def on(name):
            return SimpleNamespace(dtype=torch.float32, device=torch.device(name))

        checks.check_same_kind("weight", on("cuda"), "x is", on("cuda:0"))
        for other in ("cuda", "cuda:0", "cpu", "cuda:2"):
            assert other in rejected(checks.check_same_kind, on("cuda:1"), "x is", on(other))

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    @pytest.mark.parametrize("position", [0, 6])
    def test_finite(self, bad, position):
        x = torch.zeros(7)
        assert checks.check_finite("x", x) is x
        x[position] = bad
        assert "1 of 7 entries" in rejected(checks.check_finite, x)

    @given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9))
    def test_unit_interval_takes_all_of_it(self, values):
        x = torch.tensor(values)
        assert checks.check_unit_interval("x", x) is x

    @given(
        st.lists(st.floats(0, 1, width=32), max_size=5),
        st.floats(width=32).filter(lambda value: not 0 <= value <= 1),
        st.lists(st.floats(0, 1, width=32), max_size=5),
    )
    def test_unit_interval_rejects_one_bad_pixel_wherever_it_is(self, before, bad, after):
        rejected(checks.check_unit_interval, torch.tensor([*before, bad, *after]))

    def test_unit_interval_takes_a_tensor_with_a_gradient(self):
        checks.check_unit_interval("x", torch.ones(3, requires_grad=True))


class TestTrustedValues:
    def test_values_are_taken_on_trust_but_shapes_are_not(self):
        bad = torch.full((2, 2), NAN)
        with checks.trusted_values():
            assert checks.check_finite("x", bad) is bad
            assert checks.check_unit_interval("x", bad) is bad
            rejected(checks.check_tensor, bad, ("batch", 3))
        rejected(checks.check_finite, bad)

    def test_the_block_ends_with_an_exception_too(self):
        with pytest.raises(KeyboardInterrupt), checks.trusted_values():
            raise KeyboardInterrupt
        rejected(checks.check_finite, torch.tensor([NAN]))

    def test_another_context_still_checks(self):
        elsewhere = contextvars.copy_context()
        with checks.trusted_values():
            elsewhere.run(rejected, checks.check_finite, torch.tensor([NAN]))


class TestNumbers:
    @pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(2)])
    def test_whole_numbers(self, value):
        result = checks.check_integer("n", value, 1)
        assert type(result) is int and result == value

    @pytest.mark.parametrize(
        "value", [0, -1, 1.0, 2.5, "3", None, True, NAN, torch.tensor(3), [3], np.float64(3)]
    )
    def test_not_a_whole_number_of_at_least_one(self, value):
        rejected(checks.check_integer, value, 1)

    @pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), Fraction(1, 2), 1e300])
    def test_numbers(self, value):
        result = checks.check_number("beta", value, 0.0)
        assert type(result) is float and result == value

    @pytest.mark.parametrize(
        "value",
        [-1e-9, NAN, INF, -INF, "1", None, True, 1j, torch.tensor(1.0), 10**400, Fraction(10**400)],
    )
    def test_not_a_finite_number_of_at_least_zero(self, value):
        assert "≥ 0" in rejected(checks.check_number, value, 0.0)

    def test_an_exclusive_bound(self):
        assert "> 0" in rejected(checks.check_number, 0.0, 0.0, exclusive=True)
        assert checks.check_number("beta", 1e-300, 0.0, exclusive=True) == 1e-300

    def test_no_bound(self):
        assert checks.check_number("shift", -1e300) == -1e300
        assert rejected(checks.check_number, NAN).startswith("weight: expected a finite number, ")


@pytest.mark.parametrize("value", [0, 1, "no", None, np.True_, torch.tensor(True)])
def test_a_flag_is_true_or_false_and_nothing_else(value):
    assert checks.check_flag("flag", True) is True and checks.check_flag("flag", False) is False
    rejected(checks.check_flag, value)


@pytest.mark.parametrize("value", ["c", "", None, 0, ["a"], "A"])
def test_choice(value):
    assert checks.check_choice("which", "a", ("a", "b")) == "a"
    assert "'a', 'b'" in rejected(checks.check_choice, value, ("a", "b"))


@pytest.mark.parametrize("value", [0, "seed", np.random.default_rng(0), torch])
def test_generator(value):
    generator = torch.Generator()
    assert checks.check_generator("generator", generator) is generator
    assert checks.check_generator("generator", None) is None
    rejected(checks.check_generator, value)


class TestPaths:
    def test_a_path_or_its_text(self, tmp_path):
        assert checks.check_path("path", tmp_path) == checks.check_path("path", str(tmp_path))

    def test_home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert checks.check_path("path", "~/a") == tmp_path / "a"

    def test_the_home_of_nobody_is_a_name_like_any_other(self):
        assert checks.check_path("path", "~no-such-user/a").parts == ("~no-such-user", "a")

    @pytest.mark.parametrize("value", ["", 3, None, b"bytes", ["a"]])
    def test_not_a_path(self, value):
        rejected(checks.check_path, value)


class TestAsPixels:
    def test_bytes_become_fractions_of_255(self):
        images = torch.arange(2 * 784).remainder(256).to(torch.uint8).view(2, 28, 28)
        x = checks.as_pixels("images", images)
        assert x.shape == (2, 784) and x.dtype == torch.float32
        torch.testing.assert_close(x, images.view(2, 784) / 255, rtol=0, atol=0)
        assert x.min() == 0 and x.max() == 1

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
    def test_both_shapes_are_the_same_pixels(self, dtype):
        images = torch.randint(0, 2, (3, 28, 28)).to(dtype)
        square, flat = (checks.as_pixels("images", i) for i in (images, images.view(3, 784)))
        assert torch.equal(square, flat) and square.shape == (3, 784)

    def test_the_caller_s_images_stay_as_they_are(self):
        images = torch.full((2, 28, 28), 200, dtype=torch.uint8)
        checks.as_pixels("images", images)
        assert (images == 200).all()

    @pytest.mark.parametrize(
        "value",
        [
            None,
            np.zeros((2, 28, 28), dtype=np.uint8),
            torch.zeros(28, 28),
            torch.zeros(784),
            torch.tensor(0.0),
            torch.zeros(2, 1, 28, 28),
            torch.zeros(0, 784),
            torch.zeros(2, 783),
            torch.zeros(2, 784, dtype=torch.int64),
            torch.zeros(2, 784, dtype=torch.bool),
            torch.full((2, 784), 1.5),
            torch.full((2, 784), -0.1),
            torch.full((2, 784), NAN),
            torch.full((2, 784), 255.0),
        ],
        ids=checks.describe,
    )
    def test_not_images(self, value):
        rejected(checks.as_pixels, value)
