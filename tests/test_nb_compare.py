"""The comparison of notebooks passes what agrees, and fails for each thing that may go wrong."""

import base64
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

import vae_lib
from nb_compare import (
    WIDGET_STATE,
    WIDGET_VIEW,
    Comparison,
    Tolerance,
    WidgetModels,
    cell_tolerance,
    compare_cell_outputs,
    models_shown,
    notebook_faults,
    stored_models,
)

PROJECT = Path(__file__).parent.parent


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def display(mime, content, **metadata):
    return new_output("display_data", data={mime: content}, metadata=metadata)


def error(name="ValueError", value="x must be positive"):
    return new_output("error", ename=name, evalue=value, traceback=["/home/a/file.py"])


def compare(stored, new, **tolerance):
    """The differences between two texts on stdout, or between two outputs."""
    outputs = [stream(x) if isinstance(x, str) else x for x in (stored, new)]
    return compare_cell_outputs(outputs[:1], outputs[1:], Tolerance(**tolerance))


# Text and numbers


AGREE = {
    "equal": ("loss 142.80\n", "loss 142.80\n"),
    "last newline": ("a\n", "a"),
    "number": ("loss 142.80", "loss 142.81"),
    "number in a sentence": ("It is 142.80.", "It is 142.81."),
    "number in a tensor": ("tensor([ 1.5000, -0.2000])", "tensor([ 1.5001, -0.2000])"),
    "number in an array": ("array([[1.e-07, 2.e+00]])", "array([[2.e-07, 2.e+00]])"),
    "percentage": ("12.3451%", "12.3452%"),
    "unit": ("12.3451s, 7.00001x, $0.10000001", "12.3452s, 7.00002x, $0.10000002"),
    "deviation": ("1.5 (±0.250001)", "1.5 (±0.250002)"),
    "quotient": ("1.50001/2.50001", "1.50002/2.50002"),
    "unicode minus": ("−1.50001", "−1.50002"),
    "thousands": ("1,234,567.5", "1,234,567.6"),
    "exponent": ("1.00001e-3 1E+5", "1.00002e-3 1E+5"),
    "bare fraction": ("-.50001", "-.50002"),
    "key": ("z2=0.50001,|k|:0.1", "z2=0.50002,|k|:0.1"),
    "digits of the shortest form": ("0.3", "0.30000000000000004"),
    "sign of a rounding error": ("[ 0.0000, 1.0]", "[-0.0000, 1.0]"),
    "plus sign of a rounding error": ("+0.00", "-0.01"),
    "a digit fewer": ("9.9e-07", "1e-06"),
    "padding": ("  9.99999\n", " 10.00000\n"),
    "device": ("device: cuda:0", "device: cpu"),
    "torch device": ("device(type='cuda', index=0)", "device(type='mps')"),
    "seconds": ("trained in 27.3 s", "trained in 8 s"),
    "address": ("<f at 0x7f01a2b3>", "<f at 0x55c0ffee>"),
    "words with nan and inf": ("finance, inferno, nanometre, \\infty, \\inf x, nan_count", None),
}

DIFFER = {
    "number out of tolerance": ("loss 142.80", "loss 142.82", "deviation 0.02, tolerance 0.01 "),
    "small number": ("5.0e-6", "7.0e-6", "deviation 2e-06, tolerance 1e-07 "),
    "finer number": ("1", "1.5", "deviation 0.5, tolerance 0.1 "),
    "coarser number": ("1.5", "2", "deviation 0.5, tolerance 0.1 "),
    "second number": ("1.0 2.0", "1.0 2.2", "number 2: stored 2.0, new 2.2"),
    "percentage": ("12.3%", "12.5%", "stored 12.3, new 12.5"),
    "number between words": ("a1.5b 2.5c", "a1.5b 2.7c", "stored 2.5, new 2.7"),
    "sign": ("1.5", "-1.5", "stored 1.5, new -1.5"),
    "unicode sign": ("−1.5", "1.5", "stored −1.5, new 1.5"),
    "explicit plus": ("+1.5", "1.5", "text differs"),
    "kind of minus": ("−1.5", "-1.5", "text differs"),
    "integer": ("9905 of 10000", "9906 of 10000", "stored 9905, new 9906, compared exactly"),
    "integer before a full stop": ("of 10000.", "of 10001.", "compared exactly"),
    "integer with separators": ("60,000 images", "60,001 images", "stored 60,000, new 60,001"),
    "large integer": ("10000000000000000001", "10000000000000000002", "compared exactly"),
    "shape": ("28x28", "28x29", "text differs"),
    "name": ("z2", "z3", "text differs"),
    "name with a fraction": ("v2.5000001", "v2.5000002", "text differs"),
    "version": ("torch 2.14.1", "torch 2.14.2", "text differs"),
    "long version": ("2.1400001.1", "2.1400002.1", "text differs"),
    "colour": ("#12e345", "#12e346", "text differs"),
    "too large a number": ("1e999", "1e998", "compared exactly"),
    "digest": ("98100ca27dc0", "98100ca27dc1", "text differs"),
    "digest that looks like an exponent": ("10001e2f", "10002e2f", "compared exactly"),
    "separators of no thousands": ("1,0001", "1,0002", "stored 0001, new 0002, compared"),
    "word": ("the loss falls", "the loss rises", "text differs"),
    "capital": ("True", "true", "text differs"),
    "spaces between words": ("a  b", "a b", "text differs"),
    "spaces before a number": ("x =   1.5", "x = 1.5", "text differs"),
    "spaces at the end": ("a", "a ", "text differs"),
    "number for a word": ("x 1.5", "x one", "text differs"),
    "more numbers": ("[1.5]", "[1.5, 1.5]", "text differs"),
    "missing line": ("a 1.0\nb\nc 2.0\n", "a 1.00001\nc 2.00001\n", "missing line 2: 'b'"),
    "extra line": ("a\nc\n", "a\nb\nc\n", "extra line 2: 'b'"),
    "empty line": ("1.0\n\n2.0", "1.0\n2.0", "missing line 2: ''"),
    "two newlines at the end": ("a\n\n", "a\n", "missing line 2: ''"),
    "form feed": ("a\x0cb", "a\nb", "extra line"),
    "new nan": ("loss 1.5", "loss nan", "nan in the new output"),
    "nan on both sides": ("loss nan", "loss nan", "nan in the stored output"),
    "NaN in a list": ("[1.0, NaN]", "[1.0, NaN]", "NaN in the new output"),
    "inf on both sides": ("-inf", "-inf", "inf in the new output"),
    "other unit of time": ("in 27.3 s", "in 27.4 min", "text differs"),
    "time that is no measurement": ("at t = 3.1 s", "at t = 3.3 s", "stored 3.1, new 3.3"),
    "hexadecimal number": ("mask 0x7f01", "mask 0x7f02", "text differs"),
    "kind of device": ("device: cpu", "device: tpu", "text differs"),
}


