"""The context heads in plain torch layers, to compare those of `cpnet_jax` with.

Written from the papers and from what mmsegmentation's heads are known to do, sharing no code with `cpnet_jax`. The
names of parameters and statistics are mmsegmentation's. Features are (B, C, H, W), dropout is left out, and heads
return (what their last 3x3 convolution takes in, logits).
"""

import torch
import torch.nn.functional as F
from parity.torch_cpnet import ConvModule
from torch import nn


class DilatedModule(nn.Module):
    """A dilated 3x3 convolution that keeps the size, BatchNorm, ReLU."""

    def __init__(self, cin, cout, dilation):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def enlarge(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class PSPHead(nn.Module):
    def __init__(self, cin, channels, num_classes, pool_sizes=(1, 2, 3, 6)):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvModule(cin, channels, (1, 1))) for size in pool_sizes
        )
        self.bottleneck = ConvModule(cin + len(pool_sizes) * channels, channels, (3, 3))
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        context = torch.cat([x, *(enlarge(module(x), x) for module in self.psp_modules)], dim=1)
        return context, self.conv_seg(self.bottleneck(context))


class ASPPHead(nn.Module):
    def __init__(self, cin, channels, num_classes, dilations=(12, 24, 36)):
        super().__init__()
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(cin, channels, (1, 1)))
        self.aspp_modules = nn.ModuleList(
            [ConvModule(cin, channels, (1, 1)), *(DilatedModule(cin, channels, dilation) for dilation in dilations)]
        )
        self.bottleneck = ConvModule((2 + len(dilations)) * channels, channels, (3, 3))
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        context = torch.cat([enlarge(self.image_pool(x), x), *(module(x) for module in self.aspp_modules)], dim=1)
        return context, self.conv_seg(self.bottleneck(context))


class NonLocal2d(nn.Module):
    def __init__(self, channels):
        super().__init__()
        inner = channels // 2
        plain = {"norm": False, "relu": False}
        self.g, self.theta, self.phi = (ConvModule(channels, inner, (1, 1), **plain) for _ in range(3))
        self.conv_out = ConvModule(inner, channels, (1, 1), relu=False)

    def forward(self, x):
        g, theta, phi = (module(x).flatten(2) for module in (self.g, self.theta, self.phi))
        weights = torch.softmax(theta.transpose(1, 2) @ phi / g.shape[1] ** 0.5, dim=-1)
        y = (weights @ g.transpose(1, 2)).transpose(1, 2)
        return x + self.conv_out(y.reshape(x.shape[0], -1, *x.shape[2:]))


class NLHead(nn.Module):
    def __init__(self, cin, channels, num_classes):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(cin, channels, (3, 3)), ConvModule(channels, channels, (3, 3)))
        self.nl_block = NonLocal2d(channels)
        self.conv_cat = ConvModule(cin + channels, channels, (3, 3))
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        context = torch.cat([x, self.convs[1](self.nl_block(self.convs[0](x)))], dim=1)
        return context, self.conv_seg(self.conv_cat(context))
