"""The JSON Schema of results: it names what the dataclasses name, takes what is written and refuses what is not."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest
from bench_samples import comparison, device_result, plain_result
from device_lab import install_fake_runner, write_profile
from plain_files import write_plain
from test_stored import GOOD, at, changed, places, wrong_values

from edgekit import devices
from edgekit.cli import main
from edgekit.devices.comparison import SCHEMA_VERSION as COMPARISON_VERSION
from edgekit.devices.comparison import Comparison
from edgekit.devices.result import SCHEMA_VERSION, BenchResult, json_text
from edgekit.devices.stored import read_result

SCHEMA: dict[str, Any] = json.loads((Path(devices.__file__).parent / "result.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def dataclasses_of(kind: Any) -> set[type]:
    """A dataclass and all that its fields are made of."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {kind}.union(*(dataclasses_of(hint) for hint in hints.values()))
    return set().union(*(dataclasses_of(inner) for inner in get_args(kind)))


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_schema_and_dataclasses_name_the_same_fields() -> None:
    kinds = dataclasses_of(Comparison)
    assert BenchResult in kinds and SCHEMA["$defs"].keys() == {kind.__name__ for kind in kinds}
    for kind in kinds:
        definition, names = SCHEMA["$defs"][kind.__name__], [field.name for field in fields(kind)]
        assert list(definition["properties"]) == names and definition["required"] == names, kind
        assert definition["additionalProperties"] is False
    assert SCHEMA["$defs"]["BenchResult"]["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    assert SCHEMA["$defs"]["Comparison"]["properties"]["schema_version"]["const"] == COMPARISON_VERSION


@pytest.mark.parametrize("made", [plain_result(), device_result(), comparison(), comparison(0.99, None, None)], ids=str)
def test_made_up_results(made: Any) -> None:
    VALIDATOR.validate(json.loads(json_text(made)))


@pytest.mark.parametrize("where", ["here", "on a device"])
@pytest.mark.parametrize("vs", [False, True], ids=["one", "two"])
def test_real_results(where: str, vs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command writes them, and a single one is read back."""
    install_fake_runner(tmp_path / "runners", monkeypatch)
    model, other = (write_plain(tmp_path / f"{name}.gguf", name) for name in ("q4_0", "q8_0"))
    line = ["bench", str(model), "--prompt-tokens", "4", "--gen-tokens", "3", "--reps", "2", "--threads", "1"]
    if where == "on a device":
        line += ["--device", str(write_profile(tmp_path / "board.toml", "local", tmp_path / "work"))]
    if vs:
        line += ["--vs", str(other), "--gate", "5%"]
    output = tmp_path / "r.json"
    assert main([*line, "-o", str(output)]) in (0, 3, 4)
    VALIDATOR.validate(document := json.loads(output.read_text()))
    assert ("ratios" in document) == vs
    if not vs:
        assert json.loads(read_result(output).to_json()) == document


@pytest.mark.parametrize("path", list(places(GOOD)), ids=str)
def test_every_field_is_described(path: tuple[Any, ...]) -> None:
    """A value of another kind or out of all bounds fails; texts may be any, and are the reader's to judge."""
    for value in wrong_values(at(path)):
        if not (isinstance(value, str) and isinstance(at(path), str)):
            assert not VALIDATOR.is_valid(changed(path, value)), value


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_field_may_be_missing_or_unknown(name: str) -> None:
    document = copy.deepcopy(GOOD)
    document["colour"] = document.pop(name)
    assert not VALIDATOR.is_valid(document)
    del document["colour"]
    assert not VALIDATOR.is_valid(document)
