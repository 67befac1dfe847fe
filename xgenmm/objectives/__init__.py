"""What a model is trained to do. `OBJECTIVES[name]` holds the settings; their `build(model)` gives the objective."""

from xgenmm.objectives.dpo import DpoConfig
from xgenmm.objectives.next_token import NextTokenConfig

OBJECTIVES: dict[str, type[NextTokenConfig] | type[DpoConfig]] = {
    "next_token": NextTokenConfig,
    "dpo": DpoConfig,
}
