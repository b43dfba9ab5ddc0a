"""A model's first forward. If it fails, the error says what forward got, and what the model seems to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from service.errors import blamed_on
from service.loader.card import Card

#: A card that serves what is not a picture.
_TENSORS = 'set task = "tensor" and describe its inputs under [inputs.NAME]'
_IDS = '; give that input dtype = "int64"'


def first_forward(
    module: nn.Module, positional: Sequence[Tensor], by_name: Mapping[str, Tensor], card: Card, card_file: Path
) -> Any:
    """Return the module's output for these arguments.

    Raises:
        ConfigurationError: it raises an exception.
    """
    try:
        return module(*positional, **by_name)
    except (Exception, SystemExit) as error:
        failing = _Failing(module, positional, by_name)
        advice = _of_pictures(failing) if card.input_kind == "picture" else _of_tensors(failing, error)
        with blamed_on(card_file, "architecture", said_of_arguments(positional, by_name), advice):
            raise


def said_of_arguments(positional: Sequence[Tensor], by_name: Mapping[str, Tensor]) -> str:
    """Describe a call of forward."""
    words = [*map(_shape, positional), *(f"{name} {_shape(tensor)}" for name, tensor in by_name.items())]
    return f"forward of {', '.join(words)}"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _of_pictures(failing: _Failing) -> str:
    images = failing.positional[0]
    dtype = str(images.dtype).removeprefix("torch.")
    gets = f"this card serves pictures: forward gets (N, {images.shape[1]}, H, W) {dtype}"
    taken = failing.takes(images)
    return f"{gets} and must give one row for each{taken and '; '}{taken}"


def _of_tensors(failing: _Failing, error: BaseException) -> str:
    if isinstance(error, IndexError):
        return "if they are ids of an embedding, set their range = [0, ROWS - 1] under [inputs.NAME]"
    return failing.takes(None) or "make [inputs.NAME] what forward takes: their names or order, dtypes and shapes"


class _Failing:
    """A forward that fails, run again to see in which layer."""

    def __init__(self, module: nn.Module, positional: Sequence[Tensor], by_name: Mapping[str, Tensor]) -> None:
        self.positional = positional
        self._entered: list[tuple[str, nn.Module, Any]] = []
        self._left: list[nn.Module] = []
        layers = [(name, layer) for name, layer in module.named_modules() if not [*layer.children()]]
        handles = [layer.register_forward_pre_hook(self._enters(name)) for name, layer in layers]
        handles += [layer.register_forward_hook(lambda layer, *_: self._left.append(layer)) for _, layer in layers]
        with suppress(Exception, SystemExit):
            module(*positional, **by_name)
        for handle in handles:
            handle.remove()
        self._first = layers[0] if layers else None

    def _enters(self, name: str) -> Any:
        return lambda layer, inputs: self._entered.append((name, layer, inputs[0] if inputs else None))

    def takes(self, images: Tensor | None) -> str:
        """Say what the failing layer takes, or the first layer if none was reached; empty if unknown.

        Args:
            images: what forward got, if that was pictures.
        """
        if not self._entered:
            return _takes(*self._first, None, images, False) if self._first and images is not None else ""
        name, layer, given = self._entered[-1]
        if self._left and self._left[-1] is layer:  # it fails between layers
            return ""
        return _takes(name, layer, given, images, any(isinstance(each, nn.Conv2d) for each in self._left))


def _takes(name: str, layer: nn.Module, given: Any, images: Tensor | None, convolved: bool) -> str:
    this = f"its layer {name} ({type(layer).__name__}) takes" if name else f"a {type(layer).__name__} takes"
    here = "" if images is None else f"; {_TENSORS}"
    match layer:
        case nn.Embedding() | nn.EmbeddingBag():
            return f"{this} token ids{here or _IDS}"
        case nn.Conv1d():
            return f"{this} signals, (N, {layer.in_channels}, L){here}"
        case nn.Conv3d():
            return f"{this} volumes, (N, {layer.in_channels}, D, H, W){here}"
        case nn.RNNBase():
            return f"{this} sequences, (N, L, {layer.input_size}){here}"
        case nn.Linear() if convolved and isinstance(given, Tensor) and images is not None:
            size = "under [input] set resize and crop to the size that it was trained on"
            return f"{this} {layer.in_features} numbers and received {given.shape[-1]}; {size}"
        case nn.Linear():
            return f"{this} rows of {layer.in_features} numbers{here}"
        case nn.Conv2d() if isinstance(given, Tensor) and images is not None and given.shape == images.shape:
            if layer.in_channels == 1:
                lines = "write mean = [127.5] and std = [127.5] under [input], or its own numbers"
                return f"{this} grey pictures; {lines}, and pictures become grey"
            return f"{this} pictures of {layer.in_channels} channels" if layer.in_channels != images.shape[1] else ""
        case nn.Conv2d() if isinstance(given, Tensor) and images is None:
            return f"{this} {layer.in_channels} channels and received {given.shape[1] if given.dim() > 1 else 'none'}"
    return ""
