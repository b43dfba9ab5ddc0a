"""Modules made under a fixed seed: with random weights, or as their factory makes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from service.errors import blamed_on, shortened
from service.loader.architecture import Code, architecture
from service.loader.card import CARD_FILE
from service.loader.first_forward import first_forward
from service.loader.freeze import tensors
from service.loader.prepared import preparation_of
from service.loader.report import Finding
from service.loader.repository import ModelFolder
from service.loader.sensors import digest

#: Examples that a last layer is drawn for.
_EXAMPLES = 8
#: Tensors that a finding names.
_MOST_LISTED = 3


def factory_module(folder: ModelFolder, code: Code | None) -> tuple[nn.Module, tuple[Finding, ...]]:
    """Return the module that its factory makes, with a finding if two calls show that it draws tensors by chance.

    Torch's generator begins with the same seed in every process, so that what is drawn is the same in all of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = _digests(architecture(folder, code))
        torch.manual_seed(0)
        module = architecture(folder, code)
    drawn = [name for name, digest in _digests(module).items() if digest is None or digest != other.get(name)]
    if not drawn:
        return module, ()
    words = f"The factory draws {len(drawn)} of {len(other)} tensors by chance ({shortened(drawn, _MOST_LISTED)})"
    return module, (Finding("untrained", "warning", f"{words}; what answers owe to them means nothing."),)


def _digests(module: nn.Module) -> dict[str, str | None]:
    """Return the SHA-256 of each parameter and buffer by name; None for one that has no memory yet."""
    return {name: None if is_lazy(tensor) or tensor.is_meta else digest(tensor) for name, tensor in tensors(module)}


def random_module(folder: ModelFolder, code: Code | None, seed: int) -> nn.Module:
    """Return an untrained model, the same for each seed, whose answers differ between inputs.

    A deep random network gives nearly the same features for any input. Its last layer is therefore drawn again in
    the scale of the differences between some random inputs, so that logits have a variance of about one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = architecture(folder, code).eval()
        preparation = preparation_of(folder, module)
        arrays = preparation.examples(_EXAMPLES)
        if folder.card.input_kind == "picture":  # noise, as ever: other pictures would give other weights
            arrays = (torch.randint(0, 256, (_EXAMPLES, *preparation.inputs[0].shape)),)
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if last:
            with blamed_on(folder.path / CARD_FILE, "architecture", "forward of random inputs", "fix the model"):
                _redraw(module, last[-1], preparation.forward(*arrays), folder)
    return module


@torch.no_grad()
def _redraw(
    module: nn.Module,
    last: nn.Linear | nn.Conv2d,
    arguments: tuple[list[Tensor], dict[str, Tensor]],
    folder: ModelFolder,
) -> None:
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    first_forward(module, *arguments, folder.card, folder.path / CARD_FILE)
    hook.remove()
    if not seen:  # a layer of an auxiliary head, which eval leaves out
        return
    features = seen[-1].flatten(2).mean(2) if isinstance(last, nn.Conv2d) else seen[-1].flatten(0, -2)
    spread = features.std(0).square().mean().sqrt().clamp(min=1e-6)
    weight = torch.randn_like(last.weight) / (spread * last.weight[0].numel() ** 0.5)
    last.weight.copy_(weight)
    if last.bias is not None:
        centre = features.mean(0)
        last.bias.copy_(-(weight.flatten(2).sum(2) if weight.dim() == 4 else weight) @ centre)
