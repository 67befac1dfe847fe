"""Vision tokens of pictures that come up again: demonstrations, several questions about one picture, a long talk."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from xgenmm.model.feature_cache import digest
from xgenmm.model.language import embedding_table
from xgenmm.model.vlm import XGenMMForConditionalGeneration
from xgenmm.types import Example

MEMORY = 1 << 30
"""Bytes of vision tokens that are kept at most; those that have not been asked for longest go first."""
TILES_PER_CALL = 64


class PictureTokens:
    """Knows a picture by its pixels, so neither a changed picture nor another size can be mistaken for an old one.

    Belongs to one model whose weights do not change meanwhile.
    """

    def __init__(self, model: XGenMMForConditionalGeneration, memory: int = MEMORY) -> None:
        """Nothing is known yet.

        Args:
            model: Whose vision tokens.
            memory: Bytes to keep at most; 0 keeps nothing from one call to the next.
        """
        self.model, self.memory = model, memory
        self.kept: OrderedDict[tuple[str, str], Float[Tensor, "V D"]] = OrderedDict()
        self.bytes = 0

    @torch.inference_mode()
    def of(self, examples: Sequence[Example]) -> Float[Tensor, "V D"]:
        """Vision tokens of all pictures of these examples, in order; each different picture is encoded once."""
        pictures = [picture for example in examples for picture in _pictures(example)]
        names = [(digest(tiles), digest(layout)) for tiles, layout in pictures]
        new = {name: picture for name, picture in zip(names, pictures, strict=True) if name not in self.kept}
        found = {name: self.kept[name] for name in names if name in self.kept} | self._encoded(new)
        for name in dict.fromkeys(names):
            self._keep(name, found[name])
        if not names:
            table = embedding_table(self.model.language_model)
            return table.new_empty(0, table.shape[1])
        return torch.cat([found[name] for name in names])

    def _encoded(
        self, pictures: dict[tuple[str, str], tuple[Tensor, Tensor]]
    ) -> dict[tuple[str, str], Float[Tensor, "V D"]]:
        found, group, tiles = {}, {}, 0
        for name, picture in pictures.items():
            if group and tiles + len(picture[0]) > TILES_PER_CALL:
                found |= self._together(group)
                group, tiles = {}, 0
            group[name] = picture
            tiles += len(picture[0])
        return found | self._together(group)

    def _together(
        self, pictures: dict[tuple[str, str], tuple[Tensor, Tensor]]
    ) -> dict[tuple[str, str], Float[Tensor, "V D"]]:
        if not pictures:
            return {}
        tiles, layouts = zip(*pictures.values(), strict=True)
        tokens = self.model.vision_tokens(torch.cat(tiles).to(self.model.device), torch.stack(layouts))
        parts = tokens.split([len(one) for one in tiles])
        return {name: part.flatten(0, 1) for name, part in zip(pictures, parts, strict=True)}

    def _keep(self, name: tuple[str, str], tokens: Float[Tensor, "V D"]) -> None:
        if name in self.kept:
            self.kept.move_to_end(name)
            return
        # a copy, because a part would keep all that it is a part of
        self.kept[name] = tokens.clone()
        self.bytes += tokens.nbytes
        while self.bytes > self.memory:
            _, oldest = self.kept.popitem(last=False)
            self.bytes -= oldest.nbytes


def _pictures(example: Example) -> list[tuple[Float[Tensor, "T 3 S S"], Tensor]]:
    """Tiles and layout of each picture."""
    counts = [int(rows * cols) + 1 for rows, cols in example.image_layouts[:, :2].tolist()]
    return list(zip(example.pixel_values.split(counts), example.image_layouts, strict=True)) if counts else []
