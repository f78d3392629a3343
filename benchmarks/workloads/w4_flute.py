"""W4: a whole job, including start-up and results: the one whose times FLUTE published.

Logistic regression, 1,000 clients of about 60 images, ten per round, 100 rounds, batches of ten,
evaluation on all test images every ten rounds.

Source: Hipolito Garcia et al. (2022), https://arxiv.org/abs/2203.13789.
"""

from dataclasses import replace

from benchmarks.cases import Case, make_job
from benchmarks.workloads.w1_small_networks import EXPERIMENT
from clients.sgd import SgdClient
from fl_sim.data.partition import Iid
from fl_sim.experiment import Data, Evaluation, Model

EVERY = 10  # rounds between two evaluations


def list_cases(full: bool) -> list[Case]:
    """Return the one job."""
    experiment = replace(
        EXPERIMENT,
        name="flute",
        client=SgdClient(learning_rate=0.1, momentum=0.0, batch_size=10),
        data=Data("fashion_mnist", 1000, held_out=0.0),
        partition=Iid(),
        model=Model("linear"),
        evaluation=Evaluation(every=EVERY),
        rounds=100,
    )
    text = experiment.to_json()
    jobs = {engine: make_job("run_whole", engine, text) for engine in ("local", "ray")}
    for engine in ("floor", "optimised", "flower"):
        plain = make_job("run", engine, text, evaluate_every=EVERY)
        jobs[engine] = replace(plain, rounds_per_turn=experiment.rounds)
    return [Case("W4", "FLUTE job", jobs, cold=True, budget=60.0)]
