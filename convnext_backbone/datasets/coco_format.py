"""COCO annotation files as pydantic models: the keys that mmdet reads, strictly typed."""

from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field, NonNegativeInt, PositiveInt

_Id = int | str
_Name = Annotated[str, Field(min_length=1)]
_Number = Annotated[float, Field(gt=-(2**63), lt=2**63)]  # finite, and in the range of torch's integers
_Coordinate = Annotated[float, Field(gt=-1e6, lt=1e6)]  # pycocotools visits each pixel along a polygon's edges


class Image(BaseModel, strict=True):
    """An entry of ``images``."""

    id: _Id
    file_name: _Name
    height: PositiveInt
    width: PositiveInt


class RLE(BaseModel, strict=True):
    """A mask, run-length encoded."""

    size: list[int]
    counts: list[NonNegativeInt] | str


class Annotation(BaseModel, strict=True):
    """An entry of ``annotations``."""

    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: Annotated[list[_Number], Field(min_length=4, max_length=4)]
    area: _Number
    ignore: Any = None
    segmentation: list[list[_Coordinate]] | RLE | None = None


class Category(BaseModel, strict=True):
    """An entry of ``categories``."""

    id: _Id
    name: _Name


class CocoFile(BaseModel, strict=True):
    """A file; validation stops at the first invalid entry of each list."""

    images: Annotated[list[Image], Field(min_length=1), FailFast()]
    annotations: Annotated[list[Annotation], FailFast()]
    categories: Annotated[list[Category], Field(min_length=1), FailFast()]
