"""edgekit: from a trained checkpoint to a measured edge device."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.devices.bench import bench
    from edgekit.devices.bench_device import bench_device
    from edgekit.devices.bench_vs import bench_vs
    from edgekit.devices.comparison import Comparison, compare_stored
    from edgekit.devices.result import BenchResult
    from edgekit.devices.stored import read_result
    from edgekit.evaluation import Evaluation, evaluate
    from edgekit.head_pruning import prune_heads
    from edgekit.inspection import Inspection, inspect
    from edgekit.models.errors import InfrastructureError, InputError, InvalidResultError, MissingExtra, TargetError
    from edgekit.pipeline import PlanResult, export, plan, quantize
    from edgekit.pruned_heads import HeadOptions, HeadsPruned
    from edgekit.pruning import Pruned, prune
    from edgekit.runtimes import Session, load
    from edgekit.target import Target

# Where each public name lives; it is imported when it is first asked for, so that `import edgekit` costs nothing.
_HOMES = {
    "Artifact": "artifact",
    "BenchResult": "devices.result",
    "Comparison": "devices.comparison",
    "Evaluation": "evaluation",
    "HeadOptions": "pruned_heads",
    "HeadsPruned": "pruned_heads",
    "InfrastructureError": "models.errors",
    "InputError": "models.errors",
    "Inspection": "inspection",
    "InvalidResultError": "models.errors",
    "MissingExtra": "models.errors",
    "PlanResult": "pipeline",
    "Pruned": "pruning",
    "Session": "runtimes",
    "Target": "target",
    "TargetError": "models.errors",
    "bench": "devices.bench",
    "bench_device": "devices.bench_device",
    "bench_vs": "devices.bench_vs",
    "compare_stored": "devices.comparison",
    "evaluate": "evaluation",
    "export": "pipeline",
    "inspect": "inspection",
    "load": "runtimes",
    "plan": "pipeline",
    "prune": "pruning",
    "prune_heads": "head_pruning",
    "quantize": "pipeline",
    "read_result": "devices.stored",
}

__all__ = [
    "Artifact",
    "BenchResult",
    "Comparison",
    "Evaluation",
    "HeadOptions",
    "HeadsPruned",
    "InfrastructureError",
    "InputError",
    "Inspection",
    "InvalidResultError",
    "MissingExtra",
    "PlanResult",
    "Pruned",
    "Session",
    "Target",
    "TargetError",
    "bench",
    "bench_device",
    "bench_vs",
    "compare_stored",
    "evaluate",
    "export",
    "inspect",
    "load",
    "plan",
    "prune",
    "prune_heads",
    "quantize",
    "read_result",
]


class _Package(ModuleType):
    """`edgekit.export` is a public function and a folder; without this the folder, once imported, would win."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
        value = getattr(import_module(f"edgekit.{_HOMES[name]}"), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES:  # what is refused here is the import system handing in the folder
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
