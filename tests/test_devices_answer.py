"""The runner's answer: what is right is read, and whatever is changed in it is refused by name."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import fake_runner
import pytest

from edgekit.devices.answer import read_probe, read_result, read_state
from edgekit.devices.result import Moment, Sample
from edgekit.devices.verdict import device_doubts
from edgekit.models.errors import InfrastructureError

OPTIONS = {"--nonce": "a" * 32, "--prompt-tokens": "16", "--gen-tokens": "3", "--reps": "2"}
GOOD: dict[str, Any] = fake_runner.result(OPTIONS, [1000])
STATE = {"state": "running", "progress": 0.5, "exit": None, "signal": None, "nonce": None, "error": None}


def read(answer: Any) -> Any:
    return read_result(json.dumps(answer).encode(), "board")


def test_a_good_answer() -> None:
    found = read(GOOD)
    assert found.nonce == "a" * 32 and len(found.samples) == 1 and len(found.samples[0]) == 2
    assert found.samples[0][0].inter_token_s == (0.05, 0.05) and found.samples[0][0].at_s == 1.0
    assert found.memory[0].pss_bytes == 8000000 and found.timeline[0].freq_hz == (2.0e9,)
    assert read_probe(json.dumps(GOOD["device"]), "board").ram_bytes == 2 << 30
    assert read_state(json.dumps(STATE), "board").progress == 0.5


def test_null_figures_are_nan_and_null_facts_are_none() -> None:
    answer = copy.deepcopy(GOOD)
    answer["samples"][0]["decode_tps"] = answer["samples"][0]["inter_token_s"][1] = None
    answer["device"]["model"] = answer["timeline"][0]["freq_hz"] = answer["suspended_s"] = None
    found = read(answer)
    assert math.isnan(found.samples[0][0].decode_tps) and math.isnan(found.samples[0][0].inter_token_s[1])
    assert found.device.model is None and found.timeline[0].freq_hz is None and found.suspended_s is None


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> Any:
    answer = copy.deepcopy(GOOD)
    inner = answer
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return answer


UNREAD = {("config", "bos"), ("device", "protocol"), ("device", "reasons")}


@pytest.mark.parametrize("path", [path for path in places(GOOD) if path not in UNREAD], ids=str)
def test_every_field_is_checked(path: tuple[Any, ...]) -> None:
    """A value of another kind, or one out of all bounds, never passes."""
    old = GOOD
    for key in path:
        old = old[key]
    wrong: list[Any] = [{"a": {"b": []}}, [[[]]], "\x1b[2J", "x" * 5000, "a\nb"]
    if not isinstance(old, str):
        wrong += ["text"]
    if not isinstance(old, bool):
        wrong += [True]
    if not isinstance(old, int | float) or isinstance(old, bool):
        wrong += [3]
    if isinstance(old, int | float) and not isinstance(old, bool):
        wrong += [-1e300, 1e300, 10**4000]
    if old is None:  # a figure, a text or a table that was not to be had: what is right there depends on the field
        wrong = wrong[:2]
    for value in wrong:
        with pytest.raises(InfrastructureError) as error:
            read(changed(path, value))
        assert "board: the result" in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "path", [path for path in places(GOOD) if isinstance(path[-1], str) and path not in UNREAD and path[0] != "reasons"]
)
def test_no_field_may_be_missing(path: tuple[Any, ...]) -> None:
    answer = copy.deepcopy(GOOD)
    inner = answer
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(InfrastructureError, match=f"has no {path[-1]}"):
        read(answer)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe{}", b"[" * 1_000_000, b'{"a":' * 1_000_000,
        b'"' + b'\\"' * 1_000_000, b'{"protocol": 1, "protocol": 1}', b'{"protocol": NaN}', b'{"protocol": 2}',
        b'{"protocol": 1' + b"0" * 5000 + b"}", b" " * (8 << 20) + b"{}",
    ],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_what_is_no_answer(content: bytes) -> None:
    with pytest.raises(InfrastructureError, match="board: the result"):
        read_result(content, "board")


@pytest.mark.parametrize("change", [{"state": "fine"}, {"progress": 1.5}, {"exit": 256}, {"signal": 0}, {"nonce": "x"}])
def test_a_state_that_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(InfrastructureError, match=r"the state of the run\."):
        read_state(json.dumps({**STATE, **change}), "board")


def sample(at_s: float) -> Sample:
    return Sample(0.1, 0.5, 40.0, 20.0, (0.2, 0.2), "0" * 64, at_s=at_s)


def moments(**values: list[Any]) -> list[Moment]:
    ((name, series),) = values.items()
    empty = {"freq_hz": None, "temp_c": None, "load": None}
    return [Moment(at_s=float(at), **{**empty, name: value}) for at, value in enumerate(series)]


@pytest.mark.parametrize(
    ("timeline", "max_c", "told"),
    [
        (moments(freq_hz=[(6e8, 2e9), (2e9, 2e9), (2e9, 6e8), (6e8, 6e8)]), None, None),  # idle, another core's, idle
        (moments(freq_hz=[(6e8,), (2e9,), (1.7e9,), (6e8,)]), None, "core 0's clock varied between 1.70 and 2.00 GHz"),
        (moments(freq_hz=[(None,), (None,), (2e9,), None]), None, None),
        (moments(temp_c=[{"cpu": 61.0, "gpu": 40.0}, {"cpu": 80.0}]), 60.0, "it began at 61 degrees, above 60"),
        (moments(temp_c=[{"cpu": 59.0}, {"cpu": 80.0}]), 60.0, None),
        (moments(throttling=[{"get_throttled": 0x50000}, {"get_throttled": 0x50000}]), None, None),  # of long ago
        (moments(throttling=[{"get_throttled": 0}, {"get_throttled": 0x50000}]), None, "under-voltage, throttling"),
        (moments(throttling=[{"get_throttled": 0x8}, {"get_throttled": 0}]), None, "the soft temperature limit"),
        (moments(throttling=[{"core_throttle_count": 5}, {"core_throttle_count": 5}]), None, None),
        (moments(throttling=[{"core_throttle_count": 5}, {"core_throttle_count": 7}]), None, "grew by 2"),
        (moments(throttling=[{"cpufreq-cpu0": 0}, {"cpufreq-cpu0": 3}]), None, "cooling device cpufreq-cpu0"),
    ],
)
def test_doubts_from_the_timeline(timeline: list[Moment], max_c: float | None, told: str | None) -> None:
    found = device_doubts([sample(0.9), sample(1.9)], timeline, [0], max_c)
    assert (found == []) if told is None else (len(found) == 1 and told in found[0])
