"""DPO by hand, against trl, and against its own invariants."""

import dataclasses
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from toy import make_tokenizer, make_toy_model

from xgenmm.config import ConfigError, decode
from xgenmm.model.lora import LoraConfig
from xgenmm.objectives import OBJECTIVES
from xgenmm.objectives.dpo import Dpo, DpoConfig, dpo_loss
from xgenmm.objectives.reference import by_document, cached_reference
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
    # Log-ratios of the tokens: 1.5 and -0.5 of the chosen answer, -1 of the other one; halves of their mean squares.
    assert output.figures == pytest.approx(
        {
            "reward_accuracy": 1,
            "reward_margin": 1,
            "chosen_reward": 0.5,
            "rejected_reward": -0.5,
            "chosen_logp": -3,
            "rejected_logp": -2,
            "chosen_nll": 1.5,
            "kl": ((1.5**2 + 0.5**2) / 4 + 1 / 2) / 2,
        }
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


def test_documents_without_targets_stand_for_what_could_not_be_read():
    """The loader puts padding in the place of a damaged document; the pairs around it stay pairs."""
    model, objective = moved_model()
    apart = preference_examples(PAIRS)
    joined = branch(apart[:2], placeholder=280)
    lost = dataclasses.replace(apart[2], id="lost", labels=torch.full_like(apart[2].labels, IGNORE_INDEX))
    expected = objective(model, pack([joined, *apart[4:6]], pad_id=256))
    batch = pack([lost, joined, lost, *apart[4:6], lost], pad_id=256)
    found = objective(model, batch)
    assert (found.count, found.loss.item()) == (2, pytest.approx(expected.loss.item(), abs=1e-5))
    assert found.document_counts.tolist() == [0, 1, 0, 1, 0, 0]
    written = by_document(batch, objective.reference(batch))
    assert not any(key.startswith("lost") for key in written)
    cached = Dpo(DpoConfig(beta=0.3), cached_reference(written))
    assert cached(model, batch).loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    nothing = objective(model, pack([lost], pad_id=256))
    assert (nothing.count, nothing.loss.item()) == (0, 0.0)
    assert cached.reference(pack([lost], pad_id=256)).shape == (0,)


def test_odd_documents_are_no_pairs():
    model, objective = moved_model()
    apart = preference_examples(PAIRS)
    with pytest.raises(ValueError, match="3 documents without branches among 3 make no pairs"):
        objective(model, pack(apart[:3], pad_id=256))
    joined = branch(apart[:2], placeholder=280)
    with pytest.raises(ValueError, match="2 documents without branches among 3 make no pairs"):
        objective(model, pack([apart[2], joined, apart[3]], pad_id=256))


# ---------------------------------------------------------------------- the losses


BY_HAND = {"chosen": 3.0, "rejected": 1.0, "reference_chosen": 1.5, "reference_rejected": 0.5}
"""Policy margin 2, reference margin 1: a margin of 1 before beta."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "hinge"}, 1 - 0.5),
        ({"loss": "hinge", "beta": 2.0}, 0.0),
        ({"loss": "ipo"}, (1 - 1 / (2 * 0.5)) ** 2),
        ({"loss": "ipo", "beta": 0.2}, (1 - 1 / (2 * 0.2)) ** 2),
        ({"label_smoothing": 0.2}, 0.8 * math.log(1 + math.exp(-0.5)) + 0.2 * math.log(1 + math.exp(0.5))),
        (
            {"loss": "robust", "label_smoothing": 0.2},
            (0.8 * math.log(1 + math.exp(-0.5)) - 0.2 * math.log(1 + math.exp(0.5))) / 0.6,
        ),
    ],
)
def test_the_other_losses_by_hand(settings, expected):
    config = DpoConfig(**{"beta": 0.5, **settings})
    loss = dpo_loss(config, **{name: torch.tensor([value]) for name, value in BY_HAND.items()})
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_settings_that_make_no_sense():
    for settings, message in (
        ({"label_smoothing": 0.5}, r"objective.label_smoothing: must be at least 0 and below 0.5, but is 0.5"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "the loss ipo has none"),
        ({"loss": "ipo", "beta": 0.0}, "above 0 for ipo"),
        ({"beta": -1.0}, r"objective.beta: must be at least 0, but is -1.0"),
        ({"beta": math.nan}, r"objective.beta: must be a finite number"),
        ({"nll_weight": -5}, r"objective.nll_weight: must be at least 0, but is -5.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            decode(DpoConfig, settings, "objective")


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory):
    """trl's trainer of the same two language models; the way in is its own `compute_loss`."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trl and what it imports
        trainer = DPOTrainer(
            model=moved_model()[0].language_model,
            ref_model=make_toy_model().language_model,
            args=DPOConfig(output_dir=str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to=[]),
            train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
            processing_class=make_tokenizer("phi3"),
        )
    trainer.model.eval()
    return trainer


def by_trl(trainer, pairs, config):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected} for prompt, chosen, rejected in pairs
    ]
    trainer.beta, trainer.loss_types, trainer.label_smoothing = config.beta, [config.loss], config.label_smoothing
    trainer._metrics["eval"].clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = trainer.compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=256)(rows)).item()
    return loss, {name: values[0] for name, values in trainer._metrics["eval"].items()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta": 0.05},
        {"loss": "hinge"},
        {"loss": "ipo"},
        {"loss": "robust", "label_smoothing": 0.1},
    ],
)
def test_equal_to_trl(trl_trainer, settings):
    config = DpoConfig(**{"beta": 0.3, **settings})
    model, objective = moved_model()
    ours = Dpo(config, objective.reference)(model, preference_batch(PAIRS))
    theirs, metrics = by_trl(trl_trainer, PAIRS, config)
    assert ours.loss.item() / ours.count == pytest.approx(theirs, abs=1e-6, rel=1e-6)
    for name, their_name in {
        "reward_margin": "rewards/margins",
        "reward_accuracy": "rewards/accuracies",
        "chosen_reward": "rewards/chosen",
        "rejected_reward": "rewards/rejected",
        "chosen_logp": "logps/chosen",
        "rejected_logp": "logps/rejected",
    }.items():
        assert ours.figures[name] / 4 == pytest.approx(metrics[their_name], abs=1e-6, rel=1e-6)


