"""A benchmark's result read back from its JSON file, every field checked: files go from hand to hand."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from edgekit.devices.checked import Found, document
from edgekit.devices.result import (
    SCHEMA_VERSION,
    BenchResult,
    Build,
    Config,
    Core,
    DeviceRun,
    Machine,
    Memory,
    ModelFile,
    Moment,
    Predicted,
    Quantiles,
    Reads,
    Sample,
    Summary,
)
from edgekit.models.errors import InputError

MOST_BYTES = 8 << 20
MOST_CORES = 1024
MOST_REPS = 10_000
_MOST_CPU = 4095  # the highest number of a core
MOST_TOKENS = 1 << 20
MOST_MOMENTS = 200_000
_MOST_ZONES = 256
_MOST_NAMES = 64
_MOST_PATH = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00")


def read_result(path: Path) -> BenchResult:
    """What `to_json` wrote; InputError, in one sentence, for a file that is no such result or of another version."""
    found = document(_content(path), f"{path}: the result", _wrong, MOST_BYTES)
    if isinstance(found.value, dict) and "ratios" in found.value:
        raise InputError(f"{path} is a comparison of two benchmarks: give the result of one")
    version = found["schema_version"].whole(0, 1 << 30)
    if version != SCHEMA_VERSION:
        age = "an older" if version < SCHEMA_VERSION else "a newer"
        raise InputError(
            f"{path} has schema_version {version}, as {age} edgekit writes it, and this one reads {SCHEMA_VERSION}: "
            "run the benchmark again"
        )
    return _result(found)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}: check the path") from error


def _wrong(sentence: str) -> InputError:
    return InputError(f"{sentence}: give a file that edgekit bench -o FILE.json wrote")


def _known(found: Found, of: type) -> Found:
    """The same, where it has no field that the dataclass has not."""
    if not isinstance(found.value, dict):
        raise found.odd("is not an object")
    unknown = found.value.keys() - {field.name for field in fields(of)}
    if unknown:
        raise found.odd(f"has a field that is not known: {min(unknown)[:64]!a}")
    return found


def _result(found: Found) -> BenchResult:
    found = _known(found, BenchResult)
    samples = tuple(read_sample(_known(each, Sample)) for each in found["samples"].items(MOST_REPS))
    if not samples:
        raise found["samples"].odd("is empty")
    return BenchResult(
        run_id=found["run_id"].text(),
        status=found["status"].choice("valid", "degraded", "invalid"),
        reasons=tuple(each.text() for each in found["reasons"].items(2 * MOST_REPS)),
        machine=_machine(found["machine"]),
        build=_build(found["build"]),
        model=_model(found["model"]),
        config=_config(found["config"]),
        samples=samples,
        memory=read_memory(_known(found["memory"], Memory)),
        summary=_summary(found["summary"]),
        emulated=found["emulated"].flag(),
        device=found.maybe("device", _device),
        timeline=tuple(read_moment(_known(each, Moment)) for each in found["timeline"].items(MOST_MOMENTS)),
        suspended_s=found.maybe("suspended_s", _seconds),
        unavailable={name: each.text() for name, each in found["unavailable"].entries(_MOST_NAMES)},
        reads=found.maybe("reads", _reads),
        predicted=found.maybe("predicted", _predicted),
        date=found["date"].text(_DATE),
    )


def _machine(found: Found) -> Machine:
    found = _known(found, Machine)
    return Machine(
        cpu=found.maybe("cpu", Found.text),
        isa=names(found["isa"]),
        cores=found["cores"].whole(1, MOST_CORES),
        ram_bytes=_size(found["ram_bytes"]),
        page_bytes=_size(found["page_bytes"]),
        os=found["os"].text(),
        kernel=found["kernel"].text(),
        load_average=found.maybe("load_average", _load),
    )


def _build(found: Found) -> Build:
    found = _known(found, Build)
    return Build(
        edgekit=found["edgekit"].text(),
        python=found.maybe("python", Found.text),
        runtime=found["runtime"].text(),
        runtime_version=found["runtime_version"].text(),
        git=found.maybe("git", Found.text),
        compiler=found.maybe("compiler", Found.text),
        flags=found.maybe("flags", Found.text),
        isa_built=names(found["isa_built"]),
        sha256=found.maybe("sha256", _digest),
    )


def _model(found: Found) -> ModelFile:
    found = _known(found, ModelFile)
    return ModelFile(
        path=found["path"].text(most=_MOST_PATH),
        sha256=_digest(found["sha256"]),
        bytes=_size(found["bytes"]),
        types=_by_type(found["types"]),
    )


def _config(found: Found) -> Config:
    found = _known(found, Config)
    return Config(
        prompt_tokens=found["prompt_tokens"].whole(1, MOST_TOKENS),
        gen_tokens=found["gen_tokens"].whole(2, MOST_TOKENS),
        reps=found["reps"].whole(1, MOST_REPS),
        threads=found["threads"].whole(1, MOST_CORES),
        cache_type=found.maybe("cache_type", Found.text),
        affinity=found.maybe("affinity", read_cpus),
    )


def _summary(found: Found) -> Summary:
    found = _known(found, Summary)
    return Summary(*(_quantiles(found[field.name]) for field in fields(Summary)))


def _quantiles(found: Found) -> Quantiles:
    found = _known(found, Quantiles)
    return Quantiles(
        median=found["median"].figure(),
        p10=found["p10"].figure(),
        p90=found["p90"].figure(),
        mad=found["mad"].figure(),
        n=found["n"].whole(1, MOST_REPS),
        ci95=found.maybe("ci95", _interval),
    )


def _interval(found: Found) -> tuple[float, float]:
    ends = [each.figure() for each in found.items(2)]
    if len(ends) != 2:
        raise found.odd("is not a list of two numbers")
    return ends[0], ends[1]


def _device(found: Found) -> DeviceRun:
    found = _known(found, DeviceRun)
    return DeviceRun(
        target=found["target"].text(),
        transport=found["transport"].text(),
        model=found.maybe("model", Found.text),
        machine=found["machine"].text(),
        cores=tuple(read_core(_known(each, Core)) for each in found["cores"].items(MOST_CORES)),
        tags=names(found["tags"]),
        emulated_why=found.maybe("emulated_why", Found.text),
    )


def _reads(found: Found) -> Reads:
    found = _known(found, Reads)
    return Reads(weights=_by_type(found["weights"]), cache=_size(found["cache"]))


def _predicted(found: Found) -> Predicted:
    found = _known(found, Predicted)
    return Predicted(
        decode_tps=found["decode_tps"].figure(),
        bound_by=found["bound_by"].choice("memory", "compute"),
        memory_s=_seconds(found["memory_s"]),
        compute_s=found.maybe("compute_s", _seconds),
        explanation=found["explanation"].text(),
    )


# What a device's own answer has too: devices/answer.py reads these parts by the same functions.


def read_core(found: Found) -> Core:
    return Core(
        cpu=found["cpu"].whole(0, _MOST_CPU),
        max_hz=found.maybe("max_hz", lambda each: each.number(1e3, 1e12)),
        capacity=found.maybe("capacity", lambda each: each.number(0, 1e9)),
        big=found["big"].flag(),
    )


def read_cpus(found: Found) -> tuple[int, ...]:
    return tuple(cpu.whole(0, _MOST_CPU) for cpu in found.items(MOST_CORES))


def read_sample(found: Found) -> Sample:
    return Sample(
        load_s=found["load_s"].figure(),
        ttft_s=found["ttft_s"].figure(),
        prefill_tps=found["prefill_tps"].figure(),
        decode_tps=found["decode_tps"].figure(),
        inter_token_s=tuple(each.figure() for each in found["inter_token_s"].items(MOST_TOKENS)),
        output_sha256=_digest(found["output_sha256"]),
        load_cold_s=found.maybe("load_cold_s", _seconds),
        at_s=found.maybe("at_s", _seconds),
    )


def read_memory(found: Found) -> Memory:
    return Memory(
        peak_bytes=found.maybe("peak_bytes", _size),
        baseline_bytes=found.maybe("baseline_bytes", _size),
        reason=found.maybe("reason", Found.text),
        pss_bytes=found.maybe("pss_bytes", _size),
    )


def read_moment(found: Found) -> Moment:
    def clocks(each: Found) -> tuple[float | None, ...]:
        return tuple(clock.maybe_self(lambda one: one.number(0, 1e12)) for clock in each.items(MOST_CORES))

    def zones(each: Found) -> dict[str, float]:
        return {name: zone.number(-273.15, 1000) for name, zone in each.entries(_MOST_ZONES)}

    def counts(each: Found) -> dict[str, int]:
        return {name: count.whole(-(1 << 53), 1 << 53) for name, count in each.entries(_MOST_ZONES)}

    return Moment(
        at_s=_seconds(found["at_s"]),
        freq_hz=found.maybe("freq_hz", clocks),
        temp_c=found.maybe("temp_c", zones),
        load=found.maybe("load", _load),
        throttling=found.maybe("throttling", counts),
    )


def names(found: Found) -> tuple[str, ...]:
    return tuple(each.text() for each in found.items(_MOST_NAMES))


def _by_type(found: Found) -> dict[str, int]:
    return {name: _size(each) for name, each in found.entries(_MOST_NAMES)}


def _digest(found: Found) -> str:
    return found.text(_SHA256)


def _size(found: Found) -> int:
    return found.whole(0, 1 << 50)


def _seconds(found: Found) -> float:
    return found.number(0, 1e7)


def _load(found: Found) -> float:
    return found.number(0, 1e6)
