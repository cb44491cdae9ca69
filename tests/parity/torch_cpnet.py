"""CPNet in plain torch layers, to compare the network of `cpnet_jax` with.

Written from the paper and from what the authors' release is known to do, sharing no code with `cpnet_jax`. The names
of parameters and statistics are those of the release (on mmsegmentation), so that its files fit. Images and features
are (B, C, H, W), as everywhere in torch.
"""

from typing import NamedTuple

import torch
from torch import nn

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)


class Output(NamedTuple):
    """Logits (B, K, H/8, W/8) of both heads, and those of the prior (B, N, N): a row is a position."""

    logits: torch.Tensor
    aux_logits: torch.Tensor
    prior: torch.Tensor


def conv3x3(cin, cout, stride=1, dilation=1):
    return nn.Conv2d(cin, cout, 3, stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(cin, cout, stride=1):
    return nn.Conv2d(cin, cout, 1, stride, bias=False)


# The backbone


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, cin, channels, stride, first_dilation, dilation, downsample):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(cin, channels, stride, first_dilation), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3x3(channels, channels, 1, dilation), nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """Bottleneck with stride and dilation on the 3x3 convolution."""

    expansion = 4

    def __init__(self, cin, channels, stride, first_dilation, dilation, downsample):
        super().__init__()
        self.conv1, self.bn1 = conv1x1(cin, channels), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3x3(channels, channels, stride, first_dilation), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = conv1x1(channels, 4 * channels), nn.BatchNorm2d(4 * channels)
        self.downsample = downsample

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def make_stage(block, cin, channels, blocks, stride, dilation):
    """The first block of a dilated stage has half its dilation."""
    cout = block.expansion * channels
    changes = stride != 1 or cin != cout
    downsample = nn.Sequential(conv1x1(cin, cout, stride), nn.BatchNorm2d(cout)) if changes else None
    half = dilation // 2 if dilation > 1 else 1
    first = block(cin, channels, stride, half, dilation, downsample)
    return nn.Sequential(first, *(block(cout, channels, 1, dilation, dilation, None) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """Images -> the features of the last two stages, at stride 8. `stem`: "deep" (ResNetV1c) or "classic" (7x7)."""

    def __init__(self, depth, stem):
        super().__init__()
        self.deep = stem == "deep"
        if self.deep:
            layers = []
            for cin, cout, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
                layers += [conv3x3(cin, cout, stride), nn.BatchNorm2d(cout), nn.ReLU()]
            self.stem = nn.Sequential(*layers)
        else:
            self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        block = Bottleneck if depth >= 50 else BasicBlock
        self.channels = [block.expansion * 64 * 2**stage for stage in range(4)]
        for stage, cin in enumerate([64, *self.channels[:3]]):
            layer = make_stage(block, cin, 64 * 2**stage, STAGES[depth][stage], STRIDES[stage], DILATIONS[stage])
            setattr(self, f"layer{stage + 1}", layer)

    def forward(self, images):
        x = self.stem(images) if self.deep else torch.relu(self.bn1(self.conv1(images)))
        x = self.layer2(self.layer1(self.maxpool(x)))
        res4 = self.layer3(x)
        return res4, self.layer4(res4)


# The heads


class ConvModule(nn.Module):
    """A convolution that keeps the size, optionally with BatchNorm (then without bias) and ReLU."""

    def __init__(self, cin, cout, size, *, groups=1, norm=True, relu=True):
        super().__init__()
        padding = (size[0] // 2, size[1] // 2)
        self.conv = nn.Conv2d(cin, cout, size, padding=padding, groups=groups, bias=not norm)
        self.relu = relu
        if norm:
            self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        x = self.conv(x)
        if hasattr(self, "bn"):
            x = self.bn(x)
        return torch.relu(x) if self.relu else x


class Aggregation(nn.Module):
    """X -> X~: t is k x 1, then 1 x k; p is 1 x k, then k x 1."""

    def __init__(self, cin, channels, k):
        super().__init__()
        self.reduce_conv = ConvModule(cin, channels, (3, 3))
        plain = {"groups": channels, "norm": False, "relu": False}
        self.t1, self.t2 = (
            ConvModule(channels, channels, (k, 1), **plain),
            ConvModule(channels, channels, (1, k), **plain),
        )
        self.p1, self.p2 = (
            ConvModule(channels, channels, (1, k), **plain),
            ConvModule(channels, channels, (k, 1), **plain),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        x = self.reduce_conv(x)
        return torch.relu(self.norm(self.t2(self.t1(x)) + self.p2(self.p1(x))))


class ContextPrior(nn.Module):
    """The Context Prior Layer: X -> (intra-class context, inter-class context, prior logits, X~)."""

    def __init__(self, cin, channels, prior_size, k):
        super().__init__()
        self.positions = prior_size[0] * prior_size[1]
        self.aggregation = Aggregation(cin, channels, k)
        self.prior_conv = ConvModule(channels, self.positions, (1, 1), relu=False)
        self.intra_conv = ConvModule(channels, channels, (1, 1))
        self.inter_conv = ConvModule(channels, channels, (1, 1))

    def contexts(self, x):
        aggregated = self.aggregation(x)
        values = aggregated.flatten(2).transpose(1, 2)
        logits = self.prior_conv(aggregated).flatten(2).transpose(1, 2)
        prior = torch.sigmoid(logits)
        # The paper does not divide.
        intra, inter = (p @ values / self.positions for p in (prior, 1 - prior))
        intra, inter = (context.transpose(1, 2).reshape(aggregated.shape) for context in (intra, inter))
        return self.intra_conv(intra), self.inter_conv(inter), logits, aggregated

    forward = contexts


class DecodeHead(ContextPrior):
    def __init__(self, cin, channels, num_classes, prior_size, k, dropout):
        super().__init__(cin, channels, prior_size, k)
        self.bottleneck = ConvModule(cin + 2 * channels, channels, (3, 3))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        intra, inter, prior, _ = self.contexts(x)
        x = self.bottleneck(torch.cat([x, intra, inter], dim=1))
        return self.conv_seg(self.dropout(x)), prior


class AuxiliaryHead(nn.Module):
    def __init__(self, cin, channels, num_classes, dropout):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(cin, channels, (3, 3)))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        return self.conv_seg(self.dropout(self.convs(x)))


class CPNet(nn.Module):
    """The whole network."""

    def __init__(
        self,
        num_classes,
        depth=50,
        prior_size=(60, 60),
        stem="deep",
        channels=512,
        aux_channels=256,
        aggregation_kernel=11,
        dropout=0.1,
    ):
        super().__init__()
        self.backbone = ResNet(depth, stem)
        *_, res4, res5 = self.backbone.channels
        self.decode_head = DecodeHead(res5, channels, num_classes, prior_size, aggregation_kernel, dropout)
        self.auxiliary_head = AuxiliaryHead(res4, aux_channels, num_classes, dropout)

    def forward(self, images):
        res4, res5 = self.backbone(images)
        logits, prior = self.decode_head(res5)
        return Output(logits, self.auxiliary_head(res4), prior)
