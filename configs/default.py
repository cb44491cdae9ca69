"""Every field with its default: the paper's settings for ADE20K with a ResNet-50. Experiments only override.

A field is also a flag: --config.optimizer.base_lr=0.01
"""

import ml_collections
from ml_collections.config_dict import placeholder

# Trained on ImageNet by torchvision's rules (RGB, the mean and std below), with the deep stem; there are 50 and 101.
IMAGENET_BACKBONE = "hf://timm/resnet{depth}c.gluon_in1k"


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "default"  # the workdir defaults to runs/NAME
    config.seed = 0  # of initialisation, shuffling, augmentation and dropout
    config.batch_size = 16  # global: over all devices of all processes
    config.total_steps = 80_000  # optimiser steps
    config.eval_every = 8_000  # steps between evaluations; 0: only at the end
    config.checkpoint_every = 2_000  # steps between checkpoints; each evaluation saves one too
    # The same in epochs (passes over the training split, fractions allowed); where given, they win over the steps.
    config.total_epochs = placeholder(float)
    config.eval_every_epochs = placeholder(float)
    config.checkpoint_every_epochs = placeholder(float)

    config.data = data = ml_collections.ConfigDict()
    data.name = "ade20k"
    data.num_classes = 150  # 0: as many as the dataset has
    data.dir = "data"  # prepared datasets: a folder, or gs://BUCKET/FOLDER
    data.source = ""  # folder of the raw files, for datasets that need one
    data.train_split = ""  # empty: the dataset's own
    data.eval_split = ""
    data.crop_size = (480, 480)  # height, width; the context prior is (height / 8, width / 8)
    data.scales = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)  # one is drawn for each example
    data.flip_probability = 0.5
    data.mean = (123.675, 116.28, 103.53)  # RGB, 0 .. 255
    data.std = (58.395, 57.12, 57.375)
    data.cat_max_ratio = 1.0  # share of a crop that one class may have, up to 10 tries (elsewhere: 0.75); 1: any
    data.photometric_jitter = False  # brightness, contrast, saturation and hue, as mmsegmentation's
    data.class_uniform = False  # draw the images of every class equally often, however rare it is
    data.on_error = "stop"  # at an unreadable training example; "skip": draw another instead, say so and count it

    # Of the dataset "folder", one's own images; paths are as below data.source. See docs/your_own_data.md.
    data.folder = folder = ml_collections.ConfigDict()
    folder.images = "images"  # the folder of the images
    folder.masks = "masks"  # the folder of the masks; may be the same
    folder.image_name = "*"  # names without ending; * is what an image and its mask have in common
    folder.mask_name = ""  # "*_mask" where that of img_1.jpg is img_1_mask.png; empty: found out from the names
    folder.pairs = ""  # a CSV file with the columns image, mask and, if you like, split; instead of the four above
    folder.classes = ""  # the class file; empty: classes.txt, classes.yaml or classes.yml
    folder.mask_format = "auto"  # "indices" or "colours"; "auto": as the first mask is stored
    folder.orientation = "auto"  # photographs with an EXIF orientation: masks fit them "stored" or "turned"
    folder.val_fraction = 0.1  # drawn for validation, by the images' names, where no val split is given

    config.model = model = ml_collections.ConfigDict()
    model.depth = 50  # ResNet-18, 34, 50 or 101
    model.stem = "deep"  # "deep": three 3x3 convolutions (the release); "classic": one 7x7
    model.context_prior = True  # False: the network that `context` names, the dilated FCN where that is "none"
    # "psp" (of PSPNet), "aspp" (of DeepLabV3) or "non_local"; together with the context prior, in place of the
    # Aggregation Module. See docs/extending.md.
    model.context = "none"
    model.pool_sizes = (1, 2, 3, 6)  # of "psp": sides of its grids
    model.aspp_dilations = (12, 24, 36)  # of "aspp"; small crops want smaller ones
    model.channels = 512  # of the head, the aggregation and the contexts
    model.aux_channels = 256  # of the auxiliary head; 0: none
    # Of the context prior, without which they count for nothing; the first two only where context is "none".
    model.aggregation = True  # False: only its 3x3 reduction
    model.aggregation_kernel = 11  # odd; the paper compares 3, 5, 7, 11 and 15
    model.prior_contexts = "both"  # that the head sees: "intra", "inter" or both
    model.divide_by_n = True  # the contexts, by the number of positions, as the release; False: the paper's formula
    # Factors on the dilation of the last stage's blocks, one for each, as (1, 2, 4); empty: all 1.
    model.multi_grid = ()
    model.dropout = 0.1
    model.prior_impl = "blocks"  # of rows of the context prior; "dense": N x N arrays, slower and far larger
    model.prior_block_rows = 0  # a few arrays of this x N; 0: 1024 on TPUs (all up to 4096), else 512
    model.bfloat16 = False  # activations in bfloat16; parameters, statistics and the losses' sums stay float32
    model.stem_impl = "auto"  # "cells" of 4x4 pixels where training on TPUs, else "plain"; docs/performance.md
    model.dilation_impl = "plain"  # "space_to_batch": as ordinary convolutions of sub-images; docs/performance.md
    model.norm_impl = "auto"  # "folded" into bottlenecks' last convolutions where training on TPUs, else "plain"

    config.compiler = compiler = ml_collections.ConfigDict()
    # Whether XLA may divide the convolutions of small batches along the width: twice the step, by its own estimate.
    compiler.tpu_space_to_batch = False

    # What a run starts from, read at its step 0 only. See docs/finetuning.md.
    config.init = init = ml_collections.ConfigDict()
    init.backbone = ""  # pretrained: a file, or hf://ORG/REPO; {depth} in it is model.depth; empty: from scratch
    init.checkpoint = ""  # instead: another workdir, DIR/checkpoints/STEP, or a file of a CPNet in the authors' layout
    init.skip = ()  # patterns of what keeps its initial value: ("head/classifier/.*",) for other classes
    init.prior_size = ()  # height, width of the context prior in a file that is not of a square crop

    # Patterns are regular expressions on the whole path of a parameter, "backbone/layer1_0/conv1/conv/kernel".
    config.finetune = finetune = ml_collections.ConfigDict()
    finetune.freeze = ()  # of parameters that are not trained: ("backbone/.*",)
    finetune.lr_multipliers = ()  # pairs of a pattern and a factor on the learning rate: (("backbone/.*", 0.1),)
    finetune.norms_in_eval_mode = ()  # of BatchNorms that use their running statistics and keep them: ("backbone/.*",)

    config.loss = loss = ml_collections.ConfigDict()
    loss.aux_weight = 0.4
    loss.prior_weight = 1.0  # 0: the context prior is not supervised
    loss.unary_weight = 1.0  # lambda_u
    loss.global_weight = 1.0  # lambda_g; 0: the binary cross entropy alone
    loss.precision_weight = 1.0  # of the three global terms, each times lambda_g
    loss.recall_weight = 1.0
    loss.specificity_weight = 1.0
    loss.exclude_diagonal = True  # as the release; False: the paper's formula to the letter
    loss.class_weights = ()  # of pixels in the cross entropies, one for each class; empty: 1
    # Bootstrapped: the segmentation loss is the mean over hard pixels, whose class has a probability below the
    # threshold, and over at least so many times the images, the hardest.
    loss.ohem = False
    loss.ohem_threshold = 0.7
    loss.ohem_min_kept = 100_000
    loss.ignored = "class"  # ignored positions: "class": one more class (the release); "mask": leave every sum

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.base_lr = 0.02
    optimizer.power = 0.9  # of the poly schedule
    optimizer.min_lr = 0.0
    optimizer.warmup_steps = 0
    optimizer.warmup_epochs = placeholder(float)
    optimizer.momentum = 0.9
    optimizer.weight_decay = 1e-4
    optimizer.head_lr_multiplier = 1.0  # the authors' code on ADE20K: 10
    optimizer.decay_norm_and_bias = True
    optimizer.clip_global_norm = placeholder(float)  # none: no clipping
    optimizer.accumulate = 1  # parts a batch is worked through in
    optimizer.skip_nonfinite = (
        0  # steps in a row that change nothing, their loss or gradient being no number; then stop
    )

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.checkpoint = "latest"  # what --mode=eval takes: "latest" or "best" (by validation mIoU)
    evaluation.multi_scale = False  # True: at the scales below, mirrored as well; the paper's protocol
    evaluation.scales = (0.5, 0.75, 1.0, 1.5, 1.75)  # factors on the image's sides
    evaluation.flip = True
    evaluation.overlap = "sum"  # of scores where windows overlap (the authors' evaluator), or "average"
    evaluation.batch_size = 0  # windows at once on each device; 0: 2 on CPUs, 8 on accelerators
    evaluation.canvas_mib = 1024  # of scores on a device; larger images are predicted in tiles, with equal results
    evaluation.pictures = 8  # images that are drawn: in the report, in TensorBoard, in predictions/

    # How the work is done. Nothing here changes what is learned, so all of it may change when a run is resumed.
    config.system = system = ml_collections.ConfigDict()
    system.compilation_cache = "~/.cache/cpnet_jax"  # folder that keeps compiled programs between runs; "": none
    system.data_cache = "~/.cache/cpnet_jax/data"  # where each host copies prepared data that are in a bucket
    system.threads = 4  # threads that decode and augment, in each input process
    system.workers = 0  # processes that decode and augment; 0: the training process itself
    system.batches_ahead = 2  # batches moved to the devices before the step asks for them
    system.remat = "none"  # "blocks": recompute the inside of the backbone's blocks in the backward pass
    system.log_every = 50  # steps between entries of metrics.jsonl and TensorBoard
    system.profile_steps = ""  # "10:15" traces steps 10 to 15 for TensorBoard and Perfetto; "": none
    return config
