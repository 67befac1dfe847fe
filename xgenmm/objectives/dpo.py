"""Direct preference optimisation: what a batch of pairs costs. The losses themselves are in `preference_losses`.

xGen-MM's own settings were never published.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xgenmm.config import NotNegative
from xgenmm.objectives.objective import Model, Objective, ObjectiveOutput, documents_of_targets, sums_of, target_logps
from xgenmm.objectives.preference_losses import PreferenceLossConfig, dpo_loss, reward_margin
from xgenmm.objectives.reference import Reference, live_reference
from xgenmm.types import IGNORE_INDEX, Batch


@dataclass(frozen=True, kw_only=True)
class DpoConfig(PreferenceLossConfig):
    """Settings of DPO. Not published for xGen-MM: ours."""

    nll_weight: NotNegative = 0.0
    """Weight of the preferred answer's mean negative log-likelihood per token, added to each pair's loss: keeps the
    model from making both answers unlikely."""
    reference: Literal["live", "cached"] = "live"
    """Ask the model as it was before the stage at every step; or once for every pair, before the first step, and keep
    what it says in the stage's folder: half the forward passes in every further epoch, and no copy of what trains.
    """

    def build(self, model: Model, reference: Reference | None = None) -> Objective:
        """The objective.

        Args:
            model: As it is now, it is the live reference: so call this when it is settled what trains, and before the
                weights of a resumed run are loaded.
            reference: The cached one.
        """
        assert (reference is not None) == (self.reference == "cached")
        return Dpo(self, reference or live_reference(model))


class Dpo:
    """The objective and its reference."""

    def __init__(self, config: DpoConfig, reference: Reference) -> None:
        self.config = config
        self.reference = reference

    def __call__(self, model: Model, batch: Batch) -> ObjectiveOutput:
        """Sum of the pairs' losses.

        Args:
            model: The policy.
            batch: A document with branches is a pair, the preferred answer in its first branch and the other one in
                its second. Of those without, two in a row are a pair, the preferred answer first.

        Raises:
            ValueError: The batch holds no whole pairs.
        """
        owners, firsts = answers_of(batch)
        logps = target_logps(model, batch)
        answers = Answers(policy=logps, reference=self.reference(batch), owners=owners, num_pairs=len(firsts))
        per_token = self.config.loss == "ipo"
        loss = dpo_loss(self.config, **answers.by_pair(per_token)) - self.config.nll_weight * answers.means()[0::2]
        return ObjectiveOutput(
            loss=loss.sum(),
            count=len(firsts),
            figures=figures_of(self.config, answers),
            document_losses=sums_of(loss.detach(), firsts, len(batch.ids)),
            document_counts=sums_of(torch.ones_like(firsts), firsts, len(batch.ids)),
        )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Log-probabilities of the answers' tokens: pair i's preferred answer is number 2i, the other one 2i + 1."""

    policy: Float[Tensor, " M"]
    reference: Float[Tensor, " M"]
    owners: Int[Tensor, " M"]
    """The answer to which each token belongs."""
    num_pairs: int

    def sums(self, values: Float[Tensor, " M"]) -> Float[Tensor, " answers"]:
        """Sum over each answer's tokens."""
        return sums_of(values, self.owners, 2 * self.num_pairs)

    def means(self, values: Float[Tensor, " M"] | None = None) -> Float[Tensor, " answers"]:
        """Mean over each answer's tokens; of the policy's log-probabilities, unless others are given."""
        values = self.policy if values is None else values
        return self.sums(values) / self.sums(torch.ones_like(values)).clamp(min=1)

    def by_pair(self, per_token: bool = False) -> dict[str, Float[Tensor, " pairs"]]:
        """The arguments of `reward_margin`: sums, or means per token."""
        of = self.means if per_token else self.sums
        policy, reference = of(self.policy), of(self.reference)
        return {
            "chosen": policy[0::2],
            "rejected": policy[1::2],
            "reference_chosen": reference[0::2],
            "reference_rejected": reference[1::2],
        }


@torch.no_grad()
def figures_of(config: PreferenceLossConfig, answers: Answers) -> dict[str, float]:
    """What to watch, as sums over pairs.

    Rewards are DPO's implicit ones: beta times the log-ratio of policy and reference, of whole answers. `kl` estimates
    per token how far the two are apart, as half the mean squared log-ratio: to second order the divergence in either
    direction. The answers are the data's and not the policy's own, so it is a measure of drift and no more. (The usual
    estimator, ratio less 1 less log-ratio, is ruled by single tokens as soon as rejected answers become unlikely.)
    """
    pairs = answers.by_pair()
    margin = reward_margin(config, **pairs)
    log_ratio = answers.policy - answers.reference
    rewards = config.beta * answers.sums(log_ratio)
    figures = {
        "reward_accuracy": (margin > 0).float(),
        "reward_margin": margin,
        "chosen_reward": rewards[0::2],
        "rejected_reward": rewards[1::2],
        "chosen_logp": pairs["chosen"],
        "rejected_logp": pairs["rejected"],
        "chosen_nll": -answers.means()[0::2],
        "kl": answers.means(0.5 * log_ratio.square()) / 2,
    }
    return {name: values.sum().item() for name, values in figures.items()}


def answers_of(batch: Batch) -> tuple[Int[Tensor, " M"], Int[Tensor, " pairs"]]:
    """To which answer each supervised target belongs, 2i being pair i's preferred one; and each pair's document, the
    first one if it has two. Documents without targets, which stand for what could not be read, are no answers.
    """
    documents, num_documents = documents_of_targets(batch), len(batch.ids)
    branches = torch.zeros_like(batch.documents) if batch.branches is None else batch.branches
    branched = torch.zeros(num_documents, dtype=torch.bool)
    branched[batch.documents[branches > 0]] = True
    supervised = documents.bincount(minlength=num_documents) > 0
    plain = supervised & ~branched
    # A document with branches holds two answers, one without is one.
    counts = supervised * (1 + branched.long())
    begin = counts.cumsum(0) - counts
    odd = begin % 2 == 1
    if bool((odd & supervised & branched).any()) or int(plain.sum()) % 2:
        raise ValueError(
            f"{int(plain.sum())} documents without branches among {int(supervised.sum())} make no pairs: those of a "
            "preference batch alternate, chosen and rejected"
        )
    of_target = branches[batch.labels != IGNORE_INDEX]
    in_pairs = branched[documents]
    if not bool(((of_target == 1) | (of_target == 2))[in_pairs].all()):
        found = sorted(set(of_target[in_pairs].tolist()))
        raise ValueError(
            f"supervised answers in branches {found}: a document that is a pair has the chosen in 1, the rejected in 2"
        )
    answers = begin[documents] + torch.where(in_pairs, of_target - 1, 0)
    return answers, (supervised & ~odd).nonzero().flatten()