@pytest.mark.parametrize("stored, new", AGREE.values(), ids=AGREE)
def test_texts_that_agree(stored, new):
    new = stored if new is None else new
    assert compare(stored, new) == []
    assert compare(new, stored) == []


@pytest.mark.parametrize("stored, new, message", DIFFER.values(), ids=DIFFER)
def test_texts_that_differ(stored, new, message):
    assert message in "\n".join(compare(stored, new))
    assert compare(new, stored)


def test_a_difference_shows_the_place_and_both_lines():
    assert compare("start\nloss 142.80 at 3.5\n", "start\nloss 142.90 at 3.5\n") == [
        "output 1 (stdout), line 2, number 1: stored 142.80, new 142.90, deviation 0.1,"
        " tolerance 0.01 (one unit of the last digit)\n"
        "    stored: 'loss 142.80 at 3.5'\n"
        "    new:    'loss 142.90 at 3.5'"
    ]


def test_every_difference_is_reported():
    assert len(compare("1.5 2.5 3\nword\n1.5", "1.7 2.7 4\nWord\n1.5")) == 4


def test_the_declared_tolerance_is_the_one_that_counts():
    assert compare("100.0", "101.0", rtol=0.02) == []
    assert compare("100.0", "101.0", rtol=0.005)
    assert compare("100.0", "101.0", rtol=0.0, atol=1.5) == []
    assert compare("1.0", "1.5", rtol=0.25, atol=0.25) == []
    assert compare("1.0", "1.53125", rtol=0.25, atol=0.25)
    assert compare("100.0", "100.0", rtol=0.0, atol=0.0) == []
    assert compare("100.0", "100.0000002", rtol=0.0, atol=0.0)
    (difference,) = compare("100.0", "103.0", rtol=0.01, atol=0.5)
    assert difference.splitlines()[0].endswith("tolerance 1.5 (atol 0.5 + rtol 0.01 × |stored|)")


@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["", "-", "−"]))
def test_a_rounding_may_turn_the_last_digit_and_no_more(n, decimals, sign):
    def text(n):
        return f"{sign}{n / 10**decimals:.{decimals}f} nats"

    assert compare(text(n), text(n + 1)) == compare(text(n + 1), text(n)) == []
    assert compare(text(n), text(n + 2)) and compare(text(n + 2), text(n))


def test_integers_have_a_tolerance_only_if_declared():
    assert compare("9,905 hits", "9,915 hits", rtol=0.01)
    assert compare("9,905 hits", "9,915 hits", rtol=0.01, integers=True) == []
    assert compare("9,905 hits", "10,105 hits", rtol=0.01, integers=True)
    assert compare("12 hits", "13 hits", integers=True) == []
    assert compare("12 hits", "14 hits", integers=True)


def test_the_tolerance_is_relative_to_the_stored_number():
    assert compare("100.0", "150.0", rtol=0.4)
    assert compare("150.0", "100.0", rtol=0.4) == []


# The list of outputs


def test_pieces_of_a_stream_are_merged():
    picture = display("text/html", "<b>x</b>")
    pieces = [stream("a"), stream("warning", "stderr"), picture, stream("b\n")]
    whole = [stream("ab\n"), stream("warning", "stderr"), picture]
    assert compare_cell_outputs(pieces, whole) == []
    assert pieces[0].text == "a"  # the notebook in memory is not changed


OUTPUTS = [stream("a 1.5\n"), display("text/html", "<b>x</b>")]
OTHER_OUTPUTS = {
    "missing output": (OUTPUTS[:1], "missing output (display_data: text/html)"),
    "extra output": ([*OUTPUTS, display("text/latex", "$x$")], "extra output (display_data: t"),
    "other order": (OUTPUTS[::-1], "missing output"),
    "other stream": ([stream("a 1.5\n", "stderr"), OUTPUTS[1]], "extra output (stderr): 'a 1.5"),
    "new warning": ([*OUTPUTS, stream("careful\n", "stderr")], "extra output (stderr): 'careful"),
    "result for display": (
        [OUTPUTS[0], new_output("execute_result", data={"text/html": "<b>x</b>"})],
        "extra output (execute_result: text/html)",
    ),
    "other type of content": (
        [OUTPUTS[0], display("text/plain", "<b>x</b>")],
        "extra output (display_data: text/plain): '<b>x</b>'",
    ),
    "other metadata": (
        [OUTPUTS[0], display("text/html", "<b>x</b>", isolated=True)],
        "metadata: stored {}, new {'isolated': True}",
    ),
    "nothing": ([], "missing output (stdout): 'a 1.5"),
    "new error": ([*OUTPUTS, error()], "extra output (error): 'ValueError: x must be positive'"),
}


