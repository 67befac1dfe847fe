"""Direct preference optimisation against the model as it was before the stage.

Source: Rafailov et al., arXiv 2305.18290, equation 7, on sums of log-probabilities. xGen-MM's own settings were never
published.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from xgenmm.objectives.objective import (
    Model,
    Objective,
    ObjectiveOutput,
    documents_of_targets,
    sums_of,
    target_logps,
)
from xgenmm.types import IGNORE_INDEX, Batch


@dataclass(frozen=True, kw_only=True)
class DpoConfig:
    """Settings of DPO. Not published for xGen-MM: ours."""

    beta: float = 0.1
    """How strongly the policy is held to the reference; 0 ignores the reference."""
    nll_weight: float = 0.0
    """Weight of the preferred answer's mean negative log-likelihood per token, added to each pair's loss: keeps the
    model from making both answers unlikely."""

    def build(self, model: Model) -> Objective:
        """The objective, with `model` as it is now for its reference.

        To be called when it is settled what trains, and before the weights of a resumed run are loaded.
        """
        return Dpo(self, model)


class Dpo:
    """The objective and its reference."""

    def __init__(self, config: DpoConfig, model: Model) -> None:
        self.config = config
        self.reference = model.frozen_reference()

    def __call__(self, model: Model, batch: Batch) -> ObjectiveOutput:
        """Sum of the pairs' losses.

        Args:
            model: The policy.
            batch: A document with branches is a pair, the preferred answer in its first branch and the other one in
                its second. Of those without, two in a row are a pair, the preferred answer first.

        Raises:
            ValueError: The batch holds no whole pairs.
        """
        answers, firsts = answers_of(batch)
        num_answers = 2 * len(firsts)
        logps = target_logps(model, batch)
        with torch.no_grad():
            reference_logps = target_logps(self.reference, batch)
        policy, reference = sums_of(logps, answers, num_answers), sums_of(reference_logps, answers, num_answers)
        pairs = {
            "chosen": policy[0::2],
            "rejected": policy[1::2],
            "reference_chosen": reference[0::2],
            "reference_rejected": reference[1::2],
        }
        chosen_tokens = sums_of(torch.ones_like(logps), answers, num_answers)[0::2].clamp(min=1)
        chosen_nll = -pairs["chosen"] / chosen_tokens
        loss = dpo_loss(self.config, **pairs) + self.config.nll_weight * chosen_nll
        margin = reward_margin(self.config, **pairs).detach()
        figures = {
            "reward_accuracy": (margin > 0).float().sum().item(),
            "reward_margin": margin.sum().item(),
            "chosen_reward": self.config.beta * (pairs["chosen"] - pairs["reference_chosen"]).sum().item(),
            "chosen_nll": chosen_nll.sum().item(),
        }
        return ObjectiveOutput(
            loss=loss.sum(),
            count=len(firsts),
            figures=figures,
            document_losses=sums_of(loss.detach(), firsts, len(batch.ids)),
            document_counts=sums_of(torch.ones_like(firsts), firsts, len(batch.ids)),
        )


def answers_of(batch: Batch) -> tuple[Int[Tensor, " M"], Int[Tensor, " pairs"]]:
    """To which answer each supervised target belongs, 2i being pair i's preferred one; and each pair's document, the
    first one if it has two.
    """
    documents, num_documents = documents_of_targets(batch), len(batch.ids)
    branches = torch.zeros_like(batch.documents) if batch.branches is None else batch.branches
    branched = torch.zeros(num_documents, dtype=torch.bool)
    branched[batch.documents[branches > 0]] = True
    # A document with branches holds two answers, one without is one.
    begin = (1 + branched.long()).cumsum(0) - (1 + branched.long())
    odd = begin % 2
    if bool((odd[branched] == 1).any()) or int((~branched).sum()) % 2:
        raise ValueError(
            f"{int((~branched).sum())} documents without branches among {num_documents} make no pairs: those of a "
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
    return answers, (odd == 0).nonzero().flatten()


def reward_margin(
    config: DpoConfig,
    *,
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """By how much the policy's implicit reward prefers the chosen answer, from the answers' log-probabilities."""
    return config.beta * ((chosen - rejected) - (reference_chosen - reference_rejected))


def dpo_loss(config: DpoConfig, **pairs: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Each pair's loss; the arguments are `reward_margin`'s."""
    return -F.logsigmoid(reward_margin(config, **pairs))
