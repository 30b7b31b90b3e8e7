"""edgekit plan: sensitivity and allocation only."""

from __future__ import annotations

from edgekit.cli import options, output
from edgekit.cli.quantize import nats, tokens_per_s
from edgekit.figures import bytes_text, seconds_text

EXAMPLES = (
    "edgekit plan CHECKPOINT --size 190MB -o plan.json",
    "edgekit quantize CHECKPOINT --plan plan.json -o model.gguf",
    "edgekit plan CHECKPOINT --for onnx --bpw 6 -o plan.json",
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
    container: options.ForOption = "gguf",
    calib: options.CalibOption = None,
    adapter: options.AdapterOption = None,
    seed: options.SeedOption = 0,
    work: options.WorkOption = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Choose each tensor's type; write an editable plan.

    Give one budget: --device, --size or --bpw; or --formats with one type for all tensors.
    """
    options.check_output(output_path, ".json")
    options.check_files("--calib", calib or [])
    options.check_work(work)
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
        container=container,
    )
    from edgekit import pipeline
    from edgekit.report.data import plan_bits_per_weight

    with output.stdout_reserved(as_json):
        result = pipeline.plan(
            checkpoint, target, output_path, calib=calib or [], seed=seed, adapter=adapter, work=work
        )
    plan = result.plan
    bpw = plan_bits_per_weight(plan)
    if as_json:
        output.print_json(
            {
                "path": output_path,
                "bytes": plan.bytes,
                "bpw": bpw,
                "kld_predicted": plan.kld_predicted,
                "kld_measured": result.kld_measured,
                "decode_tps_predicted": plan.facts.get("decode_tps_predicted"),
                "notes": result.notes,
                "formats": plan.formats,
                "seconds": result.seconds,
            }
        )
        return
    kept = "" if work is None else f" --work {work}"
    next_command, at_most = f"quantize {checkpoint} --plan {output_path}{kept} -o model.gguf", ""
    if container == "onnx":  # whose graph's own bytes depend on the types a little
        next_command, at_most = (
            f"export {checkpoint} --plan {output_path}{kept} --format onnx -o model-onnx",
            "at most ",
        )
    counts: dict[str, int] = {}
    for name in plan.formats.values():
        counts[name] = counts.get(name, 0) + 1
    output.print_facts(
        [
            ("wrote", str(output_path)),
            ("file size", f"{at_most}{bytes_text(plan.bytes)} ({plan.bytes:,} bytes)"),
            ("bits per weight", None if bpw is None else f"{bpw:.2f}"),
            ("KL predicted", nats(plan.kld_predicted)),
            ("KL measured", nats(result.kld_measured)),
            ("speed predicted", tokens_per_s(plan)),
            ("types", ", ".join(f"{count} × {name}" for name, count in sorted(counts.items()))),
            *(("note", note) for note in result.notes),
            ("time", seconds_text(sum(result.seconds.values()))),
            ("next", f"edgekit {next_command}"),
        ]
    )
