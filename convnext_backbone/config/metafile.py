"""Reader of metafile.yml: what configs reach and cost as published, in the form of OpenMMLab's model index."""

from pathlib import Path
from typing import NamedTuple

import yaml

METAFILE = 'metafile.yml'
_WORDS = {'Top 1 Accuracy': '{} top-1', 'mIoU(ms+flip)': '{} with --tta'}


class Model(NamedTuple):
    """A model as published; None where nothing is.

    Parameters are in millions, multiply-adds in billions (``gflops``); scores keep the digits of the paper. ``config``
    is relative to the repository.
    """

    name: str
    parameters: float | None
    gflops: float | None
    config: str
    scores: dict[str, str]
    weights: str | None
    ours: bool

    @property
    def score(self) -> str:
        """The scores in a few words, empty if there are none."""
        return ', '.join(_WORDS.get(metric, f'{{}} {metric}').format(value) for metric, value in self.scores.items())


def read_metafile(path: Path) -> list[Model]:
    """Read the models of a metafile, in its order."""
    # These loaders leave numbers as text, and so 80.50 as it is.
    loader = getattr(yaml, 'CBaseLoader', yaml.BaseLoader)
    return [_read_model(entry) for entry in yaml.load(path.read_text(encoding='utf-8'), loader)['Models']]


def _read_model(entry: dict) -> Model:
    metadata = entry.get('Metadata', {})
    return Model(
        name=entry['Name'],
        parameters=float(metadata['Parameters']) / 1e6 if 'Parameters' in metadata else None,
        gflops=float(metadata['FLOPs']) / 1e9 if 'FLOPs' in metadata else None,
        config=entry['Config'],
        scores={name: score for result in entry.get('Results', []) for name, score in result['Metrics'].items()},
        weights=entry.get('Weights'),
        ours=metadata.get('Recipe') == 'ours',
    )
