"""Options that several commands share, and how they combine."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.models.errors import InputError

MOST_STEPS = 2000  # of recovery in a given time

if TYPE_CHECKING:
    from edgekit.target import Target


@dataclass
class State:
    """What an error's report depends on; it lives in the command line's context."""

    debug: bool = False


def _remember_debug(context: typer.Context, value: bool) -> bool:
    if value:
        context.ensure_object(State).debug = True
    return value


Debug = Annotated[
    bool, typer.Option("--debug", callback=_remember_debug, is_eager=True, help="Show the traceback of an error.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, everything else on stderr.")]
CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="A Hugging Face folder, a Hub id, or a GGUF of F32, F16 or BF16.", show_default=False
    ),
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A GGUF file or an ONNX folder.", show_default=False)
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]
AdapterOption = Annotated[
    Path | None, typer.Option("--adapter", metavar="DIR", help="A LoRA adapter to merge first.", show_default=False)
]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Budget: fit this device (see: edgekit devices).", show_default=False),
]
TpsOption = Annotated[
    float | None,
    typer.Option(metavar="N", help="With --device: decoded tokens per second to allow for.  [default: 15]"),
]
MaxKlOption = Annotated[
    float | None,
    typer.Option(
        metavar="NATS",
        help="With --device: the KL per token that is good enough; the smallest such file is made.  [default: 0.005]",
    ),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="With --device: the context whose cache must fit.  [default: the model's, at most 4096]",
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="With --device: what counts beside the KL, size or speed (predicted time per token).  [default: size]",
        show_default=False,
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Budget: the whole file, as 190MB, 250MiB or bytes.", show_default=False),
]
BpwOption = Annotated[
    float | None,
    typer.Option(metavar="BITS", help="Budget: mean bits per weight of the matrices.", show_default=False),
]
BitsOption = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Only types of these widths, as 4,8,16.", show_default=False),
]
FormatsOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Only these types, as q4_0,q8_0; a single one without a budget goes everywhere.",
        show_default=False,
    ),
]
CalibOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Calibration text; may be repeated.  [default: sampled from the model]"),
]
WorkOption = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="DIR",
        help="Keep what is learnt and rounded here; a stopped run, or one for another size, goes on from it.",
        show_default=False,
    ),
]
ForOption = Annotated[
    str,
    typer.Option("--for", metavar="NAME", help="The kind of file, gguf or onnx: its types, and sizes in its bytes."),
]
KvGroupsOption = Annotated[
    bool, typer.Option("--prune-kv-groups", help="Heads go as whole KV groups, which saves attention cache too.")
]
RecoverOption = Annotated[
    str | None,
    typer.Option(
        "--recover",
        metavar="STEPS|TIME",
        help="Distil what is left of the pruned model from the unpruned one: so many steps, as 300, or as many as "
        "so many minutes take, as 30min.",
        show_default=False,
    ),
]
SeedOption = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of everything random.")]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="native, llama.cpp or torch for a GGUF; onnx for an ONNX folder.  [default: native or onnx]",
        show_default=False,
    ),
]
CacheTypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Of the attention cache: f16, q8_0 or q4_0; two for keys and values: q8_0,q4_0.  [default: f16]",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads.  [default: all cores, native: all big ones]", show_default=False),
]


def read_target(
    *,
    device: str | None,
    tps: float | None,
    max_kl: float | None,
    context: int | None,
    objective: str | None,
    size: str | None,
    bpw: float | None,
    bits: str | None,
    formats: str | None,
    container: str = "gguf",
) -> Target:
    """The budget that the options describe; InputError where they contradict each other or say nothing."""
    for option, value in {"--tps": tps, "--max-kl": max_kl, "--context": context, "--objective": objective}.items():
        if value is not None and device is None:
            raise InputError(f"{option} goes with --device only: add a --device or drop {option}")
    from edgekit.quant.containers import container_named
    from edgekit.quant.size import parse_size
    from edgekit.target import Target

    given: dict[str, Any] = {"tps": tps, "max_kl": max_kl, "objective": objective}
    return Target(
        size_bytes=None if size is None else parse_size(size),
        bpw=bpw,
        device=device,
        context=context,
        bits=() if bits is None else tuple(_width(item, bits) for item in _items("--bits", bits, "4,8,16")),
        formats=() if formats is None else tuple(_items("--formats", formats, "q4_0,q8_0")),
        container=container_named(container),
        **{name: value for name, value in given.items() if value is not None},
    )


def read_recovery(value: str | None) -> tuple[int, float | None]:
    """The steps and the seconds that --recover allows: "300", "30min"; no steps where it is not given."""
    if value is None:
        return 0, None
    number = value.removesuffix("min").strip()
    in_time = number != value.strip()
    try:
        amount = float(number) if in_time else int(number)
    except ValueError:
        amount = 0
    if not 0 < amount < math.inf:
        raise InputError(f"--recover {value} is neither a number of steps nor of minutes: give 300 or 30min")
    return (MOST_STEPS, 60 * amount) if in_time else (int(amount), None)


def refuse_same(checkpoint: str, output: Path) -> None:
    """Refuse to replace the input by the output."""
    if output.exists() and Path(checkpoint).exists() and output.samefile(checkpoint):
        raise InputError(f"-o {output} is the checkpoint itself: name another file")


def check_output(output: Path, suffix: str) -> None:
    """Refuse, before hours of work, a file that cannot be written."""
    if output.suffix.lower() != suffix:
        raise InputError(f"-o {output} does not end in {suffix}: name the output {output.with_suffix(suffix).name}")
    if output.is_dir():
        raise InputError(f"-o {output} is a folder: name a file in it")
    folder = output.parent
    if not folder.is_dir():
        raise InputError(f"-o {output}: there is no folder {folder}: create it or choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"-o {output}: the folder {folder} is not writable: choose another")


def check_work(work: Path | None) -> None:
    """Refuse, before hours of work, a --work that is no folder or cannot be written to; a new one is made in time."""
    if work is None:
        return
    there = next(path for path in (work, *work.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--work {work}: {there} is a file: name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--work {work}: the folder {there} is not writable: choose another")


def check_files(option: str, paths: list[Path]) -> None:
    """Refuse what is not a readable file, naming the option it came from."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"{option} {path} is not a file: check the path")
        if not os.access(path, os.R_OK):
            raise InputError(f"{option} {path} cannot be read: change its permissions")


def _width(item: str, bits: str) -> int:
    if not (item.isascii() and item.isdigit() and len(item) < 4):
        raise InputError(f"--bits {bits}: {item!r} is not a width in bits: write a list such as 4,8,16")
    return int(item)


def _items(option: str, value: str, example: str) -> list[str]:
    items = [item.strip() for item in value.split(",")]
    if not all(items):
        raise InputError(f"{option} {value!r} has an empty place: write a list such as {example}")
    return items
