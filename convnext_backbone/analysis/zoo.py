"""The model zoo: what the papers say that its models cost beside what is counted here, and the table of docs/zoo.md."""

import re
from pathlib import Path
from typing import NamedTuple

from ..config.load import load_config
from ..config.metafile import METAFILE, Model, read_metafile
from .complexity import Complexity, count_complexity


class Entry(NamedTuple):
    """A model of the zoo as published, and what it costs as counted here."""

    published: Model
    cost: Complexity

    @property
    def difference(self) -> float | None:
        """By how many percent our multiply-adds are more than the paper's."""
        gflops = self.published.gflops
        return gflops and 100 * (self.cost.total.multiply_adds / 1e9 / gflops - 1)


def read_zoo(configs: Path) -> list[Model]:
    """Read the models of the zoo from the folder of the configs."""
    return read_metafile(configs / METAFILE)


def count_published(model: Model, configs: Path) -> Entry:
    """Count a model of :func:`read_zoo` on an image of the size that its published numbers are for."""
    return Entry(model, count_complexity(load_config(configs.parent / model.config)))


MARKDOWN_HEAD = (
    '| config | published | parameters | GFLOPs | image | memory, GiB | starts from |\n'
    '| --- | --- | --- | --- | --- | --- | --- |'
)


def markdown_row(entry: Entry) -> str:
    """Format a config's row of the table of docs/zoo.md."""
    model, (shape, total, _, memory) = entry
    gflops = total.multiply_adds / 1e9
    cells = (
        f'[{model.name}](../{model.config})',
        model.score or ('ours' if model.ours else ''),
        f'{total.parameters / 1e6:.1f}M',
        f'{gflops:.2f}' if gflops < 100 else f'{gflops:.0f}',
        f'{shape[1]}x{shape[0]}',
        f'{memory.model / 2**30:.2f} + {memory.image / 2**30:.2f} n',
        _link(model.weights),
    )
    return f'| {" | ".join(cells)} |'


def _link(weights: str | None) -> str:
    if weights is None:
        return 'random weights'
    if hub := re.match('hf://([^/]+/([^/]+))/', weights):
        return f'[{hub[2]}](https://huggingface.co/{hub[1]})'
    return f'[{weights.rpartition("/")[2]}]({weights})'
