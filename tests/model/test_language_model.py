"""New token rows of any causal language model."""

import pytest
import torch
from toy import VOCABULARY, toy_text_config
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from xgenmm.model.language import add_token_rows


def build(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_new_rows_are_drawn_and_old_ones_kept(family):
    model = build(toy_text_config(family))
    tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    before = [table.detach().clone() for table in tables]
    # Four new tokens: two in the spare rows that the model has, two behind them.
    new = [VOCABULARY - 2, VOCABULARY - 1, VOCABULARY, VOCABULARY + 1]
    add_token_rows(model, VOCABULARY + 2, new)
    after = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert model.config.vocab_size == VOCABULARY + 2
    assert (after[0] is after[1]) == (family == "llama")
    for old, now in zip(before, after, strict=True):
        assert torch.equal(now[: VOCABULARY - 2], old[: VOCABULARY - 2])
        assert not torch.equal(now[VOCABULARY - 2 : VOCABULARY], old[VOCABULARY - 2 :])
        assert now[new].std().item() == pytest.approx(0.02, rel=0.25)  # 128 numbers, of which the rest had 0.2


def test_spare_rows_are_used_first():
    model = build(toy_text_config())
    add_token_rows(model, VOCABULARY - 5, [VOCABULARY - 6])
    assert len(model.get_input_embeddings().weight) == VOCABULARY
