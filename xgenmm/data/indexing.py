"""`xgenmm data index`: indexes of whole data sets, made or brought up to date, and an account of what is in them."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xgenmm.data.prepare import NO_LIMIT, Limits
from xgenmm.data.quarantine import DataError
from xgenmm.data.report import count_reasons
from xgenmm.data.source import Source, SourceConfig
from xgenmm.processor.processor import ProcessorConfig, XGenMMProcessor

NEVER_CUT = Limits(tokens=NO_LIMIT)
_SIDE = 384
_END = "<|endoftext|>"


def index_sources(
    configs: Sequence[SourceConfig],
    processor: XGenMMProcessor,
    limits: Limits,
    folder: Path,
    *,
    workers: int | None = None,
) -> str:
    """Index what has no index yet, what changed, and what lacked picture files; gives the account.

    Args:
        configs: The data sets.
        processor: Whose tokens are counted.
        limits: How long a document may be.
        folder: Of indexes.
        workers: Processes; by default one per core.

    Raises:
        ConfigError: A path matches nothing, or adapter or options are unknown.
        DataError: Nothing of all data sets can be used; the message has the account.
    """
    lines, usable = [], 0
    for config in configs:
        try:
            source = Source(config, processor, limits, folder, refresh=True, workers=workers)
        except DataError as error:
            lines.append(str(error))
            continue
        usable += 1
        lines.append(_account(source))
    if not usable:
        raise DataError("\n".join(lines))
    return "\n".join(lines)


def _account(source: Source) -> str:
    index, lengths = source.index, source.index.lengths
    variants = lengths.rows if lengths.variants is None else int(lengths.variants[-1])
    cut = 0 if lengths.pieces is None else int((lengths.pieces[1:] - lengths.pieces[:-1] > 1).sum())
    reasons = [reason for reason, number in index.reasons.items() for _ in range(number)]
    lines = [
        f"{source.name}: {index.records} records in {len(source.shards)} files: {lengths.rows} usable, "
        f"{index.quarantined} quarantined{f' ({count_reasons(reasons)})' if reasons else ''}",
        f"  {int(lengths.tokens.sum(dtype=int)):,} tokens, {int(lengths.loss_tokens.sum(dtype=int)):,} supervised, in "
        f"{len(lengths.tokens)} documents of {variants} alternatives; longest {lengths.longest}, {cut} cut",
        f"  index: {index.paths[0].parent}",
    ]
    return "\n".join(lines)


def byte_processor() -> XGenMMProcessor:
    """A processor for data that nobody has chosen a model for yet: a token is a byte, a picture is one tile."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(_END, normalized=False)])
    config = ProcessorConfig(
        prompt="chatml",
        tile=_SIDE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        grids=(),
        tokens_per_tile=1,
        max_tokens=NO_LIMIT,
        system="",
    )
    return XGenMMProcessor(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END), config)
