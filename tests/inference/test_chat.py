"""The chat at the terminal, with a scripted user."""

import pytest
from toy import make_answering_model, make_picture, make_processor

from xgenmm.inference import chat as chat_module
from xgenmm.inference.chat import Chat, run_chat
from xgenmm.inference.generate import generate
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.processor.images import ImageError
from xgenmm.types import Conversation, Turn


@pytest.fixture
def chat() -> Chat:
    processor = make_processor("chatml")
    return Chat(make_answering_model(processor, "llama"), processor, GenerationConfig(max_new_tokens=8))


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(make_picture("red").source)
    return path


def talk(chat: Chat, *lines: str, images=()) -> str:
    """Everything that is written while the user types these lines and then Ctrl-D."""
    typed, written = iter(lines), []

    def read(_prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    run_chat(chat, read, written.append, images)
    return "".join(written)


def test_a_talk_is_a_conversation_that_grows(chat, red):
    written = talk(chat, f"/image {red}", "What is it?", "Sure?")
    user, answer, again, second = chat.turns
    assert [turn.role for turn in chat.turns] == ["user", "assistant", "user", "assistant"]
    assert user.parts[0].name == str(red)
    assert user.parts[1] == "What is it?"
    assert again.parts == ("Sure?",)  # the picture went with the first message only
    whole = Conversation(id="", turns=(user, answer, again))
    assert second.parts == tuple(generate(chat.model, chat.processor, [whole], chat.config))
    assert written.endswith(f"{answer.parts[0]}\n{second.parts[0]}\n")


def test_pictures_from_the_command_line(chat, red):
    talk(chat, "What is it?", images=[red])
    assert chat.turns[0].parts[0].name == str(red)


def test_an_unusable_picture_costs_nothing(chat, tmp_path):
    written = talk(chat, f"/image {tmp_path / 'nothing.png'}", "Hello")
    assert "nothing.png" in written
    assert chat.turns[0].parts == ("Hello",)
    with pytest.raises(ImageError, match=r"nothing.png"):
        talk(chat, images=[tmp_path / "nothing.png"])


def test_too_long_a_message_is_told_and_forgotten(chat):
    written = talk(chat, "long " * 1000, "Hello")
    assert "max_tokens is 1000" in written
    assert [turn.parts for turn in chat.turns if turn.role == "user"] == [("Hello",)]


def test_commands(chat, red):
    assert "there is no command /help" in talk(chat, "/help", "", "  ")
    assert chat.turns == []
    talk(chat, "Hello", f"/image {red}", "/reset", "Again")
    assert [turn.parts for turn in chat.turns if turn.role == "user"] == [("Again",)]
    talk(chat, "/quit", "never read")
    assert len(chat.turns) == 2


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(chat, monkeypatch):
    def interrupted(*_args):
        yield "It is "
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_module, "stream", interrupted)
    written = talk(chat, "What is it?")
    assert written.endswith("It is \n")
    assert chat.turns[1] == Turn(role="assistant", parts=("It is ",))


def test_ctrl_c_at_the_prompt_is_the_callers(chat):
    def read(_prompt: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_chat(chat, read, lambda _text: None)
