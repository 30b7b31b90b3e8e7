"""How much a model needs each query head and feed-forward channel: one score a file, all with one method."""

from __future__ import annotations

from edgekit.quant.head_scores.gates import Gates
from edgekit.quant.head_scores.magnitude import Magnitude
from edgekit.quant.head_scores.score import Candidates, HeadScore, UnitCosts
from edgekit.quant.head_scores.taylor import Taylor

SCORES: dict[str, HeadScore] = {"gates": Gates(), "taylor": Taylor(), "magnitude": Magnitude()}

__all__ = ["SCORES", "Candidates", "Gates", "HeadScore", "Magnitude", "Taylor", "UnitCosts"]
