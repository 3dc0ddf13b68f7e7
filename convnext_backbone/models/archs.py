"""Named architectures: blocks and channels of each stage, as in the papers' tables."""

import difflib
from collections.abc import Mapping, Sequence

from ..utils.errors import ArgumentError, printable
from ..utils.validation import SIZE

Sizes = tuple[tuple[int, ...], tuple[int, ...]]  # blocks and channels of each stage
# V1: paper, section 3. atto to nano, and huge: ConvNeXt V2, table 9 (appendix).
ARCHS: dict[str, Sizes] = {
    'atto': ((2, 2, 6, 2), (40, 80, 160, 320)),
    'femto': ((2, 2, 6, 2), (48, 96, 192, 384)),
    'pico': ((2, 2, 6, 2), (64, 128, 256, 512)),
    'nano': ((2, 2, 8, 2), (80, 160, 320, 640)),
    'tiny': ((3, 3, 9, 3), (96, 192, 384, 768)),
    'small': ((3, 3, 27, 3), (96, 192, 384, 768)),
    'base': ((3, 3, 27, 3), (128, 256, 512, 1024)),
    'large': ((3, 3, 27, 3), (192, 384, 768, 1536)),
    'xlarge': ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    'huge': ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
# Paper, section 3.3: the widths of ViT-S, B and L, and as many blocks as match their parameters.
ISOTROPIC: dict[str, Sizes] = {'small': ((18,), (384,)), 'base': ((18,), (768,)), 'large': ((36,), (1024,))}
ALIASES = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large', 'xl': 'xlarge'}


def parse_arch(arch: str | Mapping[str, Sequence[int]], archs: Mapping[str, Sizes]) -> Sizes:
    """Depths and channels of an architecture given as one of the names in ``archs`` or as a dict of both."""
    if isinstance(arch, str):
        aliases = {short: name for short, name in ALIASES.items() if name in archs}
        name = aliases.get(arch.lower(), arch.lower())
        if name not in archs:
            near = difflib.get_close_matches(name, [*archs, *aliases], n=1, cutoff=0.4)
            hint = f'did you mean {near[0]!r}? ' if near else ''
            raise ArgumentError(
                f'arch={printable(repr(arch))} is unknown: {hint}Known are {", ".join(archs)} and the short forms '
                f'{", ".join(aliases)}, or dict(depths=..., channels=...).'
            )
        return archs[name]
    if not isinstance(arch, Mapping) or set(arch) != {'depths', 'channels'}:
        raise ArgumentError(f'arch={printable(repr(arch))} is neither a name nor dict(depths=..., channels=...).')
    stages = len(next(iter(archs.values()))[0])
    for key, numbers in arch.items():
        if not isinstance(numbers, Sequence) or len(numbers) != stages or not all(map(SIZE.fits, numbers)):
            takes = 'four positive integers, one per stage' if stages == 4 else 'a list of one positive integer'
            raise ArgumentError(f'arch[{key!r}]={printable(repr(numbers))} is wrong: it takes {takes}.')
    return tuple(arch['depths']), tuple(arch['channels'])
