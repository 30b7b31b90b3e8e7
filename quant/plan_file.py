"""The plan as a JSON file that is pleasant to edit: one matrix a line, derived figures recomputed when it is read.

    {
      "schema_version": 1,
      "fingerprint": "...", "bytes": ..., "fixed_bytes": ..., "kld_predicted": ..., "note": ...,
      "budget": {"max_bytes": ..., "max_kl": ..., "max_bpw": ..., "formats": [...], "container": "gguf"},
      "facts": {"seed": 0, "calibration_texts": "notes.txt", "windows_sha256": "..."},
      "tensors": {"NAME": {"format": "q5_1", "bytes": ..., "kl": ...}, ...},
      "table": {"NAME": {"role": "q", "layer": 0, "shape": [N, K], "candidates": [[type, bytes, kl, kl_error], ...]}},
      "curve": [[bytes, kl], ...],
      "measured": [[what, predicted KL, measured KL, bytes or null], ...]
    }

To edit a plan, change a "format" under "tensors".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.models.files import atomic_write
from edgekit.quant.containers import Container, container_named
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Budget, Candidate, CurvePoint, MeasuredKl, Plan, Sensitivity, derive, replan

SCHEMA_VERSION = 1
MAX_BYTES = 1 << 28

T = TypeVar("T")


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan, whole or not at all. Raises InputError or TargetError as `atomic_write` does."""
    with atomic_write(path) as file:
        file.write(_encode(plan).encode())


def read_plan(path: Path, checkpoint: Checkpoint | None = None) -> Plan:
    """The plan in a file, checked; bytes and predicted KL are derived anew, so that an edited plan tells the truth.

    Without a checkpoint the shapes in the file's own table are believed. Raises InputError naming file and entry.
    """
    plan = _decode(_load(path), str(path))
    if checkpoint is not None:
        return replan(plan, checkpoint, source=str(path))
    if not plan.sensitivities:  # a uniform plan of no table: nothing to derive from
        return plan
    return derive(plan, {s.name: s.shape for s in plan.sensitivities}, source=str(path))


def _encode(plan: Plan) -> str:
    table = {(s.name, c.format): c for s in plan.sensitivities for c in s.candidates}
    tensors = {}
    for name, format in plan.formats.items():
        known = table.get((name, format))
        tensors[name] = {"format": format} | ({} if known is None else {"bytes": known.bytes, "kl": known.kl})
    rows = {
        s.name: {
            "role": s.role,
            "layer": s.layer,
            "shape": list(s.shape),
            "candidates": [[c.format, c.bytes, c.kl, c.kl_error] for c in s.candidates],
        }
        for s in plan.sensitivities
    }
    parts: dict[str, str] = {
        "schema_version": _line(SCHEMA_VERSION),
        "fingerprint": _line(plan.fingerprint),
        "bytes": _line(plan.bytes),
        "fixed_bytes": _line(plan.fixed_bytes),
        "kld_predicted": _line(plan.kld_predicted),
        "note": _line(plan.note),
        "budget": _line(
            None if plan.budget is None else asdict(plan.budget) | {"container": plan.budget.container.name}
        ),
        "facts": _line(dict(plan.facts)),
        "tensors": _lines(tensors),
        "table": _lines(rows),
        "curve": _line([[point.bytes, point.kl] for point in plan.curve]),
        "measured": _line([[m.what, m.predicted, m.measured, m.bytes] for m in plan.measured]),
    }
    return "{\n" + ",\n".join(f"  {_line(key)}: {text}" for key, text in parts.items()) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(entries: Mapping[str, Any]) -> str:
    return "{\n" + ",\n".join(f"    {_line(key)}: {_line(value)}" for key, value in entries.items()) + "\n  }"


def _load(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InputError(f'{path}: "{key}" stands there twice: remove one')
            found[key] = value
        return found

    def refuse(constant: str) -> float:
        raise InputError(f"{path}: {constant} is not a number that a plan can hold")

    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is too large for a plan: name a file that 'edgekit plan' wrote")
        document = json.loads(path.read_bytes(), object_pairs_hook=unique, parse_constant=refuse)
    except OSError as error:
        raise InputError(f"cannot read the plan {path}: {error.strerror}") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a plan, or an edit broke its JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a plan: name a file that 'edgekit plan' wrote")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version is {version!r}, not {SCHEMA_VERSION}: make the plan again")
    return document


