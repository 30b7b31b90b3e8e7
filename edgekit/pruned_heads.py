"""What head pruning is asked for and what it made, as values and as pruning.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.figures import kl_text
from edgekit.head_speed import Deployment
from edgekit.models.errors import InputError
from edgekit.models.spec import ModelSpec
from edgekit.quant.recovering import Recovered
from edgekit.quant.removal import Removal
from edgekit.quant.repair import Repaired
from edgekit.quant.structure import Goal, KeptLayer, Structure, goal
from edgekit.quant.teacher import Judgement


@dataclass(frozen=True)
class HeadOptions:
    """What is to go, and how it is made up for."""

    heads: float | None = None  # share of the query heads
    kv_groups: bool = False  # as whole KV groups
    uniform: bool = False  # the same number in every layer
    ffn: float | None = None  # share of the feed-forward channels
    score: str = "gates"
    recover: int = 0  # steps of distillation at most
    recover_seconds: float | None = None  # for them

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
    calib: tuple[Path, ...]
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def structure(self) -> Structure:
        """What was kept."""
        return self.removal.structure

    @property
    def stage(self) -> str:
        """The last of `quality`: what the folder holds."""
        return list(self.quality)[-1]

    def top1_change(self, stage: str) -> float:
        """Of next-token accuracy, as a share of the unpruned model's; 0 where that is never right."""
        before = self.quality["unpruned"].top1
        return self.quality[stage].top1 / before - 1 if before else 0.0

    def document(self) -> dict[str, Any]:
        """pruning.json."""
        structure, options = self.structure, self.options
        return {
            "score": options.score,
            "seed": self.seed,
            "calibration": ", ".join(map(str, self.calib)) or "sampled from the model",
            "uniform": options.uniform,
            "removed": [_goal(structure, target) for target in self.goals],
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
            "rounds": _rounds(self.removal),
            "held_out": {stage: _judgement(judgement) for stage, judgement in self.quality.items()},
            "repair": asdict(self.repaired),
            "recovery": None if self.recovered is None else asdict(self.recovered),
            "seconds": {stage: round(seconds, 1) for stage, seconds in self.seconds.items()},
            "files": {
                "note": "Q8_0 files in the native runtime, on the machine that pruned",
                "before": asdict(self.before),
                "after": asdict(self.after),
            },
            "summary": self.summary,
            "notes": self.notes,
        }

    @property
    def summary(self) -> str:
        """A sentence for who quantises the folder."""
        accuracy, kl = 100 * self.top1_change(self.stage), kl_text(self.quality[self.stage].kl)
        return (
            f"pruned checkpoint: {counts_text(self.structure)} removed; against the unpruned model next-token accuracy "
            f"{accuracy:+.2f} % (relative), KL {kl} nats, on calibration text held out"
        )


def structure_of(document: Mapping[str, Any], spec: ModelSpec) -> Structure:
    """What the pruning.json of a model of that specification says was kept."""
    layers = []
    for layer in document["kept"]["layers"]:
        channels = layer.get("feed_forward_channels")
        heads = tuple(map(tuple, layer["query_heads"]))
        layers.append(KeptLayer(tuple(layer["kv_heads"]), heads, None if channels is None else tuple(channels)))
    return Structure(spec, tuple(layers))


def counts_text(structure: Structure) -> str:
    """How many heads, groups and channels went: "20 of 64 query heads, 10 of 32 KV groups"."""
    spec = structure.spec
    parts = (
        ("query heads", sum(spec.heads), sum(structure.heads)),
        ("KV groups", sum(spec.kv_heads), sum(structure.kv_heads)),
        ("feed-forward channels", sum(spec.ffn), sum(structure.ffn)),
    )
    return ", ".join(f"{whole - kept:,} of {whole:,} {name}" for name, whole, kept in parts if kept < whole)


def _goal(structure: Structure, target: Goal) -> dict[str, Any]:
    whole = sum(structure.spec.ffn if target.kind == "channels" else structure.spec.heads)
    return {"kind": target.kind, "count": sum(structure.removed(target.kind)), "of": whole}


def _rounds(removal: Removal) -> list[dict[str, Any]]:
    """What went in each round, why, and what the masked model then cost."""
    return [
        {
            "removed": [
                {"kind": unit.kind, "layer": unit.layer, "indices": unit.removed, "cost": unit.cost}
                for unit in taken.units
            ],
            "head_scores": taken.costs.heads.tolist(),
            "held_out": _judgement(taken.judgement),
        }
        for taken in removal.rounds
    ]


def _judgement(judgement: Judgement) -> dict[str, float]:
    return {"kl": judgement.kl, "perplexity": math.exp(judgement.nll), "top1": judgement.top1}
