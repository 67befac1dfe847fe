"""Loading a folder gives what was saved, ready to answer."""

import pytest
import torch
from toy import make_picture, make_processor, write_backbones

import xgenmm
from xgenmm.inference.generate import generate
from xgenmm.inference.load import load
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model.weights import WeightsError, assemble, save
from xgenmm.types import Conversation, Turn


def test_a_folder_answers_as_the_model_did(tmp_path):
    processor = make_processor("chatml")
    torch.manual_seed(0)
    model = assemble(write_backbones(tmp_path, "llama", "chatml"), processor)
    save(model, processor, tmp_path / "weights")
    sample = Conversation(id="question", turns=(Turn(role="user", parts=(make_picture("red"), "What is it?")),))
    config = GenerationConfig(max_new_tokens=8)
    expected = generate(model, processor, [sample], config)
    again, its_processor = load(tmp_path / "weights")
    assert generate(again, its_processor, [sample], config) == expected
    assert its_processor.config == processor.config
    model, _ = load(str(tmp_path / "weights"), dtype="bfloat16", attention="eager")
    assert model.dtype == torch.bfloat16
    assert len(generate(model, processor, [sample], config)) == 1


def test_the_package_offers_it():
    assert xgenmm.load is load


@pytest.mark.parametrize("damaged", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("content", [None, "{"])
def test_a_damaged_tokenizer_or_processor_is_the_folders_fault(tmp_path, damaged, content):
    processor = make_processor("chatml")
    save(assemble(write_backbones(tmp_path, "llama", "chatml"), processor), processor, tmp_path / "weights")
    path = tmp_path / "weights" / damaged
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(WeightsError, match=r"its tokenizer or processor cannot be read: \S") as caught:
        load(tmp_path / "weights")
    assert "\n" not in str(caught.value)


def test_wrong_folder(tmp_path):
    with pytest.raises(WeightsError, match="there is no such folder"):
        load(tmp_path / "nowhere")