def _decode(document: dict[str, Any], path: str) -> Plan:
    tensors = _mapping(document.get("tensors"), f'{path}: "tensors"')
    table = _mapping(document.get("table", {}), f'{path}: "table"')
    plan = Plan(
        fingerprint=_text(document.get("fingerprint"), f'{path}: "fingerprint"'),
        formats={name: _format(entry, f'{path}: "{name}"') for name, entry in tensors.items()},
        bytes=_whole(document.get("bytes"), f'{path}: "bytes"'),
        kld_predicted=_optional(_number, document.get("kld_predicted"), f'{path}: "kld_predicted"'),
        sensitivities=tuple(_sensitivity(name, row, f'{path}: "table", "{name}"') for name, row in table.items()),
        curve=_points(document.get("curve", []), f'{path}: "curve"'),
        measured=_measured(document.get("measured", []), f'{path}: "measured"'),
        note=_optional(_text, document.get("note"), f'{path}: "note"'),
        fixed_bytes=_whole(document.get("fixed_bytes"), f'{path}: "fixed_bytes"'),
        budget=_optional(_budget, document.get("budget"), f'{path}: "budget"'),
        facts=_facts(document.get("facts", {}), f'{path}: "facts"'),
    )
    if not plan.formats:
        raise InputError(f'{path}: "tensors" is empty: make the plan again')
    return plan


def _format(entry: Any, where: str) -> str:
    name = _text(_mapping(entry, where).get("format"), f'{where}, "format"')
    try:
        return format_of(name).name
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _sensitivity(name: str, row: Any, where: str) -> Sensitivity:
    fields = _mapping(row, where)
    shape = tuple(_whole(size, f'{where}, "shape"') for size in _sequence(fields.get("shape"), f'{where}, "shape"'))
    if len(shape) != 2 or not all(0 < size < 2**31 for size in shape):
        raise InputError(f'{where}: "shape" must be [rows, columns]')
    candidates = []
    for entry in _sequence(fields.get("candidates"), f'{where}, "candidates"'):
        match _sequence(entry, where):
            case [format, size, kl, kl_error]:
                known = _format({"format": format}, where)
                candidates.append(Candidate(known, _whole(size, where), _number(kl, where), _number(kl_error, where)))
            case _:
                raise InputError(f"{where}: a candidate must be [type, bytes, kl, kl_error]")
    layer = _optional(_whole, fields.get("layer"), f'{where}, "layer"')
    return Sensitivity(name, _text(fields.get("role"), f'{where}, "role"'), layer, tuple(candidates), shape)


def _budget(value: Any, where: str) -> Budget:
    fields = _mapping(value, where)
    return Budget(
        max_bytes=_optional(_whole, fields.get("max_bytes"), f'{where}, "max_bytes"'),
        max_kl=_optional(_number, fields.get("max_kl"), f'{where}, "max_kl"'),
        formats=tuple(_text(name, where) for name in _sequence(fields.get("formats", []), f'{where}, "formats"')),
        max_bpw=_optional(_number, fields.get("max_bpw"), f'{where}, "max_bpw"'),
        container=_container(fields.get("container", "gguf"), f'{where}, "container"'),
    )


def _container(value: Any, where: str) -> Container:
    name = _text(value, where)
    try:
        return container_named(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _facts(value: Any, where: str) -> dict[str, str | int | float]:
    facts = _mapping(value, where)
    for key, fact in facts.items():
        if not isinstance(fact, (str, int, float)):
            raise InputError(f'{where}, "{key}" must be a text or a number')
    return facts


def _points(value: Any, where: str) -> tuple[CurvePoint, ...]:
    points = []
    for entry in _sequence(value, where):
        match _sequence(entry, where):
            case [size, kl]:
                points.append(CurvePoint(_whole(size, where), _number(kl, where)))
            case _:
                raise InputError(f"{where}: a point must be [bytes, kl]")
    return tuple(points)


def _measured(value: Any, where: str) -> tuple[MeasuredKl, ...]:
    found = []
    for entry in _sequence(value, where):
        match _sequence(entry, where):
            case [what, predicted, measured, size]:
                kls = _number(predicted, where), _number(measured, where)
                found.append(MeasuredKl(_text(what, where), *kls, _optional(_whole, size, where)))
            case _:
                raise InputError(f"{where}: an entry must be [what, predicted KL, measured KL, bytes or null]")
    return tuple(found)


def _optional(read: Callable[[Any, str], T], value: Any, where: str) -> T | None:
    return None if value is None else read(value, where)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object {{...}}")
    return value


def _sequence(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list [...]")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} must be a text")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InputError(f"{where} must be a whole number that is not negative")
    return value


def _number(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise InputError(f"{where} must be a number that is not negative")
    return float(value)
