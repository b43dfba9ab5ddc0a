"""A model's first forward. If it fails, the error says what this version serves, and what the model seems to take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from service.errors import blamed_on


def first_forward(module: nn.Module, images: Tensor, card_file: Path) -> Any:
    """Return the module's output for `(N, C, H, W)` images.

    Raises:
        ConfigurationError: it raises an exception.
    """
    try:
        return module(images)
    except (Exception, SystemExit):
        with blamed_on(card_file, "architecture", said_of_images(images), _advice(module, images)):
            raise


def said_of_images(images: Tensor) -> str:
    return f"forward of {tuple(images.shape)}"


def _advice(module: nn.Module, images: Tensor) -> str:
    dtype = str(images.dtype).removeprefix("torch.")
    gets = f"this version serves picture classifiers: forward gets (N, {images.shape[1]}, H, W) {dtype}"
    taken = _Failing(module, images).takes()
    return f"{gets} and must give (N, classes){taken and '; '}{taken}"


class _Failing:
    """A forward that fails, run again to see in which layer."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        self._images = images
        self._entered: list[tuple[str, nn.Module, Any]] = []
        self._left: list[nn.Module] = []
        layers = [(name, layer) for name, layer in module.named_modules() if not [*layer.children()]]
        handles = [layer.register_forward_pre_hook(self._enters(name)) for name, layer in layers]
        handles += [layer.register_forward_hook(lambda layer, *_: self._left.append(layer)) for _, layer in layers]
        with suppress(Exception, SystemExit):
            module(images)
        for handle in handles:
            handle.remove()
        self._first = layers[0] if layers else None

    def _enters(self, name: str) -> Any:
        return lambda layer, inputs: self._entered.append((name, layer, inputs[0] if inputs else None))

    def takes(self) -> str:
        """Say what the failing layer takes, or the first layer if none was reached; empty if unknown."""
        if not self._entered:
            return _takes(*self._first, None, self._images, False) if self._first else ""
        name, layer, given = self._entered[-1]
        if self._left and self._left[-1] is layer:  # it fails between layers
            return ""
        return _takes(name, layer, given, self._images, any(isinstance(each, nn.Conv2d) for each in self._left))


def _takes(name: str, layer: nn.Module, given: Any, images: Tensor, convolved: bool) -> str:
    this = f"its layer {name} ({type(layer).__name__}) takes" if name else f"a {type(layer).__name__} takes"
    match layer:
        case nn.Embedding() | nn.EmbeddingBag():
            return f"{this} token ids"
        case nn.Conv1d():
            return f"{this} signals, (N, {layer.in_channels}, L)"
        case nn.Conv3d():
            return f"{this} volumes, (N, {layer.in_channels}, D, H, W)"
        case nn.RNNBase():
            return f"{this} sequences, (N, L, {layer.input_size})"
        case nn.Linear() if convolved and isinstance(given, Tensor):
            size = "under [input] set resize and crop to the size that it was trained on"
            return f"{this} {layer.in_features} numbers and received {given.shape[-1]}; {size}"
        case nn.Linear():
            return f"{this} rows of {layer.in_features} numbers"
        case nn.Conv2d() if isinstance(given, Tensor) and given.shape == images.shape:
            if layer.in_channels == 1:
                lines = "write mean = [127.5] and std = [127.5] under [input], or its own numbers"
                return f"{this} grey pictures; {lines}, and pictures become grey"
            return f"{this} pictures of {layer.in_channels} channels" if layer.in_channels != images.shape[1] else ""
    return ""
