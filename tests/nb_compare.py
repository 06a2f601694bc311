"""Compare what a notebook cell printed and drew when it was committed with what it does now.

Everything is compared: the words exactly, the numbers to one unit of their last digit, the figures
by their pixels, and of a widget the state that its models had when the cell ended. A cell that
needs a wider tolerance declares it in its metadata:

    {"vae_book": {"rtol": 1e-3, "atol": 1e-2, "rms": 5.0, "integers": true,
                  "buffers": {"codes": "float32"}}}

Numbers are found by our own expression, not by pytest-doctestplus' OutputChecker with FLOAT_CMP.
We measured the checker (1.7.1) and it is at once too loose and too strict. It takes as equal: nan
and nan, inf and inf, "+1.5" and "1.5", "x =    2.0" and "x = 2.0", "1.0", an empty line, "2.0" and
"1.0", "2.0". And it sees no number in "12.3%", "1.5/2.5", "1.5s", "(±0.25)", "−1.5" and
"<td>1.5</td>", so these would have to agree to the last digit.
"""

import base64
import binascii
import copy
import difflib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from matplotlib.testing.compare import calculate_rms
from PIL import Image

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
# How a trait of a widget's model refers to another model: this and the other's name.
MODEL_REFERENCE = "IPY_MODEL_"

# What differs between two machines, or two runs, without any result being different.
SANITISERS = (
    (re.compile(r"\b([Dd]evice: )(?:cpu|cuda|mps)(?::\d+)?\b"), r"\1<device>"),
    (re.compile(r"\bdevice\(type='(?:cpu|cuda|mps)'(?:, index=\d+)?\)"), "device(<device>)"),
    (re.compile(r"\b([Ii]n )\d+(?:\.\d+)?( s)\b"), r"\1<seconds>\2"),
    (re.compile(r"\b(at )0x[0-9a-fA-F]+\b"), r"\1<address>"),
)

# A number with the spaces that pad it. It may follow an operator or a bracket, but not a letter, a
# digit or a full stop: "z2.5" is a name, "2.14.1" a version. Nor may it follow #, since
# "#12e345" is a colour. A full stop belongs to it only if a digit or
# an exponent follows, so that "10000." at the end of a sentence is an integer. The possessive
# quantifiers (++, ?+) keep the search from settling for a part of a number.
_NUMBER = re.compile(
    r"""
    (?P<pad>[ ]*+)
    (?<![\w.\#])
    (?P<sign>[-+−]?+)
    (?P<digits>
        (?: [1-9][0-9]{0,2} (?:,[0-9]{3})++ (?:\.[0-9]++)?+    # 60,000 and 1,234.5
          | [0-9]++ (?: \.[0-9]++ | \.(?=[eE][-+]?[0-9]) )?+   # 60000, 1.5 and 1.e-07
          | \.[0-9]++ )                                        # .5
        (?:[eE][-+]?[0-9]++(?!\w))?+
    )
    (?!\.?[0-9])
    """,
    re.VERBOSE,
)
_NOT_FINITE = re.compile(r"(?<![A-Za-z_\\])(?:nan|inf|infinity)(?![A-Za-z_])", re.IGNORECASE)

_IMAGES = ("image/png", "image/jpeg")
_TEXTS = ("image/svg+xml", "application/javascript")  # and text/*

# Pixels are compared tile by tile: over a whole figure, a title that says "142,80" for "142.80"
# has an RMS of only 0.5, and one of 10,000 points that moved an RMS of 0.1.
_TILE = 16

# nbval and its ancestor obey these in a comment or as a tag, and then compare less or nothing.
_OPT_OUT_COMMENT = re.compile(r"^\s*#[#\s]*((?:NBVAL|PYTEST_VALIDATE)_\w+)", re.MULTILINE)
_OPT_OUT_TAGS = ("nbval-", "pytest-validate-")


