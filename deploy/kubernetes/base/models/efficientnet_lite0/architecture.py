"""EfficientNet-Lite0 in plain torch.nn.

EfficientNet-B0 (Tan and Le, 2019, table 1) without squeeze-and-excitation, with ReLU6 in place of SiLU, and with the
stem and the head kept at their size. Submodules are named as in the published state_dict.
"""

from __future__ import annotations

from torch import Tensor, nn

#: A row a stage: kernel, stride of its first block, expansion, channels out, blocks.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD, CLASSES = 32, 1280, 1000


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: where the padding is odd, the larger part is right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (height, top), (width, left) = (self._padding_of(size) for size in x.shape[-2:])
        if height == 2 * top and width == 2 * left:
            return nn.functional.conv2d(x, self.weight, None, self.stride, (top, left), groups=self.groups)
        padded = nn.functional.pad(x, (left, width - left, top, height - top))
        return nn.functional.conv2d(padded, self.weight, None, self.stride, groups=self.groups)

    def _padding_of(self, size: int) -> tuple[int, int]:
        """Padding on both sides together, and on the first of them."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        return total, total // 2


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to its input where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.widens = expansion > 1
        if self.widens:
            self._expand_conv = SameConv(inputs, wide, 1)
            self._bn0 = batch_norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = batch_norm(wide)
        self._project_conv = SameConv(wide, outputs, 1)
        self._bn2 = batch_norm(outputs)
        self.relu6 = nn.ReLU6()
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = self.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.residual else y


class EfficientNetLite0(nn.Module):
    """`(N, 3, 224, 224) float32`, `(pixel - 127) / 128`, to logits `(N, 1000)` of ImageNet's classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM, 3, stride=2)
        self._bn0 = batch_norm(STEM)
        blocks: list[Block] = []
        inputs = STEM
        for kernel, stride, expansion, outputs, count in STAGES:
            for number in range(count):
                blocks.append(Block(inputs, outputs, kernel, 1 if number else stride, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv(inputs, HEAD, 1)
        self._bn1 = batch_norm(HEAD)
        self.relu6 = nn.ReLU6()
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu6(self._bn0(self._conv_stem(x)))
        x = self._blocks(x)
        x = self.relu6(self._bn1(self._conv_head(x)))
        return self._fc(self._dropout(x.mean((2, 3))))


def efficientnet_lite0() -> EfficientNetLite0:
    return EfficientNetLite0()
