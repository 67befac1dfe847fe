"""Direct preference optimisation against the model as it was before the stage.

Source: Rafailov et al., arXiv 2305.18290, equation 7, on sums of log-probabilities. xGen-MM's own settings were never
published.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xgenmm.objectives.objective import Model, Objective, ObjectiveOutput, row_sums, target_logps
from xgenmm.types import Batch


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
            batch: Rows alternate: the preferred answer, then the other one, of the same prompt.

        Raises:
            ValueError: The number of rows is odd.
        """
        num_rows = len(batch.input_ids)
        if num_rows % 2:
            raise ValueError(f"{num_rows} rows make no pairs: rows of a preference batch alternate chosen, rejected")
        logps, rows = target_logps(model, batch)
        with torch.no_grad():
            reference_logps, _ = target_logps(self.reference, batch)
        policy, reference = row_sums(logps, rows, num_rows), row_sums(reference_logps, rows, num_rows)
        pairs = {
            "chosen": policy[0::2],
            "rejected": policy[1::2],
            "reference_chosen": reference[0::2],
            "reference_rejected": reference[1::2],
        }
        chosen_tokens = row_sums(torch.ones_like(logps), rows, num_rows)[0::2].clamp(min=1)
        chosen_nll = -pairs["chosen"] / chosen_tokens
        loss = dpo_loss(self.config, **pairs) + self.config.nll_weight * chosen_nll
        margin = reward_margin(self.config, **pairs).detach()
        figures = {
            "reward_accuracy": (margin > 0).sum().item(),
            "reward_margin": margin.sum().item(),
            "chosen_reward": self.config.beta * (pairs["chosen"] - pairs["reference_chosen"]).sum().item(),
            "chosen_nll": chosen_nll.sum().item(),
        }
        in_chosen = torch.arange(num_rows, device=loss.device) % 2 == 0  # a pair counts where its preferred answer is
        return ObjectiveOutput(
            loss=loss.sum(),
            count=num_rows // 2,
            figures=figures,
            row_losses=torch.zeros_like(policy).masked_scatter(in_chosen, loss.detach()),
            row_counts=in_chosen.long(),
        )


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
