"""What people prefer, and what is safe: pairs of answers, VLFeedback, VLGuard."""

from collections.abc import Mapping
from typing import Any

from xgenmm.data.adapters.choosing import Choose
from xgenmm.data.adapters.conversations import Role, conversation_of, named_pictures, picture_first
from xgenmm.data.adapters.fields import not_blank, required, typed
from xgenmm.data.quarantine import BadSample
from xgenmm.data.readers import Row
from xgenmm.types import Conversation, Preference

ASPECTS = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
"""What VLFeedback's judge rated, from 1 to 5."""


def preference(row: Row, choose: Choose) -> Preference:
    """A prompt with a preferred and a dispreferred answer: `prompt`, `chosen`, `rejected`, and `image` as in LLaVA.

    Args:
        row: A JSON row.
        choose: Not used.

    Raises:
        BadSample: Fields are missing or blank, or the two answers are the same.
    """
    del choose
    prompt, chosen, rejected = (
        not_blank(required(row.fields, name, str), name) for name in ("prompt", "chosen", "rejected")
    )
    if chosen.strip() == rejected.strip():
        raise BadSample("preference_identical", "both answers are the same")
    pictures = named_pictures(row, row.fields.get("image"), max_images=12)
    return Preference(
        id=row.id,
        prompt=conversation_of(row.id, picture_first([("user", prompt)], pictures), pictures),
        chosen=chosen,
        rejected=rejected,
    )


def vlfeedback(row: Row, choose: Choose) -> Preference:
    """A row of VLFeedback: the answer with the highest mean rating against the one with the lowest.

    Args:
        row: A JSON row with `prompt`, `img_path` (or `image`) and `completions`.
        choose: Not used; of answers with equal means the first one stands.

    Raises:
        BadSample: Fewer than two answers, no spread in the ratings, or an answer without a rating from 1 to 5.

    Source: spec 2.5 (mean over the three aspects; the paper says best against worst).
    """
    del choose
    prompt = not_blank(required(row.fields, "prompt", str), "prompt")
    rated = [_rated(one) for one in required(row.fields, "completions", list)]
    if len(rated) < 2:
        raise BadSample("preference_single", f"{len(rated)} answers make no pair")
    best, worst = max(rated, key=lambda one: one[0]), min(rated, key=lambda one: one[0])
    if best[0] == worst[0]:
        raise BadSample("preference_tie", f"all answers have the mean {best[0]:g}")
    if best[1].strip() == worst[1].strip():
        raise BadSample("preference_identical", "the best and the worst answer are the same text")
    name = row.fields.get("img_path") or row.fields.get("image")
    pictures = named_pictures(row, name, max_images=12)
    return Preference(
        id=row.id,
        prompt=conversation_of(row.id, picture_first([("user", prompt)], pictures), pictures),
        chosen=best[1],
        rejected=worst[1],
    )


def _rated(completion: Any) -> tuple[float, str]:
    """Mean rating of an answer, and its text."""
    fields = typed(completion, dict, "completions")
    text = not_blank(required(fields, "response", str), "response")
    annotations = required(fields, "annotations", dict)
    ratings = []
    for aspect in ASPECTS:
        entry = annotations.get(aspect)
        rating = entry.get("Rating") if isinstance(entry, Mapping) else None
        try:
            value = float(rating) if isinstance(rating, str | int | float) and not isinstance(rating, bool) else None
        except ValueError:
            value = None
        if value is None or not 1 <= value <= 5:
            raise BadSample("preference_missing_rating", f"{aspect}: {rating!r} is no rating from 1 to 5")
        ratings.append(value)
    return sum(ratings) / len(ratings), text


def vlguard(row: Row, choose: Choose) -> Conversation:
    """A row of VLGuard: an unsafe picture with one question, or a safe one with a safe and an unsafe question.

    Args:
        row: A JSON row.
        choose: Draws the order of the two questions, which the published converter shuffles.

    Raises:
        BadSample: Fields are missing or of another type.

    Source: spec 5.1, computed there from ys-zong/VLGuard's files.
    """
    safe = required(row.fields, "safe", bool)
    kinds = ("safe_instruction", "unsafe_instruction") if safe else ("instruction",)
    entries = required(row.fields, "instr-resp", list)
    rounds: list[list[tuple[Role, str]]] = []
    for kind in kinds:
        matching = [entry for entry in entries if isinstance(entry, dict) and kind in entry]
        if len(matching) != 1:
            raise BadSample("schema_missing_field", f'"instr-resp" must hold one "{kind}", and holds {len(matching)}')
        question, answer = (not_blank(required(matching[0], name, str), name) for name in (kind, "response"))
        rounds.append([("user", question), ("assistant", answer)])
    if len(rounds) == 2 and choose(2):
        rounds.reverse()
    pictures = named_pictures(row, required(row.fields, "image", str), max_images=1)
    messages = picture_first([message for one in rounds for message in one], pictures)
    return conversation_of(row.id, messages, pictures)
