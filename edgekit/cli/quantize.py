"""edgekit quantize: the whole line from a checkpoint to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options, output
from edgekit.figures import bytes_text, kl_text, seconds_text
from edgekit.models.errors import InputError

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.quant.plan import Plan

EXAMPLES = (
    "edgekit quantize CHECKPOINT --device pi4b -o model.gguf",
    "edgekit quantize CHECKPOINT --size 190MB --calib notes.txt -o model.gguf",
    "edgekit quantize CHECKPOINT --bpw 4.5 --bits 4,8,16 -o model.gguf",
    "edgekit quantize CHECKPOINT --formats q4_0 -o model.gguf",
    "edgekit quantize CHECKPOINT --bpw 4.5 --distil --calib notes.txt -o model.gguf",
    "edgekit quantize CHECKPOINT --formats q8_0 --qat 40 --calib notes.txt -o model.gguf",
    "edgekit quantize CHECKPOINT --plan plan.json -o model.gguf",
)


def command(
    checkpoint: options.CheckpointArgument,
    output_path: options.OutputOption,
    device: options.DeviceOption = None,
    tps: options.TpsOption = None,
    max_kl: options.MaxKlOption = None,
    context: options.ContextOption = None,
    objective: options.ObjectiveOption = None,
    size: options.SizeOption = None,
    bpw: options.BpwOption = None,
    bits: options.BitsOption = None,
    formats: options.FormatsOption = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="A plan to follow, in place of a budget.")] = None,
    prune_heads: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="First cut away this share of the query heads, as 0.3.", show_default=False),
    ] = None,
    kv_groups: options.KvGroupsOption = False,
    recover: options.RecoverOption = None,
    calib: options.CalibOption = None,
    adapter: options.AdapterOption = None,
    seed: options.SeedOption = 0,
    work: options.WorkOption = None,
    distil: Annotated[
        bool,
        typer.Option(
            "--distil", help="Train norms and block scales against the checkpoint's logits, 10 minutes at most."
        ),
    ] = False,
    qat: Annotated[
        int | None,
        typer.Option(
            "--qat",
            metavar="STEPS",
            min=1,
            help="Train all weights under the chosen types, so many steps on the text of --calib; meant for 8 bits.",
            show_default=False,
        ),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no HTML report beside the output.")] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Quantise a checkpoint into a GGUF that fits a budget.

    Give one budget: --device, --size or --bpw; or --formats with one type for all tensors; or --plan.
    """
    options.check_output(output_path, ".gguf")
    options.refuse_same(checkpoint, output_path)
    options.check_files("--calib", calib or [])
    options.check_work(work)
    if prune_heads is None and (kv_groups or recover is not None):
        raise InputError(f"{'--prune-kv-groups' if kv_groups else '--recover'} goes with --prune-heads only: add it")
    target = None
    if plan is None:
        target = options.read_target(
            device=device,
            tps=tps,
            max_kl=max_kl,
            context=context,
            objective=objective,
            size=size,
            bpw=bpw,
            bits=bits,
            formats=formats,
        )
    else:
        options.check_files("--plan", [plan])
        _refuse_beside_plan(device, size, bpw, bits, formats, tps, max_kl, context, objective, seed or None)
    from edgekit import pipeline
    from edgekit.pruned_heads import HeadOptions

    steps, seconds = options.read_recovery(recover)
    prune = None if prune_heads is None else HeadOptions(prune_heads, kv_groups, recover=steps, recover_seconds=seconds)
    with output.stdout_reserved(as_json):
        artifact = pipeline.quantize(
            checkpoint,
            output_path,
            target,
            plan=plan,
            calib=calib or [],
            seed=seed,
            adapter=adapter,
            work=work,
            report=not no_report,
            distil=distil,
            qat=qat,
            prune=prune,
        )
    show(artifact, as_json)


def show(artifact: Artifact, as_json: bool) -> None:
    """Print what was made."""
    bpw = artifact.bits_per_weight
    if as_json:
        output.print_json(
            {
                "path": artifact.path,
                "bytes": artifact.bytes,
                "sha256": artifact.sha256,
                "bpw": bpw,
                "kld_predicted": artifact.kld_predicted,
                "kld_measured": artifact.kld_measured,
                "decode_tps_predicted": artifact.plan.facts.get("decode_tps_predicted"),
                "training": artifact.training,
                "zeros": artifact.zeros,
                "ablation": [vars(row) for row in artifact.ablation],
                "notes": artifact.notes,
                "report": artifact.report,
                "seconds": artifact.seconds,
            }
        )
        return
    output.print_facts(
        [
            ("wrote", str(artifact.path)),
            ("size", f"{bytes_text(artifact.bytes)} ({artifact.bytes:,} bytes)"),
            ("bits per weight", None if bpw is None else f"{bpw:.2f}"),
            ("KL predicted", nats(artifact.kld_predicted)),
            ("KL measured", nats(artifact.kld_measured)),
            ("speed predicted", tokens_per_s(artifact.plan)),
            *(("note", note) for note in artifact.notes),
            ("time", seconds_text(sum(artifact.seconds.values()))),
            ("report", None if artifact.report is None else str(artifact.report)),
            ("next", f'edgekit run {artifact.path} -p "Once upon a time"'),
        ]
    )


def nats(kl: float | None) -> str | None:
    """A KL with its unit; None where it is not known."""
    return None if kl is None else f"{kl_text(kl)} nats per token"


def tokens_per_s(plan: Plan) -> str | None:
    """What a plan made for speed is predicted to decode; None for others."""
    tps = plan.facts.get("decode_tps_predicted")
    return None if tps is None else f"{tps:.1f} tokens/s on the device, a prediction"


def _refuse_beside_plan(*values: object) -> None:
    names = (
        *("--device", "--size", "--bpw", "--bits", "--formats", "--tps", "--max-kl", "--context"),
        *("--objective", "--seed"),
    )
    given = [name for name, value in zip(names, values, strict=True) if value is not None]
    if given:
        raise InputError(f"--plan already says what to make: drop {' and '.join(given)}, or --plan")
