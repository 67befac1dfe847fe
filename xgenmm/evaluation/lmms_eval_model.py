"""Our weights as a model of lmms-eval 0.7.3, which finds this module by itself once both packages are installed.

    python -m lmms_eval --model xgenmm --model_args pretrained=WEIGHTS --tasks mmstar --batch_size 8

lmms-eval is no dependency of ours: this file is only imported by it.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval import utils
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from PIL import Image
from tqdm import tqdm

from xgenmm.evaluation.processes import device as this_device
from xgenmm.inference.generate import generate
from xgenmm.inference.load import load
from xgenmm.inference.sampling import GenerationConfig
from xgenmm.types import Conversation, Part, Picture, Turn

MAX_NEW_TOKENS = 1024
"""Where a task does not say."""


def manifest() -> ModelManifest:
    """What lmms-eval's registry asks for."""
    return ModelManifest(model_id="xgenmm", chat_class_path=f"{__name__}.XGenMM")


class XGenMM(lmms):
    """A folder of our weights, asked in batches."""

    is_simple = False

    def __init__(
        self, pretrained: str, device: str | None = None, dtype: str | None = None, batch_size: int | str = 1, **_: Any
    ) -> None:
        """Load the weights.

        Args:
            pretrained: The folder.
            device: By default this process's GPU, if there is one.
            dtype: Type of the weights in memory, or "auto"; by default as `load` has it.
            batch_size: Questions at a time; changes no greedy answer.
        """
        super().__init__()
        chosen = device or this_device()
        if dtype not in (None, "float32", "bfloat16", "float16", "auto"):
            raise ValueError(f"dtype must be float32, bfloat16, float16 or auto, not {dtype}")
        self.model, self.processor = load(pretrained, dtype=dtype, device=chosen)
        self.batch_size_per_gpu = int(batch_size)

    @property
    def batch_size(self) -> int:
        """Questions at a time."""
        return self.batch_size_per_gpu

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests."""

        def by_settings(arguments: tuple[Any, ...]) -> Any:
            return arguments[2]

        order = utils.Collator(
            [one.args for one in requests], lambda a: (a[3], a[3]), group_fn=by_settings, grouping=True
        )
        found: list[GenerationResult] = []
        with tqdm(total=len(requests), disable=self.rank != 0, desc="xgenmm") as bar:
            for chunk in order.get_batched(n=self.batch_size, batch_fn=None):
                settings = chunk[0][2]
                samples = [self._conversation(arguments) for arguments in chunk]
                texts = generate(self.model, self.processor, samples, _config(settings), batch_size=len(samples))
                for arguments, text in zip(chunk, texts, strict=True):
                    answer = _until(text, settings.get("until"))
                    self.cache_hook.add_partial("generate_until", (arguments[0], settings), answer)
                    found.append(GenerationResult(text=answer))
                bar.update(len(chunk))
        return order.get_original(found)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered: none of the tasks that we know of needs it."""
        raise NotImplementedError("xgenmm answers generate_until tasks only")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("xgenmm answers single questions only")

    def _conversation(self, arguments: tuple[Any, ...]) -> Conversation:
        _, to_messages, _, number, task, split = arguments
        messages = ChatMessages(messages=to_messages(self.task_dict[task][split][number])).messages
        turns = [Turn(role=message.role, parts=tuple(map(_part, message.content))) for message in messages]
        return Conversation(id=f"{task}-{number}", turns=tuple(turns))


def _part(content: Any) -> Part:
    if content.type == "text":
        return content.text
    if content.type != "image":
        raise ValueError(f"xgenmm reads text and images, and not {content.type}")
    if not isinstance(content.url, Image.Image):
        raise ValueError(f"an image must come as a PIL image, not as {type(content.url).__name__}")
    written = io.BytesIO()
    content.url.save(written, "PNG")
    return Picture(source=written.getvalue(), name="image of lmms-eval")


def _config(settings: Mapping[str, Any]) -> GenerationConfig:
    temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample", True) else 0.0
    return GenerationConfig(
        max_new_tokens=int(settings.get("max_new_tokens") or MAX_NEW_TOKENS),
        temperature=temperature,
        top_p=float(settings.get("top_p") or 1.0),
        num_beams=int(settings.get("num_beams") or 1),
    )


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    """The text before the first of these."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop, maxsplit=1)[0] if stop else text
    return text
