"""`[input]` of a card for a picture: how it becomes a model's input. Read by every process, so it imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from service.validation import Table, kind_of

Side = Annotated[int, Field(ge=1, le=4096)]
Number = Annotated[float, Field(allow_inf_nan=False)]
#: ImageNet's.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _height_and_width(sides: tuple[int, ...]) -> tuple[int, ...]:
    if len(sides) != 2:
        raise ValueError(f"{list(sides)} is no size; give [height, width] to stretch to, or one number")
    return sides


def _of_channels(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise ValueError(f"has length {len(values)}; give three numbers, red, green and blue, or one for a grey model")
    return values


class InputSpec(Table):
    """Steps from a picture to a model's input. Sizes are in pixels; `mean` and `std` are of uint8 pixels, RGB or grey.

    The defaults are ImageNet's. With `torchvision:` weights, keys that a card leaves out come from the weights.
    `resize` is the shorter side, of which `crop` takes the centre; or [height, width], to which a picture is stretched,
    and then nothing is cropped. A grey model has one number in `mean` and in `std`.
    """

    resize: Annotated[
        Annotated[Side, Tag("one")] | Annotated[tuple[Side, ...], AfterValidator(_height_and_width), Tag("several")],
        Discriminator(kind_of),
    ] = Field(256, description="shorter side after resizing, in pixels; or [height, width]")
    crop: Side | None = Field(224, description="side of the centre crop, in pixels")
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: Annotated[tuple[Number, ...], AfterValidator(_of_channels)] = _MEAN
    std: Annotated[tuple[Annotated[Number, Field(gt=0)], ...], AfterValidator(_of_channels)] = _STD

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one example."""
        if isinstance(self.resize, tuple):
            return len(self.mean), self.resize[0], self.resize[1]
        assert self.crop
        return len(self.mean), self.crop, self.crop

    @property
    def side(self) -> int:
        """The longer side of one example, in pixels."""
        return max(self.shape[1:])

    @model_validator(mode="before")
    @classmethod
    def _no_crop_of_what_is_stretched(cls, content: Any) -> Any:
        if isinstance(content, dict) and kind_of(content.get("resize")) == "several":
            return {"crop": None} | content
        return content

    @model_validator(mode="after")
    def _crop_fits(self) -> InputSpec:
        if isinstance(self.resize, tuple):
            if self.crop is not None:
                height, width = self.resize
                raise ValueError(
                    f"resize = [{height}, {width}] stretches each picture to that size and crop = {self.crop} has "
                    "nothing to do; leave crop out, or give resize one number, for the shorter side"
                )
        elif self.crop is None:
            raise ValueError("crop is missing; give the side of the centre crop, in pixels")
        elif self.crop > self.resize:
            raise ValueError(f"crop = {self.crop} is larger than resize = {self.resize}; the crop must fit in it")
        return self

    @model_validator(mode="after")
    def _is_of_pixels(self) -> InputSpec:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has length {len(self.mean)} and std {len(self.std)}; give each three numbers, red, green and "
                "blue, or each one for a grey model"
            )
        small_means, small_stds = max(self.mean) <= 1, max(self.std) <= 1
        if max(self.std) < 1 or (small_means and (any(self.mean) or min(self.std) < 1)):
            mean = _written(self.mean, 255 if small_means else 1)
            std = _written(self.std, 255 if small_stds else 1)
            raise ValueError(
                f"mean and std are on a scale of 0 to 1, and must be of pixels from 0 to 255; write mean = {mean} and "
                f"std = {std}"
            )
        return self


def _written(values: Sequence[float], scale: int) -> str:
    """Numbers as a card has them, with six digits."""
    return f"[{', '.join(f'{value * scale:.6g}' for value in values)}]"