@pytest.mark.parametrize("new, message", OTHER_OUTPUTS.values(), ids=OTHER_OUTPUTS)
def test_lists_of_outputs_that_differ(new, message):
    assert message in "\n".join(compare_cell_outputs(OUTPUTS, new))
    assert compare_cell_outputs(new, OUTPUTS)
    assert compare_cell_outputs(OUTPUTS, OUTPUTS) == []


def test_an_error_is_equal_only_where_it_is_expected():
    assert "raises-exception" in compare_cell_outputs([error()], [error()])[0]
    elsewhere = error() | {"traceback": ["/root/b/file.py"]}
    assert compare_cell_outputs([error()], [elsewhere], error_expected=True) == []
    for other in (error(name="TypeError"), error(value="x must be negative")):
        assert compare_cell_outputs([error()], [other], error_expected=True)
    assert compare_cell_outputs([error()], [], error_expected=True)


# Other kinds of content


def test_html_and_latex_are_text_with_numbers():
    table = "<table><tr><td>1.50001</td><td>60,000</td></tr></table>"
    for mime in ("text/html", "text/latex", "text/markdown", "image/svg+xml", "text/plain"):
        for change, agree in (
            ("1.50002", True),
            ("1.6", False),
            ("-1.50001", False),
            ("<b>1.50001</b>", False),
        ):
            new = table.replace("1.50001", change)
            assert (compare(display(mime, table), display(mime, new)) == []) is agree
        assert compare(display(mime, table), display(mime, table.replace("60,000", "60,001")))


JSON = {"a": [1, 2.5, None, True], "b": {"c": "loss 1.5"}}
OTHER_JSON = [
    {"a": [2, 2.5, None, True], "b": {"c": "loss 1.5"}},
    {"a": [1, 2.7, None, True], "b": {"c": "loss 1.5"}},
    {"a": [1, 2.5, None], "b": {"c": "loss 1.5"}},
    {"a": [1, 2.5, None, 1], "b": {"c": "loss 1.5"}},
    {"a": [1, 2.5, False, True], "b": {"c": "loss 1.5"}},
    {"a": [1, 2.5, None, True], "b": {"c": "loss 1.7"}},
    {"a": [1, 2.5, None, True], "b": {"d": "loss 1.5"}},
    {"a": [1, 2.5, None, True]},
    {"a": [1, math.nan, None, True], "b": {"c": "loss 1.5"}},
]


@pytest.mark.parametrize("mime", ["application/json", "application/geo+json"])
def test_json(mime):
    near = {"a": [1, 2.50001, None, True], "b": {"c": "loss 1.50001"}}
    assert compare(display(mime, JSON), display(mime, near)) == []
    for other in OTHER_JSON:
        assert compare(display(mime, JSON), display(mime, other)), other
    assert compare(display(mime, OTHER_JSON[-1]), display(mime, OTHER_JSON[-1]))  # nan


def test_unknown_content_is_compared_exactly():
    assert compare(display("application/pdf", "1.5"), display("application/pdf", "1.5")) == []
    assert compare(display("application/pdf", "1.5"), display("application/pdf", "1.50000001"))


# Widgets


def base64_of(numbers, kind):
    return base64.b64encode(np.array(numbers, kind).tobytes()).decode()


def widget(name="a", *, view=None, **changes):
    """An output that shows a widget, and its models; `changes` in it, by the name of the trait."""
    state = {
        "_model_name": "AnyModel",
        "_esm": "export default { width: 0.50, far: Infinity }",
        "z": [0.5, {"x": -1.25}],
        "label": "loss 1.50",
        "on": True,
        "layout": f"IPY_MODEL_{name}-layout",
    } | {key: value for key, value in changes.items() if key != "codes"}
    state = {key: value for key, value in state.items() if value is not Ellipsis}
    codes = {"path": ["codes"], "encoding": "base64"}
    codes["data"] = changes.get("codes", base64_of([0.5, -2.0, 1e-3], "<f4"))
    layout = {"_model_name": "LayoutModel", "width": "100%", "height": None}
    models = {
        name: {"model_name": "AnyModel", "state": state, "buffers": [codes]},
        f"{name}-layout": {"model_name": "LayoutModel", "state": layout},
    }
    view = {"version_major": 2, "version_minor": 0, "model_id": name} | (view or {})
    return display(WIDGET_VIEW, view), models


def compare_widgets(stored, new, **tolerance):
    outputs, models = zip(stored, new)
    models = {"stored_models": models[0], "new_models": models[1]}
    return compare_cell_outputs(outputs[:1], outputs[1:], Tolerance(**tolerance), **models)


def test_widgets_whose_models_agree():
    assert compare_widgets(widget("a"), widget("b")) == []
    near = widget("b", z=[0.6, {"x": -1.24}])
    assert compare_widgets(widget("a"), near) == []  # one unit of the last digit
    # A layout's traits without a value may be left out; no other may.
    output, models = widget("b")
    del models["b-layout"]["state"]["height"]
    assert compare_widgets(widget("a"), (output, models)) == []