@dataclass(frozen=True)
class Tolerance:
    """How far a new output may lie from the stored one.

    A number may deviate by one unit of its last digit, whatever is declared: the smallest error
    turns a digit if the number lies in the middle between two. So how many digits a chapter prints
    says how exact a number is. Of the stored number and the new one the finer unit counts. A
    deviation of atol + rtol · |stored| is allowed where that is more.

    Figures are compared in tiles of 16 × 16 pixels, by the root mean square of the pixels'
    differences (0 to 255) in the worst one, rms. Measured: if the data differ by 1e-6 (relative),
    it is at most 1.1 for images, lines, contours and scatters coloured by an array. A tick that
    moves by one pixel gives 70, another digit in a title 51, a full stop that becomes a comma 17,
    and one point that moves among 10,000 others 2.9.

    Integers must be equal unless integers is true; then they are numbers like the others.

    A widget's binary traits must be equal byte for byte. Where buffers says of what kind a trait's
    numbers are ("float32", "int16", …; little-endian, as NumPy names them), they may deviate by
    atol + rtol · |stored|, integers among them only if integers is true: they have no last digit.
    A value within a trait is named by its path, "weights.0".
    """

    rtol: float = 0.0
    atol: float = 0.0
    rms: float = 2.0
    integers: bool = False
    buffers: Mapping[str, str] = field(default_factory=dict)

    def of_number(self, magnitude: float, unit: float) -> float:
        """How far a number may lie from the stored one, whose magnitude is given."""
        # 142.24 − 142.23 is a little more or less than 0.01: the numbers are rounded to 53 bits.
        return max(unit, self.atol + self.rtol * magnitude) + 4 * math.ulp(magnitude)


# With rtol = 1, zero would agree with everything; 128 is the distance of black from mid-grey.
_LIMITS = {"rtol": 1.0, "atol": math.inf, "rms": 128.0}

_NUMBER_KINDS = ("float16", "float32", "float64")
_NUMBER_KINDS += tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32))


def cell_tolerance(metadata: Mapping[str, Any]) -> Tolerance:
    """The tolerance that a cell's metadata declare under "vae_book", else the default one."""
    declared = metadata.get("vae_book", {})
    if not isinstance(declared, Mapping):
        raise ValueError(f"metadata vae_book: expected a table of tolerances, got {declared!r}")
    known = [each.name for each in fields(Tolerance)]
    for key, value in declared.items():
        if key not in known:
            raise ValueError(f"metadata vae_book: expected keys {', '.join(known)}, got {key!r}")
        if key == "integers":
            if not isinstance(value, bool):
                raise ValueError(f"metadata vae_book: integers: expected a bool, got {value!r}")
        elif key == "buffers":
            if not isinstance(value, Mapping) or not set(value.values()) <= set(_NUMBER_KINDS):
                expected = f"names of traits, each with one of {', '.join(_NUMBER_KINDS)}"
                raise ValueError(f"metadata vae_book: buffers: expected {expected}, got {value!r}")
        elif type(value) not in (int, float) or not 0 <= value < _LIMITS[key]:
            expected = f"a finite number from 0 to below {_LIMITS[key]:g}"
            raise ValueError(f"metadata vae_book: {key}: expected {expected}, got {value!r}")
    return Tolerance(**declared)


def notebook_faults(notebook: Any) -> list[str]:
    """What keeps a notebook from being compared strictly: one line for each fault.

    Its code cells must have been executed, no comment or tag may switch a comparison off, and the
    tolerances that the cells declare must be valid. As in nbval's report, Cell 0 is the first code
    cell.
    """
    faults = []
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        if cell.execution_count is None and cell.source.strip():
            faults.append(f"Cell {number} was never executed")
        opt_outs = _OPT_OUT_COMMENT.findall(cell.source)
        opt_outs += [tag for tag in _tags(cell) if tag.startswith(_OPT_OUT_TAGS)]
        faults += [f"Cell {number} opts out of the comparison by {name}" for name in opt_outs]
        try:
            cell_tolerance(cell.metadata)
        except ValueError as error:
            faults.append(f"Cell {number}: {error}")
    return faults


def expects_error(cell: Any) -> bool:
    """Whether the cell is there to show an error."""
    return "raises-exception" in _tags(cell)


def _tags(cell: Any) -> list[str]:
    return [str(tag) for tag in cell.metadata.get("tags", [])]


