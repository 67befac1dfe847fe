"""What a pair of answers costs, from four log-probabilities: DPO and its kin. Knows no model and no batch.

Sources: DPO, arXiv 2305.18290, equation 7; smoothed labels, Mitchell's note on conservative DPO (2023); `robust`, arXiv
2403.00409, equation 12; `ipo`, arXiv 2310.12036, equation 17; `hinge`, arXiv 2305.10425.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xgenmm.config import Bounds, ConfigError, NotNegative


@dataclass(frozen=True, kw_only=True)
class PreferenceLossConfig:
    """Which loss, and how hard it pulls. Not published for xGen-MM: ours."""

    loss: Literal["sigmoid", "robust", "hinge", "ipo"] = "sigmoid"
    """DPO's own; DPO corrected for swapped labels; a margin that is enough; the squared distance to one."""
    beta: NotNegative = 0.1
    """How strongly the policy is held to the reference; 0 ignores the reference. For `ipo` the margin to reach is
    1 / (2 beta) per token.
    """
    label_smoothing: Annotated[float, Bounds(least=0, below=0.5)] = 0.0
    """Share of pairs that are thought to be labelled the wrong way round, for `sigmoid` and `robust`."""

    def __post_init__(self) -> None:
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ConfigError(f"label_smoothing: the loss {self.loss} has none")
        if self.beta == 0 and self.loss == "ipo":
            raise ConfigError("beta: must be above 0 for ipo")


def reward_margin(
    config: PreferenceLossConfig,
    *,
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """By how much the policy's implicit reward prefers the chosen answer, from the answers' log-probabilities."""
    return config.beta * ((chosen - rejected) - (reference_chosen - reference_rejected))


def dpo_loss(config: PreferenceLossConfig, **logps: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Each pair's loss.

    Args:
        config: Which one.
        logps: `reward_margin`'s arguments. Log-probabilities of whole answers; for `ipo`, their means per token: with
            sums, its margin of fixed size would ask less of each token, the longer the answers are.
    """
    margin = reward_margin(config, **logps)
    right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    swapped = config.label_smoothing
    match config.loss:
        case "sigmoid":
            return (1 - swapped) * right + swapped * wrong
        case "robust":
            return ((1 - swapped) * right - swapped * wrong) / (1 - 2 * swapped)
        case "hinge":
            return F.relu(1 - margin)
        case "ipo":
            return (margin / config.beta - 1 / (2 * config.beta)).square()
