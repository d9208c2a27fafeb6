"""Which trials there are and in what order: every combination once in each block, shuffled by the seed."""

import itertools
import random
from collections.abc import Iterable, Iterator

import msgspec

from mpnet.experiment.factors import Factors
from mpnet.experiment.sweep import Sweep


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one combination.

    Attributes:
        id: the same at each reading of the same sweep: the replicate and the number of the combination.
        order: place in the run, from 0.
        replicate: block, from 1.
        factors: what is tried.
        seconds: to measure for.
        warm_up: seconds of the same work before.
    """

    id: str
    order: int
    replicate: int
    factors: Factors
    seconds: float
    warm_up: float


def plan(sweep: Sweep) -> list[Trial]:
    """All trials in the order in which they are run.

    A replicate is a block: it has each combination once, so that what drifts over a run, as temperature does, is
    spread over all of them. Within a block the order is random: none always follows the same other.

    The systems of a case of the bench have blocks of their own, one case after the other, and their turns in the
    order of the sweep: they are all started once, and compared round by round.
    """
    generator = random.Random(sweep.design.seed)  # noqa: S311 - an order to repeat, no secret
    numbered = list(enumerate(sweep.combinations))
    trials: list[Trial] = []
    for case in dict.fromkeys(factors.case for factors in sweep.combinations):
        combinations = [(number, factors) for number, factors in numbered if factors.case == case]
        for replicate in range(1, sweep.design.replicates + 1):
            block = list(combinations)
            if not case:
                generator.shuffle(block)
            for number, factors in block:
                trials.append(
                    Trial(
                        id=f"{replicate}-{number}",
                        order=len(trials),
                        replicate=replicate,
                        factors=factors,
                        seconds=sweep.design.seconds,
                        warm_up=sweep.design.warm_up,
                    )
                )
    return trials


def sessions(trials: Iterable[Trial]) -> Iterator[list[Trial]]:
    """Trials that follow each other on the same systems: all of a case, or one that has its device alone."""
    for _, each in itertools.groupby(trials, lambda trial: trial.factors.case or trial.id):
        yield list(each)
