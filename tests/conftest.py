"""Fixtures that all tests share; the toy model and its helpers are in `toy`."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="xgenmm-tests-")  # indexes of data that tests make

PACKAGE = Path(find_spec("xgenmm").submodule_search_locations[0])
# Shapes are checked at every call, in modules that have any: in all others as well, training would take twice as long.
SHAPED = [path for path in PACKAGE.rglob("*.py") if "jaxtyping" in path.read_text(encoding="utf-8")]
install_import_hook(
    [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in SHAPED], "beartype.beartype"
)

import pytest
from toy import data_config, make_tokenizer, make_toy_model
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.starter.toy import write_toy


@pytest.fixture
def phi3_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer("phi3")


@pytest.fixture
def chatml_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer("chatml")


@pytest.fixture
def toy_model() -> XGenMMForConditionalGeneration:
    return make_toy_model()


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """Toy weights and data as the debug recipe makes them. Nobody may change it."""
    folder = tmp_path_factory.mktemp("made") / "toy"
    write_toy(folder)
    return folder


@pytest.fixture(scope="session")
def toy_processor(toy_folder):
    """A processor for the data of `toy_folder`."""
    return XGenMMProcessor(AutoTokenizer.from_pretrained(toy_folder / "language"), data_config())