OTHER_WIDGETS = {
    "view": ({"view": {"version_major": 3}}, "version_major"),
    "number": ({"z": [0.5, {"x": -1.5}]}, "model.z[1].x, number 1: stored -1.25, new -1.5"),
    "nan": ({"z": [0.5, {"x": math.nan}]}, "nan in the new output"),
    "fewer": ({"z": [0.5]}, "model.z: 2 values stored, 1 new"),
    "other key": ({"z": [0.5, {"y": -1.25}]}, "model.z[1]: stored {'x': -1.25}, new {'y'"),
    "switch": ({"on": False}, "model.on"),
    "no value": ({"on": None}, "model.on: stored True, new None"),
    "text": ({"label": "loss 1.51"}, "model.label, compared exactly, from character 0\n    'loss"),
    "module": ({"_esm": "export default { width: 0.51, far: Infinity }"}, "model._esm, compared"),
    "missing": ({"label": ...}, "missing trait of model: label"),
    "extra": ({"_css": "p {}"}, "extra trait of model: _css"),
    "kind of model": ({"_model_name": "OtherModel"}, "model._model_name, compared exactly"),
    "buffer": ({"codes": base64_of([0.5, -2.0, 1.001e-3], "<f4")}, "model.codes: 2 of 12 numbers"),
    "shorter buffer": ({"codes": base64_of([0.5], "<f4")}, "12 bytes stored, 4 in the new run"),
    "no buffer": ({"codes": "?"}, "model.codes: cannot be decoded"),
}


@pytest.mark.parametrize("name", OTHER_WIDGETS)
def test_widgets_whose_models_differ(name):
    changes, message = OTHER_WIDGETS[name]
    differences = compare_widgets(widget(), widget("b", **changes))
    assert message in differences[0]
    assert len(differences) == (2 if name == "nan" else 1)


def test_what_a_model_refers_to_is_compared():
    output, models = widget("b")
    models["b-layout"]["state"]["width"] = "50%"
    (difference,) = compare_widgets(widget("a"), (output, models))
    assert "model.layout.width, compared exactly" in difference
    del models["b-layout"]
    (difference,) = compare_widgets(widget("a"), (output, models))
    assert difference == "model.layout: there is no state of it in the new run"
    del models["b"]["buffers"]
    assert "missing binary trait of model: codes" in compare_widgets(widget("a"), (output, models))


def test_a_view_whose_model_is_not_stored():
    output, models = widget("a")
    (difference,) = compare_widgets((output, {}), widget("b"))
    assert difference == "model: there is no state of it stored with the notebook"
    assert compare_cell_outputs([output], [output]) == [difference]


@pytest.mark.parametrize(
    ("kind", "stored", "new", "tolerance", "agree"),
    [
        ("float32", [0.5, -2.0], [0.5, -2.001], {"atol": 0.01}, True),
        ("float32", [0.5, -2.0], [0.5, -2.001], {"rtol": 1e-3}, True),
        ("float32", [0.5, -2.0], [0.5, -2.001], {"rtol": 1e-4}, False),
        ("float32", [0.5, -2.0], [0.5, -2.001], {}, False),
        ("float32", [0.5, -2.0], [0.5, math.nan], {"atol": 0.01}, False),
        ("float64", [math.inf], [math.inf], {}, False),
        ("int16", [500, -2], [501, -2], {"atol": 1.0, "integers": True}, True),
        ("int16", [500, -2], [502, -2], {"atol": 1.0, "integers": True}, False),
        ("int16", [500, -2], [501, -2], {"atol": 1.0}, False),
    ],
)
def test_numbers_in_buffers(kind, stored, new, tolerance, agree):
    both = [widget(codes=base64_of(numbers, kind)) for numbers in (stored, new)]
    declared = cell_tolerance({"vae_book": {"buffers": {"codes": kind}, **tolerance}})
    outputs, models = zip(*both)
    comparison = Comparison(
        outputs[:1], outputs[1:], declared, stored_models=models[0], new_models=models[1]
    )
    assert (comparison.differences == []) == agree
    if agree:
        (deviation,) = comparison.deviations
        assert 0 < comparison.largest_ratio <= 1 and "model.codes, number" in deviation.where
    # Without the declaration not even a small deviation passes.
    assert stored == new or compare_widgets(*both, **tolerance)


def test_bytes_that_are_no_numbers_of_the_declared_kind():
    odd = widget(codes=base64_of([1, 2, 3], "uint8"))
    (difference,) = compare_widgets(odd, odd, buffers={"codes": "float32"})
    assert "3 bytes are no numbers of kind float32" in difference


def message(kind, name, state=None, buffers=None, **content):
    data = {"method": "update"} | ({} if state is None else {"state": state})
    buffers = buffers or {}
    data["buffer_paths"] = [key.split(".") for key in buffers]
    content = {"comm_id": name, "data": data} | content
    return {"msg_type": kind, "content": content, "buffers": list(buffers.values())}


def test_models_follow_the_kernel():
    widgets = WidgetModels()
    names = {"_model_name": "A", "_model_module": "m", "_model_module_version": "1"}
    opened = names | {"x": 1, "big": None}
    widgets.handle(message("comm_open", "a", opened, target_name="jupyter.widget"))
    widgets.handle(message("comm_open", "b", {"x": 5}, target_name="another"))
    widgets.handle(message("comm_msg", "a", {"x": 2}, {"big": b"\x00\x01", "w.1": b"ab"}))
    widgets.handle(message("comm_msg", "a", {"x": [3]}))
    widgets.handle(message("comm_msg", "a"))  # one that the widget's author sent
    widgets.handle(message("stream", "a", text="x"))
    assert set(widgets.models) == {"a"}
    model = widgets.models["a"]
    assert model["state"] == names | {"x": [3]}
    assert [model["model_name"], model["model_module"], model["model_module_version"]] == [*"Am1"]
    assert [(each["path"], each["data"]) for each in model["buffers"]] == [
        (["big"], "AAE="),
        (["w", "1"], "YWI="),
    ]
    widgets.handle(message("comm_msg", "a", {"big": None}, {"w.1": b"c"}))
    assert model["state"] == names | {"x": [3], "big": None}
    assert [(each["path"], each["data"]) for each in model["buffers"]] == [(["w", "1"], "Yw==")]


