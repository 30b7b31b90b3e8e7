"""Removal in rounds: scores are asked anew, of what is left, and every goal is met exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from models_random import random_checkpoint

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.forward import load_model
from edgekit.quant import removal
from edgekit.quant.factors import Factors, multiplied
from edgekit.quant.head_scores import Candidates, UnitCosts
from edgekit.quant.removal import choose
from edgekit.quant.structure import Goal, Structure
from edgekit.quant.teacher import Teacher, judge

IDS = np.random.default_rng(0).integers(0, 4096, (6, 24))


@dataclass
class Recorded:
    """Costs that turn with every round: what is cheap in one is dear in the next."""

    asked: list[Candidates] = field(default_factory=list)

    def score(self, candidates: Candidates) -> UnitCosts:
        self.asked.append(candidates)
        sign = (-1) ** len(self.asked)
        return UnitCosts(
            sign * np.arange(12, dtype=np.float32).reshape(3, 4),
            sign * np.arange(384, dtype=np.float32).reshape(3, 128),
        )


def test_rounds(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", "llama", ffn=128))
    model, full = load_model(checkpoint), Structure.full(checkpoint.spec)
    teacher, score = Teacher(model, IDS), Recorded()
    goals = (Goal("heads", 4), Goal("channels", 128))
    result = choose(model, teacher, np.arange(4), np.array([5, 4]), full, goals, score)

    assert len(result.rounds) == len(score.asked) == removal.ROUNDS == 4
    assert sum(result.structure.removed("heads")) == 4 and sum(result.structure.removed("channels")) == 128
    structure = full
    assert score.asked[0].before is None
    for taken, after in zip(result.rounds, score.asked[1:], strict=False):
        assert after.before is taken.costs
    for number, (taken, asked) in enumerate(zip(result.rounds, score.asked, strict=True)):
        assert asked.structure == structure and asked.kinds == ("heads", "channels")
        assert np.array_equal(asked.windows, np.arange(4))
        for unit in taken.units:
            structure = structure.without(unit)
        assert sum(structure.removed("heads")) == (2, 2, 4, 4)[number]  # a head of both groups goes at once
        assert sum(structure.removed("channels")) == 32 * (number + 1)
        with multiplied(model, Factors.keeping(structure)):
            assert taken.judgement == judge(model, teacher, np.array([5, 4]))
    assert structure == result.structure
    heads = [unit.removed for taken in result.rounds for unit in taken.units if len(unit.removed) == 2]
    assert heads == [(1, 3), (1, 3)]  # in both rounds the second of each group, of the last layer and of the first

    of_heads = choose(model, teacher, np.arange(4), np.array([4]), full, goals[:1], Recorded())
    assert len(of_heads.rounds) == 2  # nothing was left to do in the others


def test_large_models_are_looked_at_on_fewer_windows(tmp_path: Path) -> None:
    model = load_model(open_checkpoint(random_checkpoint(tmp_path / "model", "llama")))
    weights = sum(parameter.numel() for parameter in model.model.layers.parameters())
    teacher = Teacher(model, IDS)
    for windows, expected in ((90.0, 32), (20.0, 20), (3.0, removal.FEWEST)):
        assert removal.affordable(model, teacher, weights * 24 * windows, 32) == expected


def test_many_windows_are_thinned_evenly() -> None:
    assert removal.spread(np.arange(100, 110), 4).tolist() == [100, 102, 105, 107]
    assert removal.spread(np.arange(3), 4).tolist() == [0, 1, 2]
