"""DPO by hand, against trl, and against its own invariants."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from toy import make_toy_model

from xgenmm.model.lora import LoraConfig
from xgenmm.objectives import OBJECTIVES
from xgenmm.objectives.dpo import DpoConfig, dpo_loss
from xgenmm.processor.branching import branch
from xgenmm.processor.packing import pack
from xgenmm.types import IGNORE_INDEX, Batch, Example


def test_one_pair_by_hand():
    # Policy margin 3 - 1 = 2, reference margin 1.5 - 0.5 = 1, beta 0.5: -log sigmoid(0.5 * (2 - 1)).
    pair = {"chosen": 3.0, "rejected": 1.0, "reference_chosen": 1.5, "reference_rejected": 0.5}
    loss = dpo_loss(DpoConfig(beta=0.5), **{name: torch.tensor([value]) for name, value in pair.items()})
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)))


def preference_examples(pairs: list[tuple[list[int], list[int], list[int]]]) -> list[Example]:
    """Pairs of (prompt, chosen, rejected) as the processor gives them: two examples each, answers alone supervised."""
    rows = [(prompt, answer) for prompt, chosen, rejected in pairs for answer in (chosen, rejected)]
    return [
        Example(
            id=str(number),
            input_ids=torch.tensor(prompt + answer),
            labels=torch.tensor([IGNORE_INDEX] * (len(prompt) - 1) + answer + [IGNORE_INDEX]),
            pixel_values=torch.zeros(0, 3, 28, 28),
            image_layouts=torch.zeros(0, 4, dtype=torch.long),
        )
        for number, (prompt, answer) in enumerate(rows)
    ]


def preference_batch(pairs: list[tuple[list[int], list[int], list[int]]]) -> Batch:
    return pack(preference_examples(pairs), pad_id=256)


class FakeModel:
    """Gives fixed log-probabilities: two tokens in the first answer, one in the second."""

    def __init__(self, policy: list[float], reference: list[float]) -> None:
        self.policy = torch.tensor(policy, requires_grad=True)
        self.reference = torch.tensor(reference)

    def __call__(self, **_inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logps=self.policy)

    def frozen_reference(self):
        return lambda **_inputs: SimpleNamespace(logps=self.reference)


def test_the_objective_by_hand():
    """Chosen: -1 - 2 = -3 against -4, rejected -2 against -1: margin 0.5 * (1 - -1) = 1; mean NLL of the chosen 1.5."""
    model = FakeModel(policy=[-1.0, -2.0, -2.0], reference=[-2.5, -1.5, -1.0])
    batch = preference_batch([([1, 2], [3, 4], [5])])
    output = DpoConfig(beta=0.5, nll_weight=0.2).build(model)(model, batch)
    assert output.loss.item() == pytest.approx(math.log(1 + math.exp(-1)) + 0.2 * 1.5)
    assert output.count == 1
    assert output.figures == pytest.approx(
        {"reward_accuracy": 1, "reward_margin": 1, "chosen_reward": 0.5, "chosen_nll": 1.5}
    )
    assert output.document_losses.tolist() == pytest.approx([output.loss.item(), 0])
    assert output.document_counts.tolist() == [1, 0]
    output.loss.backward()
    # d/d chosen = -beta * sigmoid(-margin) - weight / tokens, d/d rejected = +beta * sigmoid(-margin)
    push = 0.5 / (1 + math.e)
    assert model.policy.grad is not None
    assert model.policy.grad.tolist() == pytest.approx([-push - 0.1, -push - 0.1, push])


PAIRS = [
    ([1, 2, 3], [4, 5, 6, 7], [8, 9]),
    ([10, 11], [12], [13, 14, 15]),
    ([20, 21, 22, 23], [24, 25], [26, 27]),
    ([30], [31, 32, 33], [34]),
]


def moved_model(language: bool | str = True):
    """A model whose language model has moved away from its reference, and the objective that remembers it."""
    model = make_toy_model()
    model.set_trainable(vision=False, resampler=False, language=language, lora=LoraConfig(rank=2))
    objective = OBJECTIVES["dpo"](beta=0.3).build(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model, objective


@pytest.mark.parametrize("language", [True, "lora"])
def test_the_first_step_starts_at_log_two(language):
    model = make_toy_model()
    model.set_trainable(vision=False, resampler=True, language=language, lora=LoraConfig(rank=2))
    output = OBJECTIVES["dpo"]().build(model)(model, preference_batch(PAIRS))
    assert output.loss.item() == pytest.approx(4 * math.log(2), abs=1e-5)
    assert output.figures["reward_margin"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("language", [True, "lora"])
def test_pairs_add_up_and_do_not_see_each_other(language):
    model, objective = moved_model(language)
    whole = objective(model, preference_batch(PAIRS))
    parts = [objective(model, preference_batch([pair])) for pair in PAIRS]
    assert whole.loss.item() == pytest.approx(sum(part.loss.item() for part in parts), abs=1e-5)
    assert whole.count == sum(part.count for part in parts) == 4
    for name, value in whole.figures.items():
        assert value == pytest.approx(sum(part.figures[name] for part in parts), abs=1e-4)


def test_a_step_makes_the_chosen_likelier_than_the_rejected():
    model, objective = moved_model("lora")
    batch = preference_batch(PAIRS)
    before = objective(model, batch)
    before.loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    after = objective(model, batch)
    assert after.loss < before.loss
    assert after.figures["reward_margin"] > before.figures["reward_margin"]


def test_only_what_trains_gets_a_gradient():
    model, objective = moved_model("lora")
    objective(model, preference_batch(PAIRS)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (".lora_" in name)


def test_pairs_in_branches_and_in_documents_are_the_same_and_may_share_a_row():
    model, objective = moved_model()
    apart = preference_examples(PAIRS)
    joined = [branch(apart[first : first + 2], placeholder=280) for first in range(0, 8, 2)]
    expected = objective(model, pack(apart, pad_id=256))
    for examples in (joined, [*joined[:2], *apart[4:6], joined[3]]):
        found = objective(model, pack(examples, pad_id=256))
        assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
        assert found.figures == pytest.approx(expected.figures, abs=1e-4)
        losses = found.document_losses[found.document_counts == 1]
        torch.testing.assert_close(losses, expected.document_losses[0::2], rtol=0, atol=1e-5)


def test_odd_documents_are_no_pairs():
    model, objective = moved_model()
    apart = preference_examples(PAIRS)
    with pytest.raises(ValueError, match="3 documents without branches among 3 make no pairs"):
        objective(model, pack(apart[:3], pad_id=256))
    joined = branch(apart[:2], placeholder=280)
    with pytest.raises(ValueError, match="2 documents without branches among 3 make no pairs"):
        objective(model, pack([apart[2], joined, apart[3]], pad_id=256))


@pytest.mark.filterwarnings("ignore")  # of trl and what it imports
def test_equal_to_trl(tmp_path, phi3_tokenizer):
    """trl's trainer computes its loss of the same two language models on the same pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    model, objective = moved_model()
    batch = preference_batch(PAIRS)
    ours = objective(model, batch)

    rows = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected} for prompt, chosen, rejected in PAIRS
    ]
    words = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    trainer = DPOTrainer(
        model=model.language_model,
        ref_model=make_toy_model().language_model,
        args=DPOConfig(output_dir=str(tmp_path), beta=0.3, loss_type="sigmoid", use_cpu=True, bf16=False, report_to=[]),
        train_dataset=Dataset.from_list(words),
        processing_class=phi3_tokenizer,
    )
    trainer.model.eval()
    theirs = trainer.compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=256)(rows))
    assert ours.loss.item() / ours.count == pytest.approx(theirs.item(), abs=1e-6)
    metrics = trainer._metrics["eval"]
    assert ours.figures["reward_margin"] / 4 == pytest.approx(metrics["rewards/margins"][0], abs=1e-6)
    assert ours.figures["reward_accuracy"] / 4 == pytest.approx(metrics["rewards/accuracies"][0])
    assert ours.figures["chosen_reward"] / 4 == pytest.approx(metrics["rewards/chosen"][0], abs=1e-6)