def test_models_that_are_shown():
    models = {
        name: {"model_name": "A", "state": {"on": [f"IPY_MODEL_{other}", {"x": 1}]}}
        for name, other in [("a", "b"), ("b", "a"), ("c", "a"), ("d", "gone")]
    }
    view = display(WIDGET_VIEW, {"model_id": "c"})
    assert list(models_shown([stream("x"), view], models)) == ["c", "a", "b"]
    notebook = new_notebook(metadata={"widgets": {WIDGET_STATE: {"state": models}}})
    assert stored_models(notebook) == models and stored_models(new_notebook()) == {}


# Figures


def png(pixels, level=6, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "png", compress_level=level)
    return base64.b64encode(buffer.getvalue()).decode()


PIXELS = np.random.default_rng(0).integers(0, 200, (50, 70, 3), dtype=np.uint8)


def compare_pixels(new, **tolerance):
    return compare(display("image/png", png(PIXELS)), display("image/png", png(new)), **tolerance)


def test_figures_are_compared_by_their_pixels_not_their_bytes():
    first, second = (display("image/png", png(PIXELS, level)) for level in (1, 9))
    assert first != second and compare(first, second) == []
    in_lines = re.sub("(.{76})", r"\1\n", png(PIXELS)) + "\n"
    assert compare(first, display("image/png", in_lines)) == []
    opaque = display("image/png", png(PIXELS, mode="RGBA"))
    assert compare(first, opaque) == []


def test_figures_within_the_tolerance():
    assert compare_pixels(PIXELS + np.uint8(2)) == []
    assert compare_pixels(PIXELS + np.uint8(4))
    assert compare_pixels(PIXELS + np.uint8(4), rms=4.0) == []
    assert compare_pixels(PIXELS + np.uint8(1), rms=0.0)


@pytest.mark.parametrize("y, x", [(0, 0), (20, 31), (49, 69)])
@pytest.mark.parametrize("step", [1, -1])  # bytes that wrapped around would hide one of the two
def test_one_pixel_is_enough(y, x, step):
    new = PIXELS.astype(int)
    new[y, x] = 255 if step > 0 else 0
    message = compare_pixels(new.astype(np.uint8), rms=0.5)[0]
    assert f"near x = {x // 16 * 16}, y = {y // 16 * 16} pixels" in message


def test_figures_of_other_sizes_differ():
    assert "stored 70 × 50, new 69 × 50" in compare_pixels(PIXELS[:, :-1])[0]
    assert compare_pixels(PIXELS.transpose(1, 0, 2))


def test_transparency_counts():
    clear = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 100, np.uint8)])
    assert compare_pixels(clear)


@pytest.mark.parametrize("broken", ["", "AAAA", "no picture", png(PIXELS)[:2000]])
def test_a_broken_picture_is_a_difference(broken):
    assert "cannot be decoded" in compare(
        display("image/png", png(PIXELS)), display("image/png", broken)
    )[0]


def test_the_largest_ratio_is_recorded():
    def ratio(stored, new, **tolerance):
        return Comparison([stored], [new], Tolerance(**tolerance)).largest_ratio

    assert ratio(stream("1.5 nine"), stream("1.5 nine")) == 0
    texts = stream("100.0 10.0 5"), stream("100.5 10.1 5")
    assert ratio(*texts, rtol=0.01, atol=0.0) == pytest.approx(1.0)
    assert ratio(*texts, rtol=0.1, atol=0.0) == pytest.approx(0.1)
    assert ratio(*texts, rtol=0.0, atol=0.0) == pytest.approx(5.0)
    pictures = [display("image/png", png(p)) for p in (PIXELS, PIXELS + np.uint8(2))]
    opacity_is_equal = math.sqrt(3 / 4)
    assert ratio(*pictures, rms=4.0) == pytest.approx(0.5 * opacity_is_equal)


# What a notebook may declare


def test_the_tolerance_comes_from_the_metadata():
    assert cell_tolerance({}) == cell_tolerance({"vae_book": {}}) == Tolerance()
    declared = {"rtol": 0.001, "atol": 0, "rms": 5, "integers": True}
    assert cell_tolerance({"vae_book": declared, "tags": ["x"]}) == Tolerance(0.001, 0, 5, True)
    assert cell_tolerance({"vae_book": {"rms": 5.0}}) == Tolerance(rms=5.0)


