"""Direct preference optimisation against the model as it was before the stage.

Source: Rafailov et al., arXiv 2305.18290, equation 7, on sums of log-probabilities. xGen-MM's own settings were never
published.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from xgenmm.objectives.objective import Model, Objective, ObjectiveOutput, row_sums, target_logps
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
            batch: Either rows alternate, the preferred answer and then the other one of the same prompt; or each row
                is a pair, with the preferred answer as its first branch and the other one as its second.

        Raises:
            ValueError: The batch holds no whole pairs.
        """
        answers, num_answers = answers_of(batch)
        logps, _ = target_logps(model, batch)
        with torch.no_grad():
            reference_logps, _ = target_logps(self.reference, batch)
        policy, reference = row_sums(logps, answers, num_answers), row_sums(reference_logps, answers, num_answers)
        pairs = {
            "chosen": policy[0::2],
            "rejected": policy[1::2],
            "reference_chosen": reference[0::2],
            "reference_rejected": reference[1::2],
        }
        chosen_tokens = row_sums(torch.ones_like(logps), answers, num_answers)[0::2].clamp(min=1)
        chosen_nll = -pairs["chosen"] / chosen_tokens
        loss = dpo_loss(self.config, **pairs) + self.config.nll_weight * chosen_nll
        margin = reward_margin(self.config, **pairs).detach()
        figures = {
            "reward_accuracy": (margin > 0).float().sum().item(),
            "reward_margin": margin.sum().item(),
            "chosen_reward": self.config.beta * (pairs["chosen"] - pairs["reference_chosen"]).sum().item(),
            "chosen_nll": chosen_nll.sum().item(),
        }
        num_pairs, num_rows = num_answers // 2, len(batch.input_ids)
        row_of_pair = torch.arange(0, num_rows, num_rows // num_pairs, device=loss.device)  # the preferred answer's row
        return ObjectiveOutput(
            loss=loss.sum(),
            count=num_pairs,
            figures=figures,
            row_losses=row_sums(loss.detach(), row_of_pair, num_rows),
            row_counts=torch.zeros(num_rows, dtype=torch.long, device=loss.device).index_fill(0, row_of_pair, 1),
        )


def answers_of(batch: Batch) -> tuple[Int[Tensor, " M"], int]:
    """To which answer each supervised target belongs, and the number of answers: 2i is pair i's preferred one."""
    rows, columns = (batch.labels != IGNORE_INDEX).nonzero(as_tuple=True)
    num_rows = len(batch.input_ids)
    if batch.branches is None:
        if num_rows % 2:
            raise ValueError(f"{num_rows} rows make no pairs: rows of a preference batch alternate chosen, rejected")
        return rows, num_rows
    branches = batch.branches[rows, columns]
    if not bool(((branches == 1) | (branches == 2)).all()):
        found = sorted(set(branches.tolist()))
        raise ValueError(
            f"supervised answers in branches {found}: a row of pairs has the chosen in 1, the rejected in 2"
        )
    return 2 * rows + branches - 1, 2 * num_rows


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
