"""Plan files: written, edited by hand, read again, and refused where they are wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.models.errors import InputError
from edgekit.models.spec import TensorSpec
from edgekit.quant.containers import GGUF, ONNX
from edgekit.quant.formats import format_of
from edgekit.quant.plan import (
    Budget,
    Candidate,
    CurvePoint,
    MeasuredKl,
    Plan,
    Sensitivity,
    predicted_kl,
    priced,
    replan,
)
from edgekit.quant.plan_file import read_plan, write_plan

SHAPES = {"model.embed.weight": (50, 64), "model.layers.0.q.weight": (10, 256), "model.layers.0.down.weight": (7, 96)}
FIXED = 1000


def make_checkpoint(fingerprint: str = "f00d") -> Any:
    tensors = [TensorSpec(name, name, shape, "q", 0) for name, shape in SHAPES.items()]
    norm = TensorSpec("norm", "norm", (64,), "norm")
    return SimpleNamespace(fingerprint=fingerprint, tensors=(*tensors, norm), path=Path("model"))


def make_plan() -> Plan:
    sensitivities = tuple(
        Sensitivity(
            name,
            "q",
            None if index == 0 else 0,
            tuple(
                Candidate(n, GGUF.stored_bytes(format_of(n), shape), 10.0**-index / 3 ** (i + 1), 1e-9 * index)
                for i, n in enumerate(("q4_0", "q5_1", "q8_0"))
            ),
            shape,
        )
        for index, (name, shape) in enumerate(SHAPES.items())
    )
    formats = dict(zip(SHAPES, ("q4_0", "q8_0", "q5_1"), strict=True))
    return Plan(
        fingerprint="f00d",
        formats=formats,
        bytes=FIXED + sum(GGUF.stored_bytes(format_of(f), SHAPES[name]) for name, f in formats.items()),
        kld_predicted=predicted_kl(sensitivities, formats),
        sensitivities=sensitivities,
        curve=(CurvePoint(5000, 0.1), CurvePoint(9000, 1e-17)),
        measured=(MeasuredKl("all at 4 bits", 0.02, 0.03, 7000), MeasuredKl("q at 4 bits", 1e-3, 2e-3)),
        note="what “was” said",
        fixed_bytes=FIXED,
        budget=Budget(max_bytes=10_000, max_kl=0.005, formats=("q4_0", "q8_0")),
        facts={"seed": 3, "text": "notes.txt", "tokens": 4096, "noise": 1e-5},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_round_trip(path: Path) -> None:
    plan = make_plan()
    write_plan(plan, path)
    assert read_plan(path) == plan
    assert read_plan(path, make_checkpoint()) == plan
    uniform = replace(plan, sensitivities=(), curve=(), measured=(), kld_predicted=None, note=None, budget=None)
    write_plan(uniform, path)
    assert read_plan(path) == uniform == read_plan(path, make_checkpoint())


def test_a_plan_for_onnx_is_read_in_its_bytes(path: Path) -> None:
    plan = make_plan()
    formats = dict.fromkeys(SHAPES, "q4_0") | {"model.layers.0.q.weight": "q8_0"}
    table = priced(plan.sensitivities, ONNX)
    size = FIXED + 50 * 64 // 32 * 20 + 10 * 256 // 32 * 36 + 7 * 96 // 32 * 20
    assert [[c.format for c in row.candidates] for row in table] == [["q4_0", "q8_0"]] * 3
    assert table[2].candidates[0].bytes == 7 * 96 // 32 * 20  # not padded
    made = replace(
        plan,
        formats=formats,
        bytes=size,
        kld_predicted=predicted_kl(table, formats),
        sensitivities=table,
        budget=Budget(max_bpw=6.0, formats=("q4_0", "q8_0"), container=ONNX),
    )
    write_plan(made, path)
    assert read_plan(path) == made == read_plan(path, make_checkpoint())
    edit(path, lambda d: d["tensors"]["model.layers.0.q.weight"].update(format="q4_k"))
    with pytest.raises(InputError, match=r'plan.json: ONNX cannot carry q4_k, the type of "model.layers.0.q.weight"'):
        read_plan(path)


def test_a_plan_that_names_no_container_is_for_gguf(path: Path) -> None:
    write_plan(make_plan(), path)
    edit(path, lambda d: d["budget"].pop("container"))
    assert read_plan(path) == make_plan()


def test_the_same_plan_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_plan(make_plan(), path)
    write_plan(make_plan(), tmp_path / "again.json")
    assert path.read_bytes() == (tmp_path / "again.json").read_bytes()


def test_one_matrix_a_line(path: Path) -> None:
    write_plan(make_plan(), path)
    lines = path.read_text().splitlines()
    for name in SHAPES:
        assert sum(name in line for line in lines) == 2  # under "tensors" and in the table
    assert max(map(len, lines)) < 400


def test_a_hand_edit_is_reckoned_anew(path: Path) -> None:
    plan = make_plan()
    write_plan(plan, path)
    text = path.read_text()
    edited = text.replace(
        '"model.embed.weight": {"format": "q4_0", "bytes"', '"model.embed.weight": {"format": "Q8_0", "bytes"'
    )
    assert edited != text
    path.write_text(edited)
    for read in (read_plan(path), read_plan(path, make_checkpoint())):
        assert read.formats == {**plan.formats, "model.embed.weight": "q8_0"}
        assert read.bytes == plan.bytes + 3424 - 1824  # 3400 and 1800 padded
        assert read.bytes == FIXED + sum(GGUF.stored_bytes(format_of(f), SHAPES[n]) for n, f in read.formats.items())
        assert read.kld_predicted == predicted_kl(plan.sensitivities, read.formats) != plan.kld_predicted
        assert read.note == "edited by hand" and read.measured == ()


def test_a_type_outside_the_table_has_no_predicted_kl(path: Path) -> None:
    write_plan(make_plan(), path)
    edit(path, lambda document: document["tensors"]["model.embed.weight"].update(format="f16"))
    read = read_plan(path, make_checkpoint())
    assert read.kld_predicted is None
    assert read.bytes == FIXED + 6400 + GGUF.stored_bytes(format_of("q8_0"), (10, 256)) + GGUF.stored_bytes(
        format_of("q5_1"), (7, 96)
    )


def test_figures_that_were_edited_are_not_believed(path: Path) -> None:
    plan = make_plan()
    write_plan(plan, path)
    edit(path, lambda document: document.update(bytes=1, kld_predicted=0.0))
    read = read_plan(path, make_checkpoint())
    assert (read.bytes, read.kld_predicted) == (plan.bytes, plan.kld_predicted)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown type": (lambda d: d["tensors"]["model.embed.weight"].update(format="q3_x"), "embed.*q3_x"),
    "no type": (lambda d: d["tensors"]["model.embed.weight"].pop("format"), 'embed.*"format"'),
    "type not a text": (lambda d: d["tensors"]["model.embed.weight"].update(format=4), 'embed.*"format"'),
    "entry not an object": (lambda d: d["tensors"].update({"model.embed.weight": "q4_0"}), "embed.*object"),
    "unknown tensor": (lambda d: d["tensors"].update({"x.weight": {"format": "q4_0"}}), 'no matrix "x.weight"'),
    "missing tensor": (lambda d: d["tensors"].pop("model.embed.weight"), '"model.embed.weight" is missing'),
    "type for the columns": (
        lambda d: d["tensors"]["model.layers.0.down.weight"].update(format="q4_k"),
        'q4_k cannot carry "model.layers.0.down.weight", whose rows have 96',
    ),
    "no tensors": (lambda d: d.pop("tensors"), '"tensors" must be an object'),
    "empty tensors": (lambda d: (d["tensors"].clear(), d["table"].clear()), '"tensors" is empty'),
    "tensors a list": (lambda d: d.update(tensors=[]), '"tensors" must be an object'),
    "no fingerprint": (lambda d: d.pop("fingerprint"), '"fingerprint" must be a text'),
    "negative bytes": (lambda d: d.update(fixed_bytes=-1), '"fixed_bytes" must be a whole'),
    "bytes true": (lambda d: d.update(bytes=True), '"bytes" must be a whole'),
    "bytes a float": (lambda d: d.update(bytes=1.5), '"bytes" must be a whole'),
    "huge bytes": (lambda d: d.update(fixed_bytes=10**30), '"fixed_bytes" must be a whole'),
    "kl a text": (lambda d: d.update(kld_predicted="low"), '"kld_predicted" must be a number'),
    "candidate": (
        lambda d: d["table"]["model.embed.weight"]["candidates"].append(["q4_0", 3]),
        "table.*embed.*type, b",
    ),
    "candidate type": (
        lambda d: d["table"]["model.embed.weight"]["candidates"].append(["q3", 3, 0.1, 0]),
        "table.*embed.*q3",
    ),
    "shape": (lambda d: d["table"]["model.embed.weight"].update(shape=[50]), 'embed.*"shape"'),
    "zero shape": (lambda d: d["table"]["model.embed.weight"].update(shape=[50, 0]), 'embed.*"shape"'),
    "curve": (lambda d: d.update(curve=[[1]]), '"curve": a point'),
    "facts": (lambda d: d.update(facts={"seed": [1]}), '"facts", "seed"'),
    "budget": (lambda d: d.update(budget=5), '"budget" must be an object'),
    "container": (lambda d: d["budget"].update(container="tflite"), '"container": there is no .*tflite.* gguf or onnx'),
    "version": (lambda d: d.update(schema_version=2), "schema_version is 2, not 1"),
}


@pytest.mark.parametrize("case", EDITS)
def test_wrong_entries_are_named(case: str, path: Path) -> None:
    change, message = EDITS[case]
    write_plan(make_plan(), path)
    edit(path, change)
    with pytest.raises(InputError, match=message) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match=message):
        read_plan(path, make_checkpoint())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"schema_version": 1e999}', b"[" * 100_000, b"{}", b"3"],
    ids=["empty", "cut", "list", "null", "not utf-8", "overflow", "deep", "no version", "number"],
)
def test_files_that_are_no_plans(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999", "-0.5"])
def test_numbers_that_are_none(constant: str, path: Path) -> None:
    plan = make_plan()
    write_plan(plan, path)
    path.write_text(
        path.read_text().replace(f'"kld_predicted": {plan.kld_predicted!r}', f'"kld_predicted": {constant}')
    )
    with pytest.raises(InputError, match=r"plan\.json"):
        read_plan(path)


def test_a_tensor_that_stands_there_twice(path: Path) -> None:
    write_plan(make_plan(), path)
    entry = '    "model.embed.weight": {"format": "q8_0"},\n'
    path.write_text(path.read_text().replace('  "tensors": {\n', '  "tensors": {\n' + entry))
    with pytest.raises(InputError, match=r'plan\.json: "model\.embed\.weight" stands there twice'):
        read_plan(path)


def test_another_checkpoint(path: Path) -> None:
    write_plan(make_plan(), path)
    with pytest.raises(InputError, match=r"plan\.json was made for another checkpoint than model"):
        read_plan(path, make_checkpoint("beef"))
    with pytest.raises(InputError, match="the plan was made for another checkpoint"):
        replan(make_plan(), make_checkpoint("beef"))


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the plan .*plan\.json: No such file"):
        read_plan(path)


def test_a_plan_whose_numbers_are_not_finite_is_not_written(path: Path) -> None:
    write_plan(make_plan(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_plan(replace(make_plan(), kld_predicted=math.nan), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["plan.json"]


def test_an_existing_plan_stays_when_the_new_one_cannot_be_written(path: Path) -> None:
    path.mkdir()  # a name that cannot be replaced
    with pytest.raises(InputError, match="is a folder"):
        write_plan(make_plan(), path)
    assert [file.name for file in path.parent.iterdir()] == ["plan.json"]
