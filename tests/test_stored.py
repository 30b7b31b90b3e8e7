"""Stored results: what was written is read back the same, and whatever is changed in it is refused by name."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_samples import comparison, device_result, plain_result

from edgekit.devices.result import SCHEMA_VERSION, BenchResult, json_text, median_interval, quantiles, summarise
from edgekit.devices.stored import read_result
from edgekit.models.errors import InputError

GOOD: dict[str, Any] = json.loads(device_result().to_json())


def read(document: Any, folder: Path) -> BenchResult:
    path = folder / "r.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_result(path)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    for result in (plain_result(), device_result()):
        assert read(result.to_json(), tmp_path) == result


def test_the_full_result_has_no_field_at_its_default() -> None:
    """Else a field that the reader forgets would not be missed above."""

    def check(value: Any) -> None:
        for field in fields(value) if hasattr(value, "__dataclass_fields__") else ():
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            found = getattr(value, field.name)
            assert found not in (default, None) or field.name in ("schema_version", "load_cold_s"), field.name
            for inner in found if isinstance(found, tuple) else [found]:
                check(inner)

    check(device_result())


def test_a_figure_that_is_no_number_comes_back_as_one(tmp_path: Path) -> None:
    taken = (replace(plain_result().samples[0], decode_tps=math.inf), *plain_result().samples[1:])
    result = plain_result(samples=taken, summary=summarise(taken), status="invalid")
    found = read(result.to_json(), tmp_path)
    assert math.isnan(found.samples[0].decode_tps)
    assert found.to_json() == result.to_json()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a document; of a list, the first entry stands for all."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(GOOD)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def at(path: tuple[Any, ...]) -> Any:
    value: Any = GOOD
    for key in path:
        value = value[key]
    return value


def wrong_values(old: Any) -> list[Any]:
    wrong: list[Any] = [{"a": {"b": []}}, [[[]]]]
    if not isinstance(old, bool):
        wrong.append(True)
    if isinstance(old, str):
        wrong += ["\x1b[2J", "x" * 5000, "a\nb", 3]
    elif isinstance(old, int | float) and not isinstance(old, bool):
        wrong += ["text", -1e300, 1e300]
    else:
        wrong += ["text", 3]
    return wrong


@pytest.mark.parametrize("path", list(places(GOOD)), ids=str)
def test_every_field_is_checked(path: tuple[Any, ...], tmp_path: Path) -> None:
    for value in wrong_values(at(path)):
        with pytest.raises(InputError) as error:
            read(changed(path, value), tmp_path)
        sentence = str(error.value)
        named = next(str(key) for key in reversed(path) if isinstance(key, str))
        assert "r.json" in sentence and named in sentence and sentence.isprintable()


OPEN = {"types", "weights", "unavailable", "temp_c", "throttling"}  # whose keys are names


@pytest.mark.parametrize(
    "path",
    [path for path in places(GOOD) if isinstance(path[-1], str) and not OPEN & set(path[:-1])],
    ids=str,
)
def test_no_field_may_be_missing(path: tuple[Any, ...], tmp_path: Path) -> None:
    document = copy.deepcopy(GOOD)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(InputError, match=f"has no {path[-1]}"):
        read(document, tmp_path)


def test_a_field_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"result\.config has a field that is not known: 'colour'"):
        read(changed(("config", "colour"), 3), tmp_path)


@pytest.mark.parametrize(("version", "told"), [(SCHEMA_VERSION - 1, "an older"), (SCHEMA_VERSION + 1, "a newer")])
def test_other_versions(version: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"has schema_version {version}, as {told} edgekit writes it") as error:
        read({"schema_version": version}, tmp_path)
    assert str(error.value).endswith("run the benchmark again")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe{}", b"[" * 1_000_000, b'{"a":' * 1_000_000,
        b'{"run_id": 1, "run_id": 1}', b'{"schema_version": NaN}', b"{}", b" " * (8 << 20) + b"{}",
    ],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_what_is_no_result(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"r\.json: the result"):
        read_result(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read: .*: check the path"):
            read_result(path)


def test_a_comparison_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a comparison of two benchmarks"):
        read(json_text(comparison()), tmp_path)


def test_quantiles_by_hand() -> None:
    found = quantiles([1.0, 2.0, 3.0, 4.0, 10.0])
    assert (found.median, found.mad, found.n) == (3.0, 1.0, 5)  # deviations 2 1 0 1 7
    assert (found.p10, found.p90) == (pytest.approx(1.4), pytest.approx(7.6))
    assert found.ci95 == (1.0, 10.0)  # so few allow no less
    assert quantiles([1.0, 2.0, 3.0, 4.0]).ci95 is None


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    """Of seven normal figures about 0, where a plain percentile interval covers it 0.88 of the time."""
    rng = np.random.default_rng(7)
    found = [median_interval(rng.normal(size=7)) or (0, 0) for _ in range(300)]
    assert sum(low <= 0 <= high for low, high in found) / len(found) > 0.94


def test_the_interval_is_narrower_for_more_and_the_same_each_time() -> None:
    low, high = median_interval([float(i % 100) for i in range(1000)]) or (0, 0)
    assert 43 < low < 49.5 < high < 56  # by the order statistics: 49.5 -+ 1.96 * 100 * 0.5 / sqrt(1000)
    assert median_interval([1.0, 5.0, 2.0, 8.0] * 5) == median_interval([1.0, 5.0, 2.0, 8.0] * 5)