def compare_cell_outputs(
    stored: Sequence[Mapping],
    new: Sequence[Mapping],
    tolerance: Tolerance = Tolerance(),
    **more: Any,
) -> list[str]:
    """The differences between two lists of outputs, one message for each; empty if they agree.

    more: what else `Comparison` takes.
    """
    return Comparison(stored, new, tolerance, **more).differences


# The models of widgets ----------------------------------------------------------------------------
#
# What a widget shows is not in the output, which names a model only. The models are in the
# notebook's metadata; a kernel tells of them in messages of their own.


class WidgetModels:
    """The models of a kernel's widgets, kept up to date by the kernel's messages.

    models: by name, each as a notebook's metadata hold it: model_name, model_module,
        model_module_version, state, and buffers where it has binary traits.
    """

    def __init__(self):
        self.models: dict[str, dict] = {}

    def handle(self, message: Mapping) -> None:
        """Take in a message from the kernel's iopub channel, if it is about a widget."""
        content, kind = message["content"], message["msg_type"]
        if kind == "comm_open" and content.get("target_name") == "jupyter.widget":
            self.models[content["comm_id"]] = {"state": {}}
        model, data = self.models.get(content.get("comm_id")), content.get("data", {})
        if kind not in ("comm_open", "comm_msg") or model is None or "state" not in data:
            return
        paths = data.get("buffer_paths", [])
        new = copy.deepcopy(dict(data["state"]))
        # A trait may have become binary, or have been so before.
        changed = {*new, *(path[0] for path in paths)}
        kept = {name: value for name, value in model["state"].items() if name not in changed}
        model["state"] = kept | new
        for key in ("model_name", "model_module", "model_module_version"):
            model[key] = model["state"].get(f"_{key}")
        buffers = [each for each in model.pop("buffers", []) if each["path"][0] not in changed]
        for path, buffer in zip(paths, message.get("buffers", []), strict=True):
            text = base64.b64encode(buffer).decode("ascii")
            buffers.append({"data": text, "encoding": "base64", "path": list(path)})
        if buffers:
            model["buffers"] = sorted(buffers, key=lambda each: list(map(str, each["path"])))


def stored_models(notebook: Mapping) -> dict[str, dict]:
    """The models of widgets that a notebook's metadata hold, by name."""
    return notebook["metadata"].get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})


def views(outputs: Iterable[Mapping]) -> Iterator[dict]:
    """The views of widgets among outputs, each with the name of its model under model_id."""
    for output in outputs:
        if WIDGET_VIEW in output.get("data", {}):
            yield output["data"][WIDGET_VIEW]


def models_shown(outputs: Iterable[Mapping], models: Mapping[str, dict]) -> dict[str, dict]:
    """The models that the views among outputs show, and those that these refer to, in order."""
    shown: dict[str, dict] = {}
    waiting = [view["model_id"] for view in views(outputs)]
    while waiting:
        name = waiting.pop(0)
        if name in models and name not in shown:
            shown[name] = models[name]
            waiting += _references(models[name]["state"])
    return shown


def _references(value: Any) -> list[str]:
    """The names of the models that a trait's value refers to."""
    if isinstance(value, str):
        return [value.removeprefix(MODEL_REFERENCE)] if value.startswith(MODEL_REFERENCE) else []
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    return [name for each in value for name in _references(each)] if isinstance(value, list) else []


# The comparison -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deviation:
    """How far a number or a figure lay from the stored one.

    size: the distance of two numbers, or the RMS in the worst tile of a figure; > 0.
    magnitude: |stored| of a number, 0 for a figure.
    unit: of a number's last digit, 0 for a figure.
    """

    kind: str  # "number" or "figure"
    size: float
    magnitude: float
    unit: float
    where: str

    def ratio(self, tolerance: Tolerance) -> float:
        """The size in units of what `tolerance` allows."""
        if self.kind == "figure":
            allowed = tolerance.rms
        else:
            allowed = tolerance.of_number(self.magnitude, self.unit)
        return self.size / allowed if allowed > 0 else math.inf


def last_digit(text: str) -> float:
    """What one more in the last digit of a printed number would add to it."""
    mantissa, _, exponent = text.lower().partition("e")
    return float(f"1e{int(exponent or 0) - len(mantissa.partition('.')[2])}")