@pytest.mark.parametrize(
    "declared, message",
    [
        ({"rtl": 0.1}, "expected keys rtol, atol, rms, integers, buffers, got 'rtl'"),
        ({"rtol": -0.1}, "rtol: expected a finite number from 0 to below 1, got -0.1"),
        ({"rtol": 1}, "rtol: expected a finite number from 0 to below 1, got 1"),
        ({"rtol": "0.1"}, "got '0.1'"),
        ({"rtol": True}, "got True"),
        ({"atol": math.inf}, "atol: expected a finite number"),
        ({"atol": math.nan}, "atol: expected a finite number"),
        ({"rms": 128}, "rms: expected a finite number from 0 to below 128"),
        ({"rms": None}, "got None"),
        ({"integers": 1}, "integers: expected a bool, got 1"),
        ({"buffers": {"codes": "text"}}, "buffers: expected names of traits, each with one of"),
        ({"buffers": "float32"}, "buffers: expected names of traits, each with one of float16, "),
        (0.1, "expected a table of tolerances, got 0.1"),
        (None, "expected a table of tolerances, got None"),
    ],
)
def test_a_wrong_declaration_is_an_error(declared, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cell_tolerance({"vae_book": declared})


def code(source="1", executed=True, **metadata):
    return new_code_cell(source, execution_count=1 if executed else None, metadata=metadata)


OPT_OUT = "NBVAL" + "_SKIP"  # put together, so that a search for the word finds real uses only
FAULTY_CELLS = {
    "never executed": (code(executed=False), "Cell 1 was never executed"),
    "opt-out comment": (
        code(f"x = 1\n  #  {OPT_OUT}"),
        f"Cell 1 opts out of the comparison by {OPT_OUT}",
    ),
    "old opt-out comment": (code("# PYTEST_VALIDATE" + "_IGNORE_OUTPUT"), "Cell 1 opts out"),
    "opt-out tag": (code(tags=["a", "nbval-ignore" + "-output"]), "Cell 1 opts out"),
    "unknown tolerance": (code(vae_book={"tol": 1}), "Cell 1: metadata vae_book: expected keys"),
}


@pytest.mark.parametrize("cell, message", FAULTY_CELLS.values(), ids=FAULTY_CELLS)
def test_faults_of_a_notebook(cell, message):
    (fault,) = notebook_faults(new_notebook(cells=[code(), cell]))
    assert fault.startswith(message)


def test_a_notebook_without_faults():
    cells = [
        code(),
        code("", executed=False),  # nothing to execute
        code("1 / 0", tags=["raises-exception"]),
        code("x = '# " + OPT_OUT + "'", vae_book={"rms": 3.0}),
    ]
    assert notebook_faults(new_notebook(cells=cells)) == []


# Any text, any number


words = st.text(
    st.characters(codec="utf-8", exclude_categories=["N"], exclude_characters=",")
).filter(lambda text: not re.search("nan|inf", text, re.IGNORECASE))


@given(st.text())
@example("nanometre 1.5 −0.25 1e999 #12e345 2.14.1\r\n\x0c  ")
def test_any_text_agrees_with_itself(text):
    assume(not re.search("nan|inf", text, re.IGNORECASE))
    outputs = [stream(text), display("text/html", text), display("application/json", [text])]
    assert compare_cell_outputs(outputs, outputs) == []


FORMATS = ["{}", "{:.6f}", "{:+.8e}", "{:12.5f}", "{:,.4f}", "{:#.12g}"]
DELIMITERS = [" ", "=", ": ", ", ", "(", "[", "|", "/", "±", "%", " s", "\n", "<td>", "</td>", "$"]


@given(st.data())
def test_a_number_is_found_in_any_text(data):
    """A number that is out of tolerance is caught, whatever stands around it."""
    count = data.draw(st.integers(1, 5))
    formats = data.draw(st.lists(st.sampled_from(FORMATS), min_size=count, max_size=count))
    between = data.draw(
        st.lists(
            st.tuples(words, st.sampled_from(DELIMITERS)), min_size=count + 1, max_size=count + 1
        )
    )
    magnitudes = st.floats(0.01, 1e9).flatmap(lambda x: st.sampled_from([x, -x]))
    values = data.draw(st.lists(magnitudes, min_size=count, max_size=count))

    def text(numbers):
        shown = [style.format(x) for style, x in zip(formats, numbers, strict=True)]
        parts = [word + delimiter for word, delimiter in between]
        return "".join(part + number for part, number in zip(parts, [*shown, ""], strict=True))

    tolerance = {"rtol": 0.01, "atol": 1e-3}
    far = [x * (1 + 0.001 * data.draw(st.floats(-1, 1))) for x in values]
    index = data.draw(st.integers(0, count - 1))
    far[index] += data.draw(st.sampled_from([1, -1])) * (0.02 + 0.03 * abs(values[index]))
    assert compare(text(values), text(far), **tolerance)
    far[index] = -values[index]
    assert compare(text(values), text(far), **tolerance)


@given(
    st.lists(st.floats(-1e9, 1e9).map(lambda x: x + math.copysign(0.0123, x)), min_size=1),
    st.sampled_from(FORMATS),
    st.sampled_from([(" ", ""), ("[", "]"), ("<td>", "</td>"), ("x=", "%"), ("(±", ") s")]),
    st.data(),
)
def test_only_the_tolerance_decides(values, style, around, data):
    def text(numbers):
        return "\n".join(around[0] + style.format(x) + around[1] for x in numbers)

    near = [x * (1 + 0.001 * data.draw(st.floats(-1, 1))) for x in values]
    index = data.draw(st.integers(0, len(values) - 1))
    far = list(near)
    far[index] = values[index] * data.draw(st.sampled_from([-1, 0, 0.97, 1.03]))
    tolerance = {"rtol": 0.01, "atol": 1e-4}
    assert compare(text(values), text(near), **tolerance) == []
    differences = compare(text(values), text(far), **tolerance)
    assert len(differences) == 1


@given(st.lists(words, min_size=2), st.data())
def test_a_missing_or_changed_line_is_caught(lines, data):
    lines = [line.replace("\n", "") + "." for line in lines]
    index = data.draw(st.integers(0, len(lines) - 1))
    assert compare("\n".join(lines), "\n".join(lines[:index] + lines[index + 1 :]))
    changed = [*lines[:index], lines[index] + "x", *lines[index + 1 :]]
    assert len(compare("\n".join(lines), "\n".join(changed))) == 1


# A notebook under `pytest --nbval`


FIGURE = """
import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(3, 2))
{}
plt.show()
"""
IMAGE = FIGURE.format("ax.imshow([[0, 1], [2, 4]], cmap={!r})")
POINTS = FIGURE.format("ax.scatter({}, c=[0.0, 0.5, 1.0])")
TICKS = FIGURE.format("ax.plot([0, 1]); ax.set_xticks([0, {}, 1], ['0', 'half', '1'])")
UPDATED = """from IPython.display import display
bar = display({{"text/plain": "Training"}}, raw=True, display_id=True)
print("beside it")
bar.update({{"text/plain": "loss {}"}}, raw=True)"""
WIDGET = """import anywidget, traitlets
class Figure(anywidget.AnyWidget):
    _esm = "export default {{ render() {{ {} }} }}"
    z = traitlets.List([0.5, {}]).tag(sync=True)
    codes = traitlets.Bytes({}).tag(sync=True)
    __repr__ = lambda self: "Figure()"
figure = Figure()
figure.z = figure.z + [{}]
figure"""
TABLE = "from IPython.display import HTML\nHTML('<table><td>{}</td><td>{}</td></table>')"
LOOSE = {"vae_book": {"rtol": 0.1, "rms": 100.0}}

# The code that was executed before it was committed, the code that stands there now, what the
# report has to say (None: the cell passes), and the metadata of the cell.
CELLS = {
    "same text": ("print('loss', 1.5)", None, None, {}),
    "within the tolerance": ("print('loss 1.50000')", "print('loss 1.50001')", None, {}),
    "declared tolerance": ("print('loss 1.50')", "print('loss 1.60')", None, LOOSE),
    "same figure": (IMAGE.format("viridis"), None, None, {}),
    "same table": (TABLE.format(1.5, "60,000"), None, None, {}),
    "same widget": ("import ipywidgets\nipywidgets.IntSlider(3)", None, None, {}),
    "same live figure": (WIDGET.format("", 1.25, b"ab", 2), None, None, {}),
    "live figure's trait": (
        WIDGET.format("", 1.25, b"ab", 2),
        WIDGET.format("", 1.5, b"ab", 2),
        "model.z[1], number 1: stored 1.25, new 1.5, deviation",
        {},
    ),
    "live figure's trait that is set later": (
        WIDGET.format("", 1.25, b"ab", 2),
        WIDGET.format("", 1.25, b"ab", 3),
        "model.z[2], number 1: stored 2, new 3",
        {},
    ),
    "live figure's buffer": (
        WIDGET.format("", 1.25, b"ab", 2),
        WIDGET.format("", 1.25, b"ac", 2),
        "model.codes: 1 of 2 numbers differ, compared exactly",
        {},
    ),
    "live figure's module": (
        WIDGET.format("1.0", 1.25, b"ab", 2),
        WIDGET.format("1.1", 1.25, b"ab", 2),
        "model._esm, compared exactly",
        {},
    ),
    "live figure missing": (
        WIDGET.format("", 1.25, b"ab", 2),
        WIDGET.format("", 1.25, b"ab", 2) + "\nNone",
        "missing output (execute_result: application/vnd.jupyter.widget-view+json",
        {},
    ),
    "same error": ("raise ValueError('no')", None, None, {"tags": ["raises-exception"]}),
    "from C": ("import os, time\nn = os.write(1, b'x')\ntime.sleep(0.2)", None, None, {}),
    "own folder": ("print(open('beside.txt').read())", None, None, {}),
    "no output": ("x = 1", None, None, {}),
    "same last update": (UPDATED.format(1.5), None, None, {}),
    "last update": (
        UPDATED.format(1.5), UPDATED.format(1.7), "text/plain, number 1: stored 1.5", {}
    ),
    "sanitised": (
        "print('device: cuda:0, in 12.3 s', '<f at 0x7f01a2>')",
        "print('device: cpu, in 4 s', '<f at 0x55c0ff>')",
        None,
        {},
    ),
    "number": (
        "print('loss 1.50')",
        "print('loss 1.52')",
        "stored 1.50, new 1.52, deviation 0.02, tolerance 0.01 ",
        {},
    ),
    "beyond the declared tolerance": (
        "print('loss 1.50')",
        "print('loss 1.80')",
        "stored 1.50, new 1.80, deviation 0.3, tolerance 0.15 ",
        LOOSE,
    ),
    "word": ("print('falls')", "print('rises')", "the text differs", {}),
    "missing line": ("print('a\\nb')", "print('a')", "missing line 2: 'b'", {}),
    "extra output": ("print(1)", "print(1); display(2)", "extra output (display_data", {}),
    "missing output": ("print(1); display(2)", "print(1)", "missing output (display_data", {}),
    "other order": (
        "display(1); print(2)",
        "print(2, flush=True); display(1)",
        "extra output (stdout): '2",
        {},
    ),
    "nan": ("print(float('nan'))", None, "nan in the new output", {}),
    "count": ("print('9,905 of 10,000')", "print('9,906 of 10,000')", "new 9,906, compared", {}),
    "sign": ("1.5", "-1.5", "stored 1.5, new -1.5", {}),
    "warning": (
        "print(1)",
        "import warnings\nprint(1)\nwarnings.warn('beware')",
        "UserWarning: beware",
        {},
    ),
    "table": (TABLE.format(1.5, 2), TABLE.format(1.7, 2), "text/html, number 1: stored 1.5", {}),
    "colours reversed": (IMAGE.format("viridis"), IMAGE.format("viridis_r"), "figure differs", {}),
    "axes swapped": (
        POINTS.format("[0, 1, 2], [0, 2, 1]"),
        POINTS.format("[0, 2, 1], [0, 1, 2]"),
        "the figure differs",
        {},
    ),
    "tick moved": (TICKS.format(0.5), TICKS.format(0.505), "the figure differs", {}),
    "figure missing": (
        IMAGE.format("viridis"),
        IMAGE.format("viridis").replace("plt.show()", "plt.close()"),
        "missing output (display_data: image/png, text/plain)",
        {},
    ),
    "error": ("print(1)", "print(1); raise ValueError('no')", "caused an exception", {}),
    "error no more": (
        "raise ValueError('no')",
        "0",
        "missing output (error): 'ValueError: no'",
        {"tags": ["raises-exception"]},
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what makes `pytest --nbval book` strict, with a book of its own."""
    top = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "conftest.py", "tests/nb_compare.py"):
        (top / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, top / name)
    (top / "book").mkdir()
    (top / "book" / "beside.txt").write_text("a file in the notebook's own folder")
    return top


def run_pytest(project, *arguments):
    """Run pytest as a user would: in the top folder, with only the notebooks' folder named."""
    # An Agg backend, as test machines often set it, must not cost the figures.
    report = {"VAE_BOOK_REPORT": str(project / "report.jsonl"), "MPLBACKEND": "agg"}
    # Old packages warn on import; that is not what is tested here, and they may.
    command = [sys.executable, "-m", "pytest", "-W", "default", *arguments]
    return subprocess.run(
        command, cwd=project, env=outer_environment() | report, capture_output=True, text=True
    )


def outer_environment():
    """The environment without what this run of pytest, or its user, added for itself."""
    names = [name for name in os.environ if "PYTEST" not in name and name != "MPLBACKEND"]
    return {name: os.environ[name] for name in names}


@pytest.fixture(scope="module")
def outcomes(project):
    """What pytest says of each of CELLS: None if it passed, else its report."""
    notebook = new_notebook(
        cells=[new_code_cell(cell[0], metadata=cell[3]) for cell in CELLS.values()]
    )
    folder = {"metadata": {"path": project / "book"}}
    client = NotebookClient(notebook, resources=folder, allow_errors=True)
    client.execute(env=outer_environment())
    for cell, (_, now, _, _) in zip(notebook.cells, CELLS.values(), strict=True):
        cell.source = now or cell.source
    # Whatever kernel the author had, the one of this environment is to run the cells.
    notebook.metadata.kernelspec = {"name": "elsewhere", "display_name": "elsewhere"}
    nbformat.write(notebook, project / "book" / "cases.ipynb")

    result = run_pytest(project, "--nbval", "book", "--junitxml=results.xml", "--color=no")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    cases = ElementTree.parse(project / "results.xml").findall(".//testcase")
    assert len(cases) == len(CELLS)
    failures = [case.find("failure") for case in cases]
    reports = [None if failure is None else failure.text for failure in failures]
    return dict(zip(CELLS, reports, strict=True)), result.stdout


@pytest.mark.parametrize("name", CELLS)
def test_cells_under_nbval(outcomes, name):
    report, message = outcomes[0][name], CELLS[name][2]
    if message is None:
        assert report is None
    else:
        assert message in report


def test_the_report_shows_the_cell(outcomes):
    report = outcomes[0]["number"]
    assert f"Cell {list(CELLS).index('number')}: Cell outputs differ" in report
    assert "print('loss 1.52')" in report


def test_the_header_names_the_tolerance(outcomes):
    assert f"every output is compared; {Tolerance()}" in outcomes[1]


def test_the_deviations_are_recorded(outcomes, project):
    records = [json.loads(line) for line in (project / "report.jsonl").read_text().splitlines()]
    assert {record["notebook"] for record in records} == {os.path.join("book", "cases.ipynb")}
    by_cell = {list(CELLS)[record["cell"]]: record for record in records}
    assert set(CELLS) - set(by_cell) == {"error"}  # it never came to a comparison
    for name, record in by_cell.items():
        assert (record["differences"] > 0) == (CELLS[name][2] is not None)
    assert by_cell["same figure"]["outputs"] == by_cell["from C"]["outputs"] == 1
    assert by_cell["same figure"]["largest_ratio"] == 0
    assert by_cell["number"]["largest_ratio"] == pytest.approx(2.0)
    assert by_cell["declared tolerance"]["largest_ratio"] == pytest.approx(0.1 / 0.15)


def test_a_notebook_with_faults_is_not_run(project):
    folder = project / "faulty"
    folder.mkdir()
    cells = [cell for cell, _ in FAULTY_CELLS.values()]
    nbformat.write(new_notebook(cells=cells), folder / "faulty.ipynb")
    result = run_pytest(project, "--nbval", "faulty")
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    for number, (_, message) in enumerate(FAULTY_CELLS.values()):
        assert message.replace("Cell 1", f"Cell {number}") in result.stdout


@pytest.mark.parametrize("loose", ["nbval_lax", "nbval_sanitize_with", "sanitize_with"])
def test_options_that_loosen_the_comparison_are_refused(request, loose):
    names = ["nbval_lax", "nbval_sanitize_with", "sanitize_with", "nbval_kernel_name"]
    options = SimpleNamespace(nbval=True, **{name: name == loose for name in names})
    top_conftest = request.config.pluginmanager.get_plugin(str(PROJECT / "conftest.py"))
    with pytest.raises(pytest.UsageError):
        top_conftest.pytest_configure(SimpleNamespace(option=options))


# The data


def test_missing_data_skip_a_test_but_fail_under_ci(request, monkeypatch):
    def load_mnist():
        raise vae_lib.MNISTUnavailableError("nothing at hand\nlong advice")

    conftest = request.config.pluginmanager.get_plugin(str(PROJECT / "tests" / "conftest.py"))
    monkeypatch.setattr(vae_lib, "load_mnist", load_mnist)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no MNIST here \(nothing at hand\); `python"):
        conftest.load_or_skip()
    monkeypatch.setenv("CI", "true")
    with pytest.raises((vae_lib.MNISTUnavailableError, pytest.skip.Exception)) as raised:
        conftest.load_or_skip()
    assert raised.type is vae_lib.MNISTUnavailableError  # a skip would pass for a passed test