def test_smoothed_labels_are_trls_loss_of_the_pairs_and_of_the_swapped_ones(trl_trainer):
    """trl's `sigmoid` knows no smoothing; with 0.1 of the labels wrong, 0.9 of the loss is the pair's as labelled."""
    model, objective = moved_model()
    config = DpoConfig(beta=0.3, label_smoothing=0.1)
    ours = Dpo(config, objective.reference)(model, preference_batch(PAIRS))
    as_labelled, _ = by_trl(trl_trainer, PAIRS, DpoConfig(beta=0.3))
    swapped, _ = by_trl(trl_trainer, [(prompt, b, a) for prompt, a, b in PAIRS], DpoConfig(beta=0.3))
    assert ours.loss.item() / 4 == pytest.approx(0.9 * as_labelled + 0.1 * swapped, abs=1e-6)


# ---------------------------------------------------------------------- the cached reference


def test_what_was_written_down_is_what_the_model_says():
    """In other rows and another order than they were written, and whether pairs lie in branches or apart."""
    model, objective = moved_model()
    apart = preference_examples(PAIRS)
    joined = [branch(apart[first : first + 2], placeholder=280) for first in range(0, 8, 2)]
    written = {}
    for examples in (joined[:1], joined[1:3], joined[3:], apart):
        batch = pack(examples, pad_id=256)
        written.update(by_document(batch, objective.reference(batch)))
    assert len(written) == 4 + 8
    for examples in ([*joined[::-1]], [*apart[2:4], joined[0]]):
        batch = pack(examples, pad_id=256)
        cached = Dpo(DpoConfig(beta=0.3), cached_reference(written))
        torch.testing.assert_close(cached.reference(batch), objective.reference(batch), rtol=0, atol=1e-6)
        assert cached(model, batch).loss.item() == pytest.approx(objective(model, batch).loss.item(), abs=1e-6)


def test_an_answer_that_has_changed_is_not_in_the_cache():
    _, objective = moved_model()
    batch = preference_batch(PAIRS[:1])
    cached = cached_reference(by_document(batch, objective.reference(batch)))
    with pytest.raises(ValueError, match="holds nothing of the sample 1 as it is now"):
        cached(preference_batch([(PAIRS[0][0], PAIRS[0][1], [8, 10])]))
