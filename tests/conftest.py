"""Fixtures that all tests share; the toy model and its helpers are in `toy`."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from toy import make_tokenizer, make_toy_model
from transformers import PreTrainedTokenizerFast

from xgenmm.model.vlm import XGenMMForConditionalGeneration


@pytest.fixture
def phi3_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer("phi3")


@pytest.fixture
def chatml_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer("chatml")


@pytest.fixture
def toy_model() -> XGenMMForConditionalGeneration:
    return make_toy_model()
