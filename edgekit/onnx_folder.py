"""The end of the line for ONNX: a folder with the plan's formats."""

from __future__ import annotations

import hashlib
import math
from importlib.util import find_spec
from pathlib import Path

from edgekit.artifact import Artifact, notes
from edgekit.calibrating import Source
from edgekit.clock import Clock
from edgekit.export.huggingface import require_new
from edgekit.export.onnx.genai import expressible
from edgekit.export.onnx.options import OnnxOptions
from edgekit.models.errors import MissingExtra
from edgekit.planning import Planned
from edgekit.quant.containers import ONNX
from edgekit.quant.plan import Plan, matrices

_WITHOUT_GENAI = "ONNX Runtime GenAI cannot be told of a model whose layers have different numbers of heads"


def require_possible(source: Source, plan: Plan, folder: Path, options: OnnxOptions, path: Path) -> None:
    """Raise InputError, before hours of work, where the folder could not be written; `path` is the plan's."""
    if find_spec("onnx") is None:
        raise MissingExtra("onnx", "onnx")
    ONNX.require_carried(plan.formats, source=str(path))
    require_new(folder)
    options.positions(source.checkpoint.spec)


def written(source: Source, planned: Planned, folder: Path, options: OnnxOptions, clock: Clock) -> Artifact:
    """The plan's folder; its sha256 is the graph's, which has that of the weights in it."""
    from edgekit.export.onnx.write import MODEL, write_onnx

    plan, formats = planned.plan, planned.plan.formats
    with clock.stage("rounding and writing"):
        tensors = planned.rounded.stream(formats)
        made = write_onnx(source.checkpoint, source.tokenizer, tensors, formats, folder, options=options)
    told, asked = notes(source, plan), None if plan.budget is None else plan.budget.max_bytes
    if not expressible(source.checkpoint):
        told += (_WITHOUT_GENAI,)
    if asked is not None and made.bytes > asked:
        # A plan that was edited may be beyond its own budget, and then no options help.
        way_out = ": export's default options keep to them" if plan.bytes <= asked else ""
        told += (f"more than the {asked:,} bytes that were asked for{way_out}",)
    weights = sum(math.prod(tensor.shape) for tensor in matrices(source.checkpoint.tensors))
    return Artifact(
        path=folder,
        bytes=made.bytes,
        sha256=hashlib.sha256((folder / MODEL).read_bytes()).hexdigest(),
        plan=plan,
        kld_predicted=plan.kld_predicted,
        kld_measured=planned.kld_measured,
        seconds=clock.seconds,
        notes=told,
        bits_per_weight=8 * made.matrix_bytes / weights,
    )
