"""Classes of public data sets, whose masks come without a list of them: CamVid, Cityscapes, PASCAL VOC."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from mmengine.registry import DATASETS

from .class_files import Color

# The 11 classes in which CamVid is trained (SegNet, arXiv 1511.00561), in that order.
_CAMVID = """
    Sky 128 128 128, Building 128 0 0, Pole 192 192 128, Road 128 64 128, Sidewalk 0 0 192, Tree 128 128 0,
    Sign 192 128 128, Fence 64 64 128, Car 64 0 128, Pedestrian 64 64 0, Bicyclist 0 128 192
"""
# All 31 of the data set, by label_colors.txt.
_CAMVID_31 = """
    Animal 64 128 64, Archway 192 0 128, Bicyclist 0 128 192, Bridge 0 128 64, Building 128 0 0, Car 64 0 128,
    CartLuggagePram 64 0 192, Child 192 128 64, Column_Pole 192 192 128, Fence 64 64 128, LaneMkgsDriv 128 0 192,
    LaneMkgsNonDriv 192 0 64, Misc_Text 128 128 64, MotorcycleScooter 192 0 192, OtherMoving 128 64 64,
    ParkingBlock 64 192 128, Pedestrian 64 64 0, Road 128 64 128, RoadShoulder 128 128 192, Sidewalk 0 0 192,
    SignSymbol 192 128 128, Sky 128 128 128, SUVPickupTruck 64 128 192, TrafficCone 0 0 64, TrafficLight 0 64 64,
    Train 192 64 128, Tree 128 128 0, Truck_Bus 192 128 192, Tunnel 64 0 64, VegetationMisc 192 192 0, Wall 64 192 0
"""
# Of Cityscapes: the ids of the 19 trained classes in labelIds.png, and the colours of those that are not trained.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_VOID = """
    unlabeled 0 0 0, dynamic 111 74 0, ground 81 0 81, parking 250 170 160, rail_track 230 150 140,
    guard_rail 180 165 180, bridge 150 100 100, tunnel 150 120 90, caravan 0 0 90,
    trailer 0 0 110
"""
_LEAST = 4  # colours that must fit: a few fit anything


class KnownClasses(NamedTuple):
    """Classes of a public data set: names, colours, their values in masks, and the values of void."""

    source: str
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    values: tuple | None
    void: tuple = ()


def known_by_name(mask_ending: str) -> KnownClasses | None:
    """The classes of masks by the end of their names: Cityscapes' labelTrainIds, labelIds and color."""
    kind = mask_ending.lower().removeprefix('_gtfine_') if '_gtfine_' in mask_ending.lower() else ''
    if kind not in ('labeltrainids', 'labelids', 'color'):
        return None
    city = _cityscapes()
    if kind == 'color':
        return city
    ids = _CITYSCAPES_IDS if kind == 'labelids' else None
    void = tuple(i for i in range(34) if i not in _CITYSCAPES_IDS) if ids else ()
    return city._replace(values=ids, void=void)


def known_by_colors(colors: Collection[Color]) -> KnownClasses | None:
    """The classes of masks in the colours of CamVid or Cityscapes, None if others are among them."""
    for known in (_table('CamVid', _CAMVID), _table('CamVid', _CAMVID_31), _cityscapes()):
        if len({*colors} & {*known.palette}) >= _LEAST and {*colors} <= {*known.palette, *known.void}:
            return known
    return None


def known_by_palette(palette: Sequence[Color | None]) -> KnownClasses | None:
    """The classes of PASCAL VOC, if the masks have its 21 ids in its colours."""
    if len(palette) != 21:
        return None
    names, colors = _of_mmseg('PascalVOCDataset')
    return KnownClasses('PASCAL VOC', names, colors, None) if tuple(palette) == colors else None


def known_by_ids(ids: Sequence[int], folder: str) -> KnownClasses | None:
    """CamVid's classes for masks of SegNet: 12 ids in folders such as ``trainannot``, of which the last is void."""
    known = _table('CamVid', _CAMVID)
    fits = [*ids] == [*range(12)] and folder.endswith('annot')
    return known._replace(values=tuple(range(11)), void=(11,)) if fits else None


def _cityscapes() -> KnownClasses:
    names, colors = _of_mmseg('CityscapesDataset')
    return KnownClasses('Cityscapes', names, colors, colors, _table('', _CITYSCAPES_VOID).palette)


def _of_mmseg(name: str) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    import mmseg.datasets  # noqa: F401  # registers

    meta = DATASETS.get(f'mmseg.{name}').METAINFO
    return tuple(meta['classes']), tuple(tuple(color) for color in meta['palette'])


def _table(source: str, text: str) -> KnownClasses:
    rows = [row.split() for row in text.split(',')]
    colors = tuple((int(red), int(green), int(blue)) for _, red, green, blue in rows)
    return KnownClasses(source, tuple(row[0] for row in rows), colors, colors, ((0, 0, 0),))
