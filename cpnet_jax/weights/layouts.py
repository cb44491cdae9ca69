"""Tables of tensor names: ResNets of torchvision, timm and open-mmlab, and the authors' CPNet on mmsegmentation.

The names of other projects' tensors occur in this file only.
"""

from collections.abc import Collection

from cpnet_jax.weights.rules import Counter, Layout, Row, Rule, Unused

Rows = tuple[Row, ...]


def conv(theirs: str, ours: str) -> Rows:
    """Kernel of a convolution; a depthwise one has the same axes, with i = 1."""
    return (Rule(f"{theirs}.weight", f"params/{ours}/kernel", "o i h w", "h w i o"),)


def conv_bias(theirs: str, ours: str) -> Rows:
    return *conv(theirs, ours), Rule(f"{theirs}.bias", f"params/{ours}/bias")


def matrix(theirs: str, ours: str) -> Rows:
    """Kernel of a 1x1 convolution that is a matrix in this package."""
    return (Rule(f"{theirs}.weight", f"params/{ours}/kernel", "o i 1 1", "i o"),)


def norm(theirs: str, ours: str) -> Rows:
    """Scale, bias, running statistics and counter of a BatchNorm."""
    return (
        Rule(f"{theirs}.weight", f"params/{ours}/scale"),
        Rule(f"{theirs}.bias", f"params/{ours}/bias"),
        Rule(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
        Rule(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
        Counter(f"{theirs}.num_batches_tracked", f"batch_stats/{ours}/mean"),
    )


def conv_norm(theirs: str, ours: str) -> Rows:
    """ConvModule of mmcv, which is ConvBN in this package."""
    return conv(f"{theirs}.conv", f"{ours}/conv") + norm(f"{theirs}.bn", f"{ours}/bn")


def blocks(prefix: str = "") -> Rows:
    """Residual stages; all projects name them alike."""
    theirs, ours = prefix + "layer{stage}.{block}", "backbone/layer{stage}_{block}"
    return (
        *conv(theirs + ".conv{n}", ours + "/conv{n}/conv"),
        *norm(theirs + ".bn{n}", ours + "/conv{n}/bn"),
        *conv(theirs + ".downsample.0", ours + "/downsample/conv"),
        *norm(theirs + ".downsample.1", ours + "/downsample/bn"),
    )


def classic_stem(prefix: str = "") -> Rows:
    """Stem of one 7x7 convolution."""
    return *conv(f"{prefix}conv1", "backbone/stem1/conv"), *norm(f"{prefix}bn1", "backbone/stem1/bn")


def v1c_stem(prefix: str = "") -> Rows:
    """Stem of three 3x3 convolutions; open-mmlab numbers the layers of the sequence, ReLUs included."""
    return (
        *conv(f"{prefix}stem.0", "backbone/stem1/conv"),
        *norm(f"{prefix}stem.1", "backbone/stem1/bn"),
        *conv(f"{prefix}stem.3", "backbone/stem2/conv"),
        *norm(f"{prefix}stem.4", "backbone/stem2/bn"),
        *conv(f"{prefix}stem.6", "backbone/stem3/conv"),
        *norm(f"{prefix}stem.7", "backbone/stem3/bn"),
    )


# In timm the last norm has the name of the classic stem's norm.
TIMM_DEEP_STEM = (
    *conv("conv1.0", "backbone/stem1/conv"),
    *norm("conv1.1", "backbone/stem1/bn"),
    *conv("conv1.3", "backbone/stem2/conv"),
    *norm("conv1.4", "backbone/stem2/bn"),
    *conv("conv1.6", "backbone/stem3/conv"),
    *norm("bn1", "backbone/stem3/bn"),
)

CLASSIFIER = tuple(Unused(f"fc.{name}", "the ImageNet classifier") for name in ("weight", "bias"))

TORCHVISION = Layout("torchvision, or timm with the classic stem", (*classic_stem(), *blocks(), *CLASSIFIER))
OPEN_MMLAB = Layout("open-mmlab, resnetNN_v1c", (*v1c_stem(), *blocks(), *CLASSIFIER))
TIMM_DEEP = Layout("timm, resnetNNc", (*TIMM_DEEP_STEM, *blocks(), *CLASSIFIER))

# The authors' CPHead. In its aggregation, t is k x 1, then 1 x k; p is 1 x k, then k x 1.
CONTEXT_HEAD = (
    *conv_norm("decode_head.aggregation.reduce_conv", "context/aggregation/reduce"),
    *conv_bias("decode_head.aggregation.t1.conv", "context/aggregation/column_row/column"),
    *conv_bias("decode_head.aggregation.t2.conv", "context/aggregation/column_row/row"),
    *conv_bias("decode_head.aggregation.p1.conv", "context/aggregation/row_column/row"),
    *conv_bias("decode_head.aggregation.p2.conv", "context/aggregation/row_column/column"),
    *norm("decode_head.aggregation.norm", "context/aggregation/bn"),
    *matrix("decode_head.prior_conv.conv", "context/prior"),
    *norm("decode_head.prior_conv.bn", "context/prior"),
    *conv_norm("decode_head.intra_conv", "context/intra"),
    *conv_norm("decode_head.inter_conv", "context/inter"),
    *conv_norm("decode_head.bottleneck", "head/conv"),
)
# mmsegmentation's heads for a CPNet without context prior. FCNHead has num_convs=1 and concat_input=False.
FCN_HEAD = conv_norm("decode_head.convs.0", "head/conv")
PSP_HEAD = (
    *conv_norm("decode_head.psp_modules.{n}.1", "context_module/pool{n}"),
    *conv_norm("decode_head.bottleneck", "head/conv"),
)
ASPP_HEAD = (
    *conv_norm("decode_head.image_pool.1", "context_module/image_pool"),
    *conv_norm("decode_head.aspp_modules.{n}", "context_module/branch{n}"),
    *conv_norm("decode_head.bottleneck", "head/conv"),
)
NL_HEAD = (
    *conv_norm("decode_head.convs.0", "context_module/reduce"),
    *conv_bias("decode_head.nl_block.theta.conv", "context_module/block/theta"),
    *conv_bias("decode_head.nl_block.phi.conv", "context_module/block/phi"),
    *conv_bias("decode_head.nl_block.g.conv", "context_module/block/g"),
    *conv_norm("decode_head.nl_block.conv_out", "context_module/block/out"),
    *conv_norm("decode_head.convs.1", "context_module/conv"),
    *conv_norm("decode_head.conv_cat", "head/conv"),
)
# Heads by a variable that only networks with that head have; a network with none of them has the FCN_HEAD.
HEADS = {
    "params/context/prior/kernel": CONTEXT_HEAD,
    "params/context/pair_prior/kernel": CONTEXT_HEAD,  # without a place for the prior of pairs itself
    "params/context_module/pool0/conv/kernel": PSP_HEAD,
    "params/context_module/image_pool/conv/kernel": ASPP_HEAD,
    "params/context_module/block/theta/kernel": NL_HEAD,
}
CLASSIFIERS = (
    *conv_bias("decode_head.conv_seg", "head/classifier"),
    *conv_norm("auxiliary_head.convs.0", "aux_head/conv"),
    *conv_bias("auxiliary_head.conv_seg", "aux_head/classifier"),
)
BACKBONE = "backbone."


def mmsegmentation(paths: Collection[str]) -> Layout:
    """Layout, in mmsegmentation 0.x and 1.x, of the network with these variables ("params/head/conv/conv/kernel")."""
    stem = v1c_stem(BACKBONE) if "params/backbone/stem2/conv/kernel" in paths else classic_stem(BACKBONE)
    head = next((head for mark, head in HEADS.items() if mark in paths), FCN_HEAD)
    return Layout("CPNet on mmsegmentation", (*stem, *blocks(BACKBONE), *head, *CLASSIFIERS))


# Every tensor that some network on mmsegmentation may have.
ANY_MMSEGMENTATION = Layout(
    "any network on mmsegmentation",
    (
        *v1c_stem(BACKBONE),
        *classic_stem(BACKBONE),
        *blocks(BACKBONE),
        *(row for head in (*HEADS.values(), FCN_HEAD) for row in head),
        *CLASSIFIERS,
    ),
)
