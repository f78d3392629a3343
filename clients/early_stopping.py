"""Early stopping on a validation set held aside by the client."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from clients._shared.poisoning import select_share
from clients.sgd import SgdClient, descend, make_proximal_penalty
from fl_sim.contracts import Client, Pipeline, Shard
from fl_sim.core.errors import require, require_at_least
from fl_sim.models.scoring import compute_logits

KEPT = "early_stopping.epoch"  # name of the restored epoch in a client's memory


@final
@dataclass(frozen=True)
class EarlyStoppingClient(Client):
    """Hold some images aside, train on the others, and restore the epoch with the lowest loss.

    A trainer who suspects protective noise would stop before the network has learnt it. The
    validation images must be clean: noise on them as well looks like progress. Momentum restarts
    each epoch.

    Source: the protocol of Fu et al. (2022), appendix on early stopping,
    https://arxiv.org/abs/2203.14533.

    Attributes:
        sgd: Training; its local epochs are the largest number of epochs.
        patience: Number of epochs without a lower validation loss after which training ends.
        aside: Share of the shard held aside, the same images in each round.
        clean: Share of the validation images without noise, as far as there are such; None takes
            them as they come. Known in a simulation only.
    """

    sgd: SgdClient = field(default_factory=lambda: SgdClient(local_epochs=30))
    patience: int = 3
    aside: float = 0.1
    clean: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "patience")
        require(0 < self.aside < 1, "aside", "between 0 and 1", self.aside)
        steps = self.sgd.local_steps
        require(steps is None, "sgd.local_steps", "None: training stops between epochs", steps)
        share = self.clean
        require(share is None or 0 <= share <= 1, "clean", "between 0 and 1, or None", share)

    def num_steps(self, num_examples: int) -> int:
        """Return the largest number of steps that training can take."""
        return self.sgd.num_steps(num_examples - self._count_aside(num_examples))

    def cannot_train(self, model: nn.Module) -> str:
        """Return the training's reason for refusing the model, or an empty string."""
        return self.sgd.cannot_train(model)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; return the metrics of the restored epoch, as plain SGD does.

        A shard of a single image is trained on without a validation set.
        """
        penalty = make_proximal_penalty(model, shard.proximal_mu)
        if len(shard) < 2:
            return descend(self.sgd, model, shard, rng, penalty)
        held, rest = self._split(shard)
        held = Pipeline.of(self.sgd.countermeasures).filter(held, rng)
        one_epoch = replace(self.sgd, local_epochs=1)
        lowest, best_epoch = float("inf"), 0
        report: dict[str, float] = {}
        state: dict[str, Tensor] = {}
        for epoch in range(1, self.sgd.local_epochs + 1):
            metrics = descend(one_epoch, model, rest, rng, penalty)
            loss = float(functional.cross_entropy(compute_logits(model, held.inputs), held.labels))
            if loss < lowest or not report:
                lowest, best_epoch, report = loss, epoch, metrics
                state = {name: value.clone() for name, value in model.state_dict().items()}
            if epoch - best_epoch >= self.patience:
                break
        model.load_state_dict(state)
        shard.memory[KEPT] = torch.tensor(best_epoch)
        return report

    def _split(self, shard: Shard) -> tuple[Shard, Shard]:
        """Return the validation images and the others."""
        aside = self._select_aside(shard)
        left = torch.ones(len(shard), dtype=torch.bool)
        left[aside] = False
        return _select_rows(shard, aside), _select_rows(shard, left.nonzero().squeeze(1))

    def _count_aside(self, num_examples: int) -> int:
        return min(num_examples - 1, max(1, round(self.aside * num_examples)))

    def _select_aside(self, shard: Shard) -> Int64[Tensor, " a"]:
        """Return the rows held aside, as clean as requested, the same in each round."""
        shuffled = select_share(shard, 1.0, "early stopping")
        count = self._count_aside(len(shard))
        if self.clean is None or shard.protected is None:
            return shuffled[:count]
        noisy = shard.protected[shuffled]
        num_clean = min(round(self.clean * count), int((~noisy).sum()))
        chosen = torch.cat([shuffled[~noisy][:num_clean], shuffled[noisy][: count - num_clean]])
        # If too few images carry noise, further clean ones fill up.
        further = shuffled[~noisy][num_clean : num_clean + count - len(chosen)]
        return torch.cat([chosen, further])


def _select_rows(shard: Shard, rows: Int64[Tensor, " m"]) -> Shard:
    """Return some records of a shard, with its memory and sent vectors shared."""
    protected = None if shard.protected is None else shard.protected[rows]
    return replace(
        shard,
        inputs=shard.inputs.index_select(0, rows),
        labels=shard.labels[rows],
        sample_ids=shard.sample_ids[rows],
        protected=protected,
    )
