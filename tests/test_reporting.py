"""One line says how a result compares with the expected one, and no value stops a run."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nb_compare import compare_cell_outputs

from vae_lib import compare_result, reporting

NAN, INF = math.nan, math.inf
LARGEST, SMALLEST = 1.7976931348623157e308, 5e-324
POINTER = '; see "Is my number right?"'

finite = st.floats(allow_nan=False, allow_infinity=False)
tolerances = st.floats(min_value=SMALLEST, allow_infinity=False)


@pytest.fixture
def line_of(capsys):
    """What a call prints: one line, which is returned without its end."""

    def call(*arguments):
        assert compare_result(*arguments) is None  # a notebook would display anything else
        captured = capsys.readouterr()
        assert captured.err == "" and captured.out.endswith("\n")
        (line,) = captured.out.splitlines()
        return line

    return call


def verdict_of(capsys, *arguments):
    """The same for a test with many examples: what stands behind the closing bracket."""
    capsys.readouterr()
    compare_result("x", *arguments)
    (line,) = capsys.readouterr().out.splitlines()
    return line.partition("): ")[2]


class TestTheLine:
    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (
                ("test negative ELBO", 143.2812, 143.28, 0.01, "nats per image"),
                "test negative ELBO: 143.28 nats per image (expected 143.28, tolerance 0.01): "
                "agrees",
            ),
            (
                ("test negative ELBO", 143.59, 143.28, 0.01, "nats per image"),
                "test negative ELBO: 143.59 nats per image (expected 143.28, tolerance 0.01): "
                "differs by 0.31, 31 times the tolerance" + POINTER,
            ),
            (
                ("read", 77.68, 77.7, 0.1, "%"),
                "read: 77.7 % (expected 77.7, tolerance 0.1): agrees",
            ),
            (("steps", 5, 5, 1), "steps: 5 (expected 5, tolerance 1): agrees"),
            (
                ("steps", 9, 5, 2),
                "steps: 9 (expected 5, tolerance 2): differs by 4, 2.0 times the tolerance"
                + POINTER,
            ),
            (("loss", 180.6, 180.2, 1.5), "loss: 180.6 (expected 180.2, tolerance 1.5): agrees"),
            (
                ("log p(x)", -134.7, -134.72, 0.1),
                "log p(x): -134.7 (expected -134.7, tolerance 0.1): agrees",
            ),
            (
                ("weights", 3.1e-05, 0, 2e-4),
                "weights: 0.0000 (expected 0, tolerance 0.0002): agrees",
            ),
            (
                ("weights", 0.3, 0, 2e-4),
                "weights: 0.3000 (expected 0, tolerance 0.0002): "
                "differs by 0.3000, 1500 times the tolerance" + POINTER,
            ),
        ],
    )
    def test_as_a_chapter_prints_it(self, line_of, arguments, line):
        assert line_of(*arguments) == line

    @pytest.mark.parametrize(
        ("value", "text"),
        [(NAN, "nan"), (INF, "inf"), (-INF, "-inf"), (10**400, "inf"), (-(10**400), "-inf")],
        ids=["nan", "inf", "-inf", "400 digits", "-400 digits"],
    )
    def test_what_is_not_finite_is_said_to_be_so(self, line_of, value, text):
        line = line_of("loss", value, 143.28, 0.01, "nats")
        assert line == (
            f"loss: {text} nats (expected 143.28, tolerance 0.01): "
            f"differs, not a finite number{POINTER}"
        )

    @pytest.mark.parametrize(
        ("tolerance", "expected", "text"),
        [
            (0.01, "1.23", "0.01"),
            (0.010, "1.23", "0.01"),
            (0.012, "1.235", "0.012"),
            (0.0123, "1.235", "0.012"),
            (0.0999, "1.2", "0.1"),
            (0.25, "1.23", "0.25"),
            (1, "1", "1"),
            (1.5, "1.2", "1.5"),
            (10, "1", "10"),
            (15, "1", "15"),
            (123, "1", "123"),
            (2e-4, "1.2346", "0.0002"),
            (2e-5, "1.23457", "0.00002"),
            (1e-30, "1.23457", "1e-30"),
        ],
    )
    def test_the_tolerance_decides_on_the_decimals(self, line_of, tolerance, expected, text):
        value = 1.23456789
        line = line_of("x", value, value, tolerance)
        assert line == f"x: {expected} (expected {expected}, tolerance {text}): agrees"

    def test_zero_has_no_sign_and_an_expected_zero_no_decimals(self, line_of):
        line = "x: 0.00 (expected 0, tolerance 0.01): agrees"
        assert {line_of("x", zero, 0.0, 0.01) for zero in (1e-9, -1e-9, 0.0, -0.0)} == {line}
        assert line_of("x", 0, -0.0, 0.01) == line

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (1.010001, "differs by 0.01, just above the tolerance"),
            (1.0109, "differs by 0.01, just above the tolerance"),
            (1.0111, "differs by 0.01, 1.1 times the tolerance"),
            (0.984, "differs by 0.02, 1.6 times the tolerance"),
            (1.5, "differs by 0.50, 50 times the tolerance"),
            (-98.0, "differs by 99.00, 9900 times the tolerance"),
            (201.0, "differs by 200.00, more than 10,000 times the tolerance"),
        ],
    )
    def test_how_far_a_value_differs(self, line_of, value, words):
        assert line_of("x", value, 1.0, 0.01).endswith(f"): {words}{POINTER}")

    @pytest.mark.parametrize(
        ("value", "tolerance", "words"),
        [
            (11, 10, "differs by 11, 1.1 times the tolerance"),
            (9.5, 1, "differs by 10, 9.5 times the tolerance"),
            (10, 1, "differs by 10, 10 times the tolerance"),
            (10.5, 1, "differs by 10, 10 times the tolerance"),
            (9999.5, 1, "differs by 10000, 10000 times the tolerance"),
            (10_000, 1, "differs by 10000, 10000 times the tolerance"),
            (10_000.5, 1, "differs by 10000, more than 10,000 times the tolerance"),
        ],
    )
    def test_where_the_words_change(self, line_of, value, tolerance, words):
        assert line_of("x", value, 0, tolerance).endswith(f"): {words}{POINTER}")

    def test_more_than_twenty_characters_become_six_digits(self, line_of):
        assert line_of("x", 10**19, 0, 1).startswith("x: 10000000000000000000 (")
        assert line_of("x", 10**20, 0, 1).startswith("x: 1e+20 (")

    def test_no_number_makes_the_line_long(self, line_of):
        extremes = (LARGEST, -LARGEST, SMALLEST, 1 / 3, 1e15 / 3)
        for value in extremes:
            for expected in extremes:
                for tolerance in (LARGEST, SMALLEST, 1 / 3):
                    assert len(line_of("x", value, expected, tolerance)) < 200

    def test_it_names_a_page_of_the_book(self, pytestconfig):
        page = (pytestconfig.rootpath / "book" / "reference_numbers.md").read_text("utf-8")
        assert POINTER.endswith(f'"{page.partition(chr(10))[0].removeprefix("# ")}"')


class TestTheVerdict:
    @pytest.mark.parametrize("tolerance", [0.01, 0.1, 1e-3, 2e-4, 0.3, 1.5])
    @pytest.mark.parametrize("expected", [143.28, 0.02, 77.7, 0.0, -134.72, 1e6])
    def test_a_value_just_at_the_tolerance_agrees(self, capsys, expected, tolerance):
        # Whichever way the decimals were rounded to binary: most of these sums are not exact.
        for sign in (1, -1):
            edge = float(Fraction(str(expected)) + sign * Fraction(str(tolerance)))
            assert verdict_of(capsys, edge, expected, tolerance) == "agrees"
            beyond = edge + sign * 1e-3 * tolerance
            assert "just above" in verdict_of(capsys, beyond, expected, tolerance)

    @pytest.mark.parametrize("scale", [1e-300, 1e-4, 1.0, 1e300])
    def test_nothing_else_is_forgiven(self, capsys, scale):
        assert verdict_of(capsys, scale * (1 + 3e-16), 0.0, scale) == "agrees"
        assert "just above" in verdict_of(capsys, scale * (1 + 2e-15), 0.0, scale)

    @given(value=finite, expected=finite, tolerance=tolerances)
    @example(value=1.0, expected=0.0, tolerance=1.0)
    @example(value=LARGEST, expected=-LARGEST, tolerance=LARGEST)
    @example(value=0.0, expected=0.0, tolerance=SMALLEST)
    def test_agrees_means_within_the_tolerance(self, value, expected, tolerance):
        self.check_verdict(value, expected, tolerance)

    @given(expected=finite, tolerance=tolerances, share=st.floats(-1.5, 1.5))
    @example(expected=143.28, tolerance=0.01, share=1.0)
    @example(expected=143.28, tolerance=0.01, share=-1.0)
    def test_the_border_is_where_it_should_be(self, expected, tolerance, share):
        value = expected + share * tolerance
        assume(math.isfinite(value))
        self.check_verdict(value, expected, tolerance)

    def check_verdict(self, value, expected, tolerance):
        with pytest.MonkeyPatch.context() as patch:
            lines = []
            patch.setattr("builtins.print", lines.append)
            compare_result("x", value, expected, tolerance)
        (line,) = lines
        deviation = abs(Fraction(value) - Fraction(expected))  # exact
        slack = 5 * Fraction(math.ulp(max(abs(expected), tolerance)))
        if line.endswith("): agrees"):
            assert deviation <= tolerance + slack
        else:
            assert "): differs by " in line and line.endswith(POINTER)
            assert deviation > tolerance

    @given(value=st.floats() | st.integers(), expected=finite, tolerance=tolerances,
           unit=st.sampled_from(["", "%", "nats per image"]))  # fmt: skip
    def test_no_value_raises_and_there_is_one_line(self, value, expected, tolerance, unit):
        with pytest.MonkeyPatch.context() as patch:
            lines = []
            patch.setattr("builtins.print", lambda *texts: lines.append(texts))
            compare_result("a name", value, expected, tolerance, unit)
        ((line,),) = lines
        assert len(line.splitlines()) == 1
        assert re.fullmatch(
            r"a name: \S+( %| nats per image)? \(expected \S+, tolerance \S+\): (agrees|differs.+)",
            line,
        )

    @given(expected=st.floats(-1e3, 1e3), noise=st.floats(-1e-6, 1e-6))
    def test_what_is_far_below_the_tolerance_prints_the_same_line(self, expected, noise):
        expected = round(expected, 2)  # in the middle between two roundings
        lines = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.print", lines.append)
            for value in (expected, expected + noise):
                compare_result("x", value, expected, 0.01)
        assert lines[0] == lines[1]


class TestTypes:
    @pytest.mark.parametrize(
        "kind",
        [
            float, Fraction, np.float64, np.float32, np.float16, torch.tensor,
            lambda number: torch.tensor(number, dtype=torch.bfloat16),
            lambda number: torch.tensor(number, requires_grad=True),
            lambda number: torch.nn.Parameter(torch.tensor(number)),
        ],
    )  # fmt: skip
    def test_numbers_of_every_kind_are_the_same(self, line_of, kind):
        line = line_of("x", 0.75, 0.5, 0.125)
        assert "0.25" in line
        assert line_of("x", kind(0.75), kind(0.5), kind(0.125)) == line

    @pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor])
    def test_integers_of_every_kind_are_the_same(self, line_of, kind):
        assert line_of("x", kind(7), kind(5), kind(3)) == line_of("x", 7.0, 5.0, 3.0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("", 1, 1, 1), "name: expected text of one line, got '' (str)"),
            ((" ", 1, 1, 1), "name: expected text of one line, got ' ' (str)"),
            (("x\ry", 1, 1, 1), r"name: expected text of one line, got 'x\ry' (str)"),
            (("x\ny", 1, 1, 1), r"name: expected text of one line, got 'x\ny' (str)"),
            (("x", "1", 1, 1), "value: expected a number, got '1' (str)"),
            (("x", True, 1, 1), "value: expected a number, got True (bool)"),
            (
                ("x", torch.ones(1), 1, 1),
                "value: expected a number, got a torch.float32 tensor of shape (1,)",
            ),
            (("x", 1, NAN, 1), "expected: expected a finite number, got nan (float)"),
            (("x", 1, 1, 0), "tolerance: expected a finite number > 0, got 0 (int)"),
            (("x", 1, 1, -0.5), "tolerance: expected a finite number > 0, got -0.5 (float)"),
            (("x", 1, 1, 1, None), "unit: expected text of one line, got None (NoneType)"),
        ],
    )
    def test_a_wrong_argument_prints_nothing_and_says_what_is_wrong(
        self, capsys, arguments, message
    ):
        with pytest.raises(ValueError) as caught:
            compare_result(*arguments)
        assert str(caught.value) == message
        assert capsys.readouterr().out == ""


class TestInANotebook:
    """The word at the end of the line is what fails a chapter's test."""

    def differences(self, capsys, stored, new):
        outputs = []
        for value in (stored, new):
            compare_result("negative ELBO", value, 143.28, 0.01, "nats per image")
            text = capsys.readouterr().out
            outputs.append([{"output_type": "stream", "name": "stdout", "text": text}])
        return compare_cell_outputs(*outputs)

    def test_a_value_that_agrees_passes(self, capsys):
        assert self.differences(capsys, 143.2813, 143.2814) == []
        assert self.differences(capsys, 143.2849, 143.2851) == []  # prints another digit

    def test_a_value_that_differs_fails(self, capsys):
        # Though the number alone would pass: it differs by one unit of its last digit.
        (difference,) = self.differences(capsys, 143.2813, 143.2905)
        assert "the text differs" in difference and "agrees" in difference

    @pytest.mark.parametrize("value", [NAN, INF])
    def test_what_is_not_finite_fails(self, capsys, value):
        assert self.differences(capsys, 143.28, value)