class Comparison:
    """A comparison of a cell's stored outputs with its new ones.

    stored, new: outputs as nbformat reads them.
    error_expected: whether an error may be among the outputs.
    stored_models, new_models: the models of the widgets that the outputs show, by name.

    differences: one message for each.
    largest_ratio: the largest deviation, of a number or a figure, in units of its tolerance.
    deviations: every number and figure that is not exactly as stored, within its tolerance or not.
    """

    def __init__(
        self,
        stored: Sequence[Mapping],
        new: Sequence[Mapping],
        tolerance: Tolerance = Tolerance(),
        *,
        error_expected: bool = False,
        stored_models: Mapping[str, dict] | None = None,
        new_models: Mapping[str, dict] | None = None,
    ):
        self.tolerance = tolerance
        self.error_expected = error_expected
        self._models = stored_models or {}, new_models or {}
        self._compared_models: set[tuple[str, str]] = set()
        self.differences: list[str] = []
        self.deviations: list[Deviation] = []

        stored, new = _merge_streams(stored), _merge_streams(new)
        if [_kind(output) for output in stored] != [_kind(output) for output in new]:
            self._report_kinds(stored, new)
            return
        for number, (old, now) in enumerate(zip(stored, new, strict=True), 1):
            self._compare_output(f"output {number} ({_kind(old)})", old, now)

    @property
    def largest_ratio(self) -> float:
        return max((each.ratio(self.tolerance) for each in self.deviations), default=0.0)

    def _report_kinds(self, stored: list[Mapping], new: list[Mapping]) -> None:
        kinds = [[_kind(output) for output in outputs] for outputs in (stored, new)]
        self.differences.append(
            f"{_count(stored)} stored, {_count(new)} in the new run, or their kinds differ"
        )
        matcher = difflib.SequenceMatcher(None, *kinds, autojunk=False)
        for change, a, b, c, d in matcher.get_opcodes():
            if change != "equal":
                for label, outputs in (("missing", stored[a:b]), ("extra", new[c:d])):
                    self.differences += [f"{label} {_describe(output)}" for output in outputs]

    def _compare_output(self, where: str, stored: Mapping, new: Mapping) -> None:
        if stored["output_type"] == "stream":
            # Some tools drop a last newline, which cannot be seen.
            texts = (output["text"].removesuffix("\n") for output in (stored, new))
            self._compare_text(where, *texts)
        elif stored["output_type"] == "error":
            # The traceback is left out: it names the machine's folders and counts executions.
            if not self.error_expected:
                self.differences.append(f"{where}: the cell has no tag raises-exception")
            for key in ("ename", "evalue"):
                self._compare_text(f"{where}, {key}", stored[key], new[key])
        else:
            metadata = (output.get("metadata", {}) for output in (stored, new))
            self._compare_json(f"{where}, metadata", *metadata)
            for mime in sorted(stored["data"]):
                contents = (output["data"][mime] for output in (stored, new))
                self._compare_data(f"{where}, {mime}", mime, *contents)

    def _compare_data(self, where: str, mime: str, stored: Any, new: Any) -> None:
        if mime in _IMAGES:
            self._compare_image(where, stored, new)
        elif mime.startswith("text/") or mime in _TEXTS:
            self._compare_text(where, stored, new)
        elif mime == WIDGET_VIEW:
            # The kernel draws the model's name anew in every run: the models themselves count.
            unnamed = (dict(view, model_id="<model>") for view in (stored, new))
            self._compare_json(where, *unnamed)
            self._compare_model("model", stored.get("model_id"), new.get("model_id"))
        elif mime == "application/json" or mime.endswith("+json"):
            self._compare_json(where, stored, new)
        elif stored != new:
            self.differences.append(f"{where}: differs (compared exactly, as its kind is unknown)")

    def _compare_json(self, where: str, stored: Any, new: Any) -> None:
        both = (stored, new)
        if all(isinstance(value, Mapping) for value in both) and set(stored) == set(new):
            for key in stored:
                self._compare_json(f"{where}.{key}", stored[key], new[key])
        elif all(isinstance(value, list) for value in both) and len(stored) == len(new):
            for index, values in enumerate(zip(stored, new, strict=True)):
                self._compare_json(f"{where}[{index}]", *values)
        elif all(isinstance(value, str) for value in both):
            self._compare_text(where, stored, new)
        elif all(isinstance(value, int | float) for value in both):
            self._compare_text(where, repr(stored), repr(new))
        elif stored is not new:  # what is left to be equal is None
            self.differences.append(f"{where}: stored {stored!r}, new {new!r}")

    def _compare_model(self, where: str, stored: str, new: str) -> None:
        """Compare two models of widgets, given by name, and those that they refer to."""
        if (stored, new) in self._compared_models:
            return
        self._compared_models.add((stored, new))
        old, now = (models.get(name) for models, name in zip(self._models, (stored, new)))
        if old is None or now is None:
            which = "stored with the notebook" if old is None else "in the new run"
            self.differences.append(f"{where}: there is no state of it {which}")
            return
        for name, values in self._in_both(f"trait of {where}", _traits(old), _traits(now)):
            self._compare_trait(f"{where}.{name}", *values)
        buffers = ({_path(x): x["data"] for x in each.get("buffers", [])} for each in (old, now))
        for name, values in self._in_both(f"binary trait of {where}", *buffers):
            self._compare_buffer(f"{where}.{name}", self.tolerance.buffers.get(name), *values)

    def _in_both(self, what: str, stored: dict, new: dict) -> Iterator[tuple[str, tuple]]:
        """What stands under the same name in both; reports what does not."""
        self.differences += [f"missing {what}: {name}" for name in sorted(set(stored) - set(new))]
        self.differences += [f"extra {what}: {name}" for name in sorted(set(new) - set(stored))]
        for name in sorted(set(stored) & set(new)):
            yield name, (stored[name], new[name])

    def _compare_trait(self, where: str, stored: Any, new: Any) -> None:
        """Compare two values: their numbers within the tolerance, their texts exactly.

        Among the texts is the widget's module, whose numbers are no results.
        """
        both = (stored, new)
        if all(isinstance(value, str) for value in both):
            names = [value.removeprefix(MODEL_REFERENCE) for value in both]
            if all(value.startswith(MODEL_REFERENCE) for value in both):
                self._compare_model(where, *names)
            elif stored != new:
                start = max(0, len(os.path.commonprefix(both)) - 20)
                parts = (repr(value[start : start + 80]) for value in both)
                place = f"{where}, compared exactly, from character {start}"
                self.differences.append("\n    ".join([place, *parts]))
        elif all(isinstance(value, Mapping) for value in both) and set(stored) == set(new):
            for key in stored:
                self._compare_trait(f"{where}.{key}", stored[key], new[key])
        elif all(isinstance(value, list) for value in both):
            if len(stored) != len(new):
                self.differences.append(f"{where}: {len(stored)} values stored, {len(new)} new")
                return
            for index, values in enumerate(zip(stored, new, strict=True)):
                self._compare_trait(f"{where}[{index}]", *values)
        else:
            self._compare_json(where, stored, new)

    def _compare_buffer(self, where: str, kind: str | None, stored: str, new: str) -> None:
        """Compare two base64-encoded buffers that hold numbers of the given kind."""
        try:
            old, now = (base64.b64decode(text, validate=True) for text in (stored, new))
        except binascii.Error as error:
            self.differences.append(f"{where}: cannot be decoded: {error}")
            return
        if len(old) != len(now):
            self.differences.append(f"{where}: {len(old)} bytes stored, {len(now)} in the new run")
            return
        exactly = kind is None or ("int" in kind and not self.tolerance.integers)
        dtype = np.dtype(kind or "uint8").newbyteorder("<")
        if len(old) % dtype.itemsize:
            self.differences.append(f"{where}: {len(old)} bytes are no numbers of kind {kind}")
            return
        a, b = (np.frombuffer(data, dtype).astype(float) for data in (old, now))
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            self.differences.append(f"{where}: a number that is not finite")
            return
        sizes, magnitudes = np.abs(b - a), np.abs(a)
        if not sizes.any():
            return
        allowed = self.tolerance.atol + self.tolerance.rtol * magnitudes + 1e-300  # never zero
        worst = int(np.argmax(sizes if exactly else sizes / allowed))
        pair = f"number {worst}: stored {a[worst]:.9g}, new {b[worst]:.9g}"
        if exactly:
            of = f"{np.count_nonzero(sizes)} of {len(a)} numbers differ, compared exactly"
            self.differences.append(f"{where}: {of}; {pair}")
            return
        size, magnitude = float(sizes[worst]), float(magnitudes[worst])
        self.deviations.append(Deviation("number", size, magnitude, 0.0, f"{where}, {pair}"))
        if size > (allowed := self.tolerance.of_number(magnitude, 0.0)):
            self.differences.append(
                f"{where}, {pair}, deviation {size:.3g}, tolerance {allowed:.3g}"
                f" (atol {self.tolerance.atol:g} + rtol {self.tolerance.rtol:g} × |stored|)"
            )

    def _compare_text(self, where: str, stored: str, new: str) -> None:
        for pattern, replacement in SANITISERS:
            stored, new = pattern.sub(replacement, stored), pattern.sub(replacement, new)
        # Not splitlines(): it would take a form feed and others for the end of a line.
        old_lines, new_lines = stored.split("\n"), new.split("\n")
        if len(old_lines) != len(new_lines):
            self._report_lines(where, old_lines, new_lines)
            return
        for number, lines in enumerate(zip(old_lines, new_lines, strict=True), 1):
            place = f"{where}, line {number}" if len(old_lines) > 1 else where
            self._compare_line(place, *lines)

    def _report_lines(self, where: str, stored: list[str], new: list[str]) -> None:
        self.differences.append(f"{where}: {len(stored)} lines stored, {len(new)} in the new run")
        # Lines that differ in their numbers only are still to be seen as the same line.
        common = set(stored) & set(new)
        keys = [
            [line if line in common else _NUMBER.sub("#", line) for line in lines]
            for lines in (stored, new)
        ]
        matcher = difflib.SequenceMatcher(None, *keys, autojunk=False)
        for change, a, b, c, d in matcher.get_opcodes():
            if change != "equal":
                for label, lines, first in (("missing", stored[a:b], a), ("extra", new[c:d], c)):
                    self.differences += [
                        f"{where}: {label} line {number}: {line!r}"
                        for number, line in enumerate(lines, first + 1)
                    ]

    def _compare_line(self, where: str, stored: str, new: str) -> None:
        context = f"\n    stored: {stored!r}\n    new:    {new!r}"
        for label, line in (("stored", stored), ("new", new)):
            if found := _NOT_FINITE.search(line):
                self.differences.append(f"{where}: {found[0]} in the {label} output{context}")
        if stored == new:
            return
        old_words, old_numbers = _split(stored)
        new_words, new_numbers = _split(new)
        pairs = list(zip(old_numbers, new_numbers, strict=False))
        if old_words != new_words or not all(_same_layout(old, now) for old, now in pairs):
            self.differences.append(f"{where}: the text differs{context}")
            return
        for number, (old, now) in enumerate(pairs, 1):
            values = (found["sign"] + found["digits"] for found in (old, now))
            if reason := self._compare_number(*values):
                self.differences.append(f"{where}, number {number}: {reason}{context}")

    def _compare_number(self, stored: str, new: str) -> str | None:
        """Why the two numbers do not agree, or None if they do."""
        pair = f"stored {stored}, new {new}"
        both_integers = not any(character in stored + new for character in ".eE")
        a, b = (float(text.replace(",", "").replace("−", "-")) for text in (stored, new))
        if (both_integers and not self.tolerance.integers) or not math.isfinite(a - b):
            # A "number" such as 1e999, too large for a float, is a name: compared exactly too.
            return None if stored == new else f"{pair}, compared exactly"
        deviation = abs(b - a)
        if deviation == 0:
            return None
        unit = min(last_digit(stored), last_digit(new))
        self.deviations.append(Deviation("number", deviation, abs(a), unit, pair))
        allowed = self.tolerance.of_number(abs(a), unit)
        if deviation <= allowed:
            return None
        if self.tolerance.atol + self.tolerance.rtol * abs(a) > unit:
            origin = f"atol {self.tolerance.atol:g} + rtol {self.tolerance.rtol:g} × |stored|"
        else:
            origin = "one unit of the last digit"
        return f"{pair}, deviation {deviation:.3g}, tolerance {allowed:.3g} ({origin})"

    def _compare_image(self, where: str, stored: str, new: str) -> None:
        if stored == new:
            return
        try:
            old, now = _pixels(stored), _pixels(new)
        except (ValueError, OSError) as error:
            self.differences.append(f"{where}: cannot be decoded: {error}")
            return
        if old.shape != now.shape:
            sizes = (f"{pixels.shape[1]} × {pixels.shape[0]}" for pixels in (old, now))
            self.differences.append(f"{where}: pixels: stored {next(sizes)}, new {next(sizes)}")
            return
        height, width, _ = old.shape
        worst, y, x = max(
            (calculate_rms(*(a[y : y + _TILE, x : x + _TILE] for a in (old, now))), y, x)
            for y in range(0, height, _TILE)
            for x in range(0, width, _TILE)
        )
        if worst > 0:
            where = f"near x = {x}, y = {y}"
            self.deviations.append(Deviation("figure", float(worst), 0.0, 0.0, where))
        if worst > self.tolerance.rms:
            self.differences.append(
                f"{where}: the figure differs, most near x = {x}, y = {y} pixels from the top left:"
                f" RMS {worst:.3g} there ({calculate_rms(old, now):.3g} over the whole),"
                f" tolerance {self.tolerance.rms:g}"
            )


