"""What head pruning is asked for and what it made, as values and as pruning.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.head_speed import Deployment
from edgekit.models.errors import InputError
from edgekit.models.spec import ModelSpec
from edgekit.quant.recovering import Recovered
from edgekit.quant.removal import Removal
from edgekit.quant.repair import Repaired
from edgekit.quant.structure import Goal, Structure, goal
from edgekit.quant.teacher import Judgement


@dataclass(frozen=True)
class HeadOptions:
    """What is to go, and how it is made up for."""

    heads: float | None = None  # share of the query heads
    kv_groups: bool = False  # as whole KV groups
    uniform: bool = False  # the same number in every layer
    ffn: float | None = None  # share of the feed-forward channels
    score: str = "gates"
    recover: int = 0  # steps of distillation

    def goals(self, spec: ModelSpec) -> tuple[Goal, ...]:
        """The numbers that go from that model; InputError, with the nearest choice that works, where none can."""
        if spec.experts:
            raise InputError("heads of a mixture of experts cannot be pruned: choose a dense model")
        goals = []
        if self.heads is not None:
            goals.append(goal(spec, self.heads, "groups" if self.kv_groups else "heads", uniform=self.uniform))
        elif self.kv_groups:
            raise InputError("--prune-kv-groups says how heads go: say how many with --heads")
        if self.ffn is not None:
            goals.append(goal(spec, self.ffn, "channels", uniform=self.uniform))
        if not goals:
            raise InputError("nothing is to be pruned: give --heads or --ffn a share, as 0.3")
        return tuple(goals)


@dataclass(frozen=True)
class HeadsPruned:
    """A checkpoint with fewer heads or channels, in `path`.

    `quality` on windows of calibration text that no step looked at: "unpruned", "pruned", "repaired" and, where it was
    asked for, "recovered". Bytes are of the safetensors; `before` and `after` are Q8_0 files on this machine.
    """

    path: Path
    bytes: int
    bytes_before: int
    options: HeadOptions
    goals: tuple[Goal, ...]
    removal: Removal
    repaired: Repaired
    recovered: Recovered | None
    quality: Mapping[str, Judgement]
    before: Deployment
    after: Deployment
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def structure(self) -> Structure:
        """What was kept."""
        return self.removal.structure

    @property
    def stage(self) -> str:
        """The last of `quality`: what the folder holds."""
        return list(self.quality)[-1]

    @property
    def top1_change(self) -> float:
        """Of next-token accuracy, as a share of the unpruned model's."""
        return self.quality[self.stage].top1 / self.quality["unpruned"].top1 - 1


def pruning_document(pruned: HeadsPruned, calib: Sequence[Path], seed: int) -> str:
    """pruning.json."""
    structure, options = pruned.structure, pruned.options
    document = {
        "score": options.score,
        "seed": seed,
        "calibration": ", ".join(map(str, calib)) or "sampled from the model",
        "uniform": options.uniform,
        "removed": [_goal(pruned, target) for target in pruned.goals],
        "kept": {
            "query_heads": structure.heads,
            "kv_heads": structure.kv_heads,
            "feed_forward_channels": structure.ffn,
            "layers": [
                {
                    "kv_heads": layer.groups,
                    "query_heads": layer.heads,
                    **({} if layer.channels is None else {"feed_forward_channels": layer.channels}),
                }
                for layer in structure.layers
            ],
        },
        "rounds": _rounds(pruned.removal),
        "held_out": {stage: _judgement(judgement) for stage, judgement in pruned.quality.items()},
        "repair": asdict(pruned.repaired),
        "recovery": None if pruned.recovered is None else asdict(pruned.recovered),
        "files": {
            "note": "Q8_0 files in the native runtime, on the machine that pruned",
            "before": asdict(pruned.before),
            "after": asdict(pruned.after),
        },
        "notes": pruned.notes,
    }
    return json.dumps(document, indent=2) + "\n"


def _goal(pruned: HeadsPruned, target: Goal) -> dict[str, Any]:
    spec = pruned.structure.spec
    whole = sum(spec.ffn if target.kind == "channels" else spec.heads)
    return {"kind": target.kind, "count": sum(pruned.structure.removed(target.kind)), "of": whole}


def _rounds(removal: Removal) -> list[dict[str, Any]]:
    """What went in each round, why, and what the masked model then cost."""
    return [
        {
            "removed": [{"layer": unit.layer, "units": unit.removed, "cost": unit.cost} for unit in taken.units],
            "head_scores": taken.costs.heads.tolist(),
            "held_out": _judgement(taken.judgement),
        }
        for taken in removal.rounds
    ]


def _judgement(judgement: Judgement) -> dict[str, float]:
    return {"kl": judgement.kl, "perplexity": math.exp(judgement.nll), "top1": judgement.top1}
