"""Sensors around a forward: inference mode at every module call and operator, train mode, gradients, what is saved.

Torch's own means, which need nothing from the model: global module hooks, a dispatch mode, saved-tensor hooks and
autograd's sequence number. They slow a forward down and are for proofs only.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_iter

from service.loader.freeze import bytes_of, pieces_of, seal, tensors
from service.loader.operators import around_operators


class Watch:
    """Watches what runs inside `with`, in this thread; module calls and saved tensors, in every thread.

    Args:
        module: gives modules and parameters their names.

    Attributes:
        mode_off: places where inference mode was off, in order.
        training: modules that were called in train mode.
        unfrozen: parameters of called modules, and operands, that require a gradient.
        hidden: modules that were called though they are registered nowhere (in a plain list, say), with their
            seals before their first call.
        saved_tensors, saved_bytes: tensors saved for a backward pass, and their bytes.
        graph_nodes: autograd nodes built in this thread.
    """

    def __init__(self, module: nn.Module) -> None:
        self._modules = {part: name or "the model itself" for name, part in module.named_modules()}
        self._parameters = {id(p): name for name, p in module.named_parameters(remove_duplicate=False)}
        self._stack = ExitStack()
        self.mode_off: list[str] = []
        self.training: list[str] = []
        self.unfrozen: list[str] = []
        self.hidden: dict[nn.Module, str] = {}
        self.saved_tensors = 0
        self.saved_bytes = 0
        self.graph_nodes = 0
        self._without_graph = 0
        self._looking = True

    def __enter__(self) -> Watch:
        self._stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Using `torch.compile")  # hooks that fire twice do no harm
        for handle in (register_module_forward_pre_hook(self._called), register_module_forward_hook(self._returned)):
            self._stack.callback(handle.remove)
        hooks = torch.autograd.graph.saved_tensors_hooks(self._saved, lambda tensor: tensor)
        self._stack.enter_context(hooks)
        self._stack.enter_context(around_operators(self._operator))
        self._stack.enter_context(mock.patch.object(torch.autograd.Function, "apply", self._counting_apply()))
        self._first_node = sequence_number()
        return self

    def __exit__(self, *error: object) -> None:
        self.graph_nodes = sequence_number() - self._first_node - self._without_graph
        self._stack.close()

    def name_of(self, module: nn.Module) -> str:
        return self._modules.get(module) or f"a {type(module).__name__} that is registered nowhere"

    def _called(self, module: nn.Module, inputs: Any) -> None:
        name = self.name_of(module)
        if not torch.is_inference_mode_enabled():
            self.mode_off.append(f"when {name} was called")
        if module not in self._modules and module not in self.hidden:
            self._looking = False
            self.hidden[module] = seal(module)
            self._looking = True
        if module.training:
            self.training.append(name)
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                self.unfrozen.append(self._parameters.get(id(parameter)) or f"{key} of {name}")

    def _returned(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if not torch.is_inference_mode_enabled():
            self.mode_off.append(f"when {self.name_of(module)} returned")

    def _operator(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at an operator, and run it; a sensor's own operators are only run."""
        if self._looking:
            self._look(str(operator), tree_iter((args, kwargs)))
        return operator(*args, **kwargs)

    def _look(self, name: str, operands: Iterable[Any]) -> None:
        if not torch.is_inference_mode_enabled():
            self.mode_off.append(f"at the operator {name}")
        for operand in operands:
            if isinstance(operand, Tensor) and operand.requires_grad:
                self.unfrozen.append(
                    self._parameters.get(id(operand)) or f"a tensor that the operator {name} was given"
                )

    def _counting_apply(self) -> Any:
        """Count nodes that `Function.apply` makes and throws away where there is no graph: they violate nothing."""
        apply = torch.autograd.Function.__dict__["apply"]

        def counting(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
            output = apply.__get__(None, cls)(*args, **kwargs)
            self._without_graph += all(leaf.grad_fn is None for leaf in tree_iter(output) if isinstance(leaf, Tensor))
            return output

        return classmethod(counting)

    def _saved(self, tensor: Tensor) -> Tensor:
        self.saved_tensors += 1
        self.saved_bytes += tensor.numel() * tensor.element_size()
        return tensor


def sequence_number() -> int:
    """Return the number of autograd nodes that this thread has built so far."""
    return int(torch._C._autograd._get_sequence_nr())


def digests(module: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of each parameter and buffer by name; a shared one appears under each of its names."""
    return {name: digest(tensor) for name, tensor in tensors(module)}


def plain_digests(module: nn.Module) -> dict[str, str]:
    """Return digests of tensors that are plain attributes of modules, or in a list, tuple or dict that is one."""
    return {
        f"{name}.{key}".lstrip("."): digest(tensor)
        for name, part in module.named_modules()
        for attribute, value in vars(part).items()
        if attribute not in ("_parameters", "_buffers", "_modules")
        for key, tensor in _tensors_in(attribute, value)
    }


def _tensors_in(attribute: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, dict):
        inside = [(f"{attribute}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inside = [(f"{attribute}[{number}]", item) for number, item in enumerate(value)]
    else:
        inside = [(attribute, value)]
    return ((name, item) for name, item in inside if isinstance(item, Tensor))


def digest(tensor: Tensor) -> str:
    """Return the SHA-256, in hex, of a tensor's dtype, shape and bytes."""
    sha = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    if tensor.layout is torch.strided and tensor.device.type != "meta":
        for piece in pieces_of(tensor.detach()):
            sha.update(bytes_of(piece))
    return sha.hexdigest()
