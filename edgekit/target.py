"""What the user asks for, and the budget that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.devices.budget import FileLimit, file_bytes_by_ram, max_file_bytes
from edgekit.devices.predict import predict_decode, seconds_per_weight
from edgekit.devices.profile import Device, load_device
from edgekit.models.errors import InputError
from edgekit.models.spec import ModelSpec
from edgekit.quant.candidates import candidate_formats
from edgekit.quant.containers import GGUF, Container
from edgekit.quant.plan import Budget
from edgekit.quant.speed import DecodeTime
from edgekit.report import DevicePrediction

DEFAULT_CONTEXT = 4096
OBJECTIVES = ("size", "speed")


@dataclass(frozen=True)
class Target:
    """One of: a size, bits per weight, a device, or a single format everywhere; and the formats to choose from.

    container: the kind of file, which limits the formats and in whose bytes all is counted.

    size_bytes: the whole file, header included. bpw: mean bits per weight of the matrices. device: a profile's name or
    TOML file; tps (tokens per second), max_kl (nats per token) and context (positions; None: the model's own, at most
    4096) belong to it, and objective: what is as small as max_kl allows, the file ("size") or the predicted time per
    token ("speed"). bits or formats narrow the candidates.
    """

    size_bytes: int | None = None
    bpw: float | None = None
    device: str | None = None
    tps: float = 15.0
    max_kl: float = 0.005
    context: int | None = None
    objective: str = "size"
    bits: tuple[int, ...] = ()
    formats: tuple[str, ...] = ()
    container: Container = GGUF

    def __post_init__(self) -> None:
        budgets = {"--size": self.size_bytes, "--bpw": self.bpw, "--device": self.device}
        given = [name for name, value in budgets.items() if value is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} exclude each other: give one of them")
        several = len(self.candidates) > 1  # and an unknown name is refused before anything is opened
        if not given and several:
            raise InputError(
                "there is no budget: give --size, --bpw or --device, or one type for all tensors, as in --formats q4_0"
            )
        if self.bpw is not None and not 0 < self.bpw <= 32:
            raise InputError(f"--bpw {self.bpw:g} is out of range: give more than 0 and at most 32 bits per weight")
        if self.device is not None and self.container != GGUF:
            raise InputError(
                f"--device speaks of GGUF's types in the native runtime: with --for {self.container.name} "
                "give --size or --bpw"
            )
        if self.objective not in OBJECTIVES:
            raise InputError(f"there is no objective {self.objective!r}: choose size or speed")
        if self.objective == "speed" and self.device is None:
            raise InputError("--objective speed needs a --device, whose profile says what a token takes")
        if not self.max_kl > 0:
            raise InputError(f"--max-kl {self.max_kl:g} is out of range: give nats per token, more than 0")

    @property
    def candidates(self) -> tuple[str, ...]:
        """The names of the formats to choose from."""
        return candidate_formats(self.bits or None, self.formats or None, self.container)

    @property
    def uniform(self) -> str | None:
        """The one format of a run without a budget."""
        free = self.size_bytes is None and self.bpw is None and self.device is None
        return self.candidates[0] if free else None


@dataclass(frozen=True)
class DeviceLimit:
    """A device, the largest file for it and, where speed is the objective, what a token takes and may take."""

    device: Device
    limit: FileLimit
    context: int
    time: DecodeTime | None = None


def device_limit(target: Target, spec: ModelSpec) -> DeviceLimit | None:
    """The file that the target's device takes of a model; None without a device."""
    if target.device is None:
        return None
    context = target.context if target.context is not None else min(DEFAULT_CONTEXT, spec.context)
    device = load_device(target.device)
    limit = max_file_bytes(device, spec, tps=target.tps, context=context)
    if target.objective == "size":
        return DeviceLimit(device, limit, context)
    time = DecodeTime(
        max_seconds=1 / target.tps,
        seconds_per_byte=1 / device.bandwidth_bytes_per_s,
        seconds_per_weight=seconds_per_weight(device),
        lookup_roles=() if spec.tied else ("embedding",),
    )
    return DeviceLimit(device, file_bytes_by_ram(device, spec, context=context), context, time)


def budget_of(target: Target, limit: DeviceLimit | None) -> Budget:
    """The budget of a target; `limit` is `device_limit`'s."""
    if limit is not None:
        return Budget(max_bytes=limit.limit.bytes, max_kl=target.max_kl, formats=target.candidates)
    return Budget(
        max_bytes=target.size_bytes, max_bpw=target.bpw, formats=target.candidates, container=target.container
    )


def predicted_speed(limit: DeviceLimit, spec: ModelSpec, read_bytes: int) -> DevicePrediction:
    """The device's predicted decode speed for a file of whose weights a token reads `read_bytes`."""
    prediction = predict_decode(limit.device, spec, read_bytes)
    return DevicePrediction(limit.device.title, prediction.decode_tps, prediction.explanation)