def _traits(model: Mapping) -> dict[str, Any]:
    """The traits of a model. Of a layout those without a value are left out: they mean nothing."""
    is_layout = model["model_name"] == "LayoutModel"
    return {n: x for n, x in model["state"].items() if not (is_layout and x is None)}


def _path(buffer: Mapping) -> str:
    """Where in its model a buffer belongs, as one name."""
    return ".".join(map(str, buffer["path"]))


def _merge_streams(outputs: Sequence[Mapping]) -> list[Mapping]:
    """The outputs with all pieces of a stream in its first one: where it is cut is chance."""
    merged: list[Any] = []
    streams: dict[str, dict] = {}
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        elif output["output_type"] == "stream":
            streams[output["name"]] = dict(output)
            merged.append(streams[output["name"]])
        else:
            merged.append(output)
    return merged


def _kind(output: Mapping) -> str:
    match output["output_type"]:
        case "stream":
            return output["name"]
        case "error":
            return "error"
        case other:
            return f"{other}: {', '.join(sorted(output['data']))}"


def _count(outputs: list[Mapping]) -> str:
    return f"{len(outputs)} output{'' if len(outputs) == 1 else 's'}"


def _describe(output: Mapping) -> str:
    match output["output_type"]:
        case "stream":
            content = output["text"]
        case "error":
            content = f"{output['ename']}: {output['evalue']}"
        case _:
            content = str(output["data"].get("text/plain", ""))
    content = content if len(content) <= 500 else content[:500] + " …"
    return f"output ({_kind(output)}): {content!r}"


def _split(line: str) -> tuple[list[str], list[re.Match]]:
    """The texts between the numbers of a line, and the numbers."""
    words, numbers, end = [], list(_NUMBER.finditer(line)), 0
    for number in numbers:
        words.append(line[end : number.start()])
        end = number.end()
    return [*words, line[end:]], numbers


def _same_layout(stored: re.Match, new: re.Match) -> bool:
    """Whether two numbers agree in what is not their value: their padding and an explicit plus.

    In a column of fixed width the padding makes up for digits and for a sign, so that either the
    padding or the whole width has to be the same. A tiny number may change its sign, but then the
    minus is the only one that may come or go, or stand in place of a plus.
    """
    same_width = stored["pad"] == new["pad"] or len(stored[0]) == len(new[0])
    signs = stored["sign"], new["sign"]
    return same_width and (signs[0] == signs[1] or sum(sign in ("-", "−") for sign in signs) == 1)


def _pixels(picture: str) -> np.ndarray:
    """Red, green, blue and opacity of a base64-encoded picture, `(height, width, 4)`."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        # As floats: calculate_rms subtracts before it converts, and bytes would wrap around.
        return np.asarray(image.convert("RGBA"), dtype=float)
