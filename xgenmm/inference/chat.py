"""A conversation at a terminal: pictures by their paths, answers as they are written. Knows no terminal itself."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from xgenmm.inference.generate import stream
from xgenmm.inference.pictures import PictureTokens
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.processor.images import open_image
from xgenmm.processor.processor import XGenMMProcessor
from xgenmm.types import Conversation, Part, Picture, Turn

HELP = (
    "/image PATH adds a picture to your next message, /reset starts anew, /quit or Ctrl-D ends. Ctrl-C stops an answer."
)


class Chat:
    """A conversation that grows. A message that could not be answered leaves no trace in it."""

    def __init__(
        self, model: XGenMMForConditionalGeneration, processor: XGenMMProcessor, config: GenerationConfig
    ) -> None:
        self.model = model
        self.processor = processor
        self.config = config
        self.turns: list[Turn] = []
        self.known = PictureTokens(model)
        self.pictures: list[Picture] = []
        """Pictures for the next message."""

    def add_picture(self, path: Path) -> None:
        """Put a picture in front of the next message's text.

        Raises:
            ImageError: It cannot be used.
        """
        picture = Picture(source=path, name=str(path))
        open_image(picture)
        self.pictures.append(picture)

    def ask(self, text: str) -> Generator[str]:
        """The answer to a message, in pieces. What was said of it when the iterator is closed belongs to the
        conversation.

        Raises:
            PromptTooLong: The conversation has become longer than the model takes.
        """
        parts: tuple[Part, ...] = (*self.pictures, text)
        turns = [*self.turns, Turn(role="user", parts=parts)]
        answer: list[str] = []
        answered = False
        try:
            talk = Conversation(id="chat", turns=tuple(turns))
            for piece in stream(self.model, self.processor, talk, self.config, self.known):
                answer.append(piece)
                answered = True
                yield piece
            answered = True
        finally:
            if answered:
                self.turns = [*turns, Turn(role="assistant", parts=("".join(answer),))]
                self.pictures = []

    def reset(self) -> None:
        """Forget everything."""
        self.turns, self.pictures = [], []


def run_chat(
    chat: Chat, read: Callable[[str], str], write: Callable[[str], object], images: Sequence[Path] = ()
) -> None:
    """Read messages and write answers until the input ends.

    Args:
        chat: The conversation.
        read: Shows a prompt and gives a line; raises EOFError at the end, as `input` does.
        write: Shows a piece of text at once.
        images: Pictures of the first message.

    Raises:
        ImageError: One of `images` cannot be used. Later mistakes are answered with a message.
    """
    for path in images:
        chat.add_picture(path)
    write(f"{HELP}\n")
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            return
        command, _, argument = line.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            chat.reset()
        elif command == "/image":
            _say(write, lambda argument=argument: chat.add_picture(Path(argument).expanduser()))
        elif command.startswith("/"):
            write(f"there is no command {command}. {HELP}\n")
        elif line:
            _say(write, lambda line=line: _answer(chat, line, write))


def _answer(chat: Chat, line: str, write: Callable[[str], object]) -> None:
    pieces = chat.ask(line)
    try:
        for piece in pieces:
            write(piece)
    except KeyboardInterrupt:
        pieces.close()
    write("\n")


def _say(write: Callable[[str], object], do: Callable[[], None]) -> None:
    """Do something; a user's mistake is told and costs nothing."""
    try:
        do()
    except ValueError as mistake:
        write(f"{mistake}\n")
