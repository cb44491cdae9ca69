"""All config fields with their defaults: the paper's settings for ADE20K with a ResNet-50.

Experiments override single fields. Every field is also a flag: --config.optimizer.base_lr=0.01

`python docs/generate_config.py` writes docs/config.md from the comments here: one for each field, beside or above it.
"""

import ml_collections
from ml_collections.config_dict import placeholder

# Trained on ImageNet as torchvision does (RGB, the mean and std below), with the deep stem. Depths: 50 and 101.
IMAGENET_BACKBONE = "hf://timm/resnet{depth}c.gluon_in1k"


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "default"  # name of the experiment; --workdir defaults to runs/NAME
    config.seed = 0  # seed of initialisation, shuffling, augmentation and dropout
    config.batch_size = 16  # global batch size: images over all devices of all processes
    config.total_steps = 80_000  # optimiser steps
    config.eval_every = 8_000  # steps between evaluations; 0: only at the end
    config.checkpoint_every = 2_000  # steps between checkpoints; each evaluation saves one as well
    # The same durations in epochs: passes over the training split, fractions allowed.
    config.total_epochs = placeholder(float)  # total_steps in epochs; replaces it if set
    config.eval_every_epochs = placeholder(float)  # eval_every in epochs; replaces it if set
    config.checkpoint_every_epochs = placeholder(float)  # checkpoint_every in epochs; replaces it if set

    # The dataset and its augmentation.
    config.data = data = ml_collections.ConfigDict()
    data.name = "ade20k"  # name of a dataset in cpnet_jax/data/catalog; "folder": your own images
    data.num_classes = 150  # number of classes; 0: as many as the dataset has
    data.dir = "data"  # folder of the prepared datasets, may be gs://BUCKET/FOLDER
    data.source = ""  # folder or archive of the raw files; empty: the published files, in data.dir/downloads
    data.download = True  # whether published files that are missing there are downloaded
    data.train_split = ""  # split to train on; empty: the dataset's default
    data.eval_split = ""  # split to evaluate on; empty: the dataset's default
    data.crop_size = (480, 480)  # height, width: multiples of 8; the context prior is (height / 8, width / 8)
    data.scales = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)  # random scale: one is drawn for each example
    data.flip_probability = 0.5  # probability of a horizontal flip
    data.mean = (123.675, 116.28, 103.53)  # mean of the pixels, RGB, 0 .. 255
    data.std = (58.395, 57.12, 57.375)  # standard deviation of the pixels, RGB, 0 .. 255
    data.cat_max_ratio = 1.0  # largest share of one class in a crop; up to 10 crops are drawn; 1: no limit
    data.photometric_jitter = False  # random brightness, contrast, saturation and hue, as in mmsegmentation
    data.class_uniform = False  # draw an image of each class in turn, however rare the class is
    data.on_error = "stop"  # at an unreadable example: "stop", or "skip": report it and leave it out or draw another

    # Fields of the dataset "folder", your own images. Paths are relative to data.source. See docs/your_own_data.md.
    data.folder = folder = ml_collections.ConfigDict()
    folder.images = "images"  # folder of the images
    folder.masks = "masks"  # folder of the masks; may be the same
    folder.image_name = "*"  # pattern of image names, without extension; * is the part shared with the mask's name
    folder.mask_name = ""  # pattern of mask names, such as "*_mask" for img_1_mask.png; empty: found from the names
    folder.pairs = ""  # CSV file with the columns image, mask and (optional) split; replaces the four fields above
    folder.classes = ""  # class file; empty: found by its name, first classes.txt (docs/your_own_data.md)
    folder.mask_format = "auto"  # "indices" or "colours"; "auto": as the first mask is stored
    folder.orientation = "auto"  # masks of photographs with an EXIF orientation fit them as "stored" or as "turned"
    # Values that become 0 and 255 in images of more than 8 bits, such as (0, 4095); None: found from all images.
    folder.value_range = placeholder(tuple)
    folder.val_fraction = 0.1  # share of the images drawn for validation, by name, if there is no val split

    config.model = model = ml_collections.ConfigDict()
    model.backbone = "resnet"  # a name in models/backbones.py; the next three fields belong to "resnet"
    model.depth = 50  # 18, 34, 50 or 101
    model.stem = "deep"  # "deep": three 3x3 convolutions (the release); "classic": one 7x7
    model.multi_grid = ()  # factors on the dilation of each block in the last stage, such as (1, 2, 4); empty: all 1
    model.context_prior = True  # False: the network that `context` names; if that is "none", a dilated FCN
    # "psp" (PSPNet), "aspp" (DeepLabV3) or "non_local". With the context prior, it replaces the Aggregation Module. See
    # docs/extending.md.
    model.context = "none"
    model.pool_sizes = (1, 2, 3, 6)  # of "psp": sides of its grids
    model.aspp_dilations = (12, 24, 36)  # of "aspp"; use smaller ones for small crops
    model.channels = 512  # of the head, the aggregation and the contexts
    model.aux_channels = 256  # of the auxiliary head; 0: no auxiliary head
    # The next five belong to the context prior; the two of the Aggregation Module only apply if context is "none".
    model.prior = "positions"  # "positions": the paper's; "pairs": compares positions, takes images of any size
    model.aggregation = True  # False: only the module's 3x3 reduction
    model.aggregation_kernel = 11  # odd; the paper compares 3, 5, 7, 11 and 15
    model.prior_contexts = "both"  # contexts that the head sees: "intra", "inter" or "both"
    model.divide_by_n = True  # divide the contexts by the number of positions, as the release; False: as the paper
    model.dropout = 0.1  # rate before both classifiers
    model.bfloat16 = False  # activations in bfloat16; parameters, statistics and the losses' sums stay float32
    model.bfloat16_prior = False  # also round the operands of the context prior's products to bfloat16

    # What a run starts from. Read at step 0 only. See docs/finetuning.md.
    config.init = init = ml_collections.ConfigDict()
    init.backbone = ""  # pretrained backbone: a file, or hf://ORG/REPO; {depth} becomes model.depth; empty: random
    # A whole network instead: another workdir, DIR/checkpoints/STEP, or a file of a CPNet in the authors' layout.
    init.checkpoint = ""
    init.skip = ()  # patterns of variables that keep their initial value: ("head/classifier/.*",) for other classes
    init.prior_size = ()  # height, width of the context prior in a file whose crop was not square

    # Patterns are regular expressions that match a whole path, such as "backbone/layer1_0/conv1/conv/kernel".
    config.finetune = finetune = ml_collections.ConfigDict()
    finetune.freeze = ()  # patterns of parameters that are not trained: ("backbone/.*",)
    finetune.lr_multipliers = ()  # pairs of a pattern and a factor on the learning rate: (("backbone/.*", 0.1),)
    finetune.norms_in_eval_mode = ()  # patterns of BatchNorms that use and keep their running statistics

    # Weights and options of the losses. The affinity loss is
    # lambda_u * unary - lambda_g * mean(log precision + log recall + log specificity).
    config.loss = loss = ml_collections.ConfigDict()
    loss.aux_weight = 0.4  # weight of the auxiliary head's cross entropy
    loss.prior_weight = 1.0  # weight of the affinity loss; 0: the context prior is not supervised
    loss.unary_weight = 1.0  # lambda_u, weight of the binary cross entropy
    loss.global_weight = 1.0  # lambda_g, weight of the three global terms; 0: binary cross entropy alone
    loss.precision_weight = 1.0  # weight of the precision term, times lambda_g
    loss.recall_weight = 1.0  # weight of the recall term, times lambda_g
    loss.specificity_weight = 1.0  # weight of the specificity term, times lambda_g
    loss.exclude_diagonal = True  # leave i = j out of precision and recall, as the release; False: the paper's formula
    loss.ignored = "class"  # ignored positions are "class": one more class (the release); "mask": left out of all sums
    loss.class_weights = ()  # weights of the classes in the cross entropies, one for each; empty: all 1
    loss.mean_over = "labelled"  # divide the cross entropies by the "labelled" pixels, or by "all" (the release)
    loss.ohem = False  # bootstrapped cross entropy: the segmentation loss is the mean over the hard pixels
    loss.ohem_threshold = 0.7  # a pixel is hard if the probability of its class is lower
    loss.ohem_min_kept = 100_000  # lower bound on pixels kept per image, pooled over the batch

    # SGD with momentum and a polynomial schedule.
    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.base_lr = 0.02  # learning rate at step 0
    optimizer.power = 0.9  # exponent of the poly schedule
    optimizer.min_lr = 0.0  # lower bound of the schedule, at most base_lr
    optimizer.warmup_steps = 0  # steps of linear warm-up; 0: none
    optimizer.warmup_epochs = placeholder(float)  # warmup_steps in epochs; replaces it if set
    optimizer.momentum = 0.9  # momentum of SGD
    optimizer.weight_decay = 1e-4  # L2 penalty, added to the gradient as in PyTorch
    optimizer.head_lr_multiplier = 1.0  # factor on the learning rate outside the backbone; the authors' ADE20K code: 10
    optimizer.decay_norm_and_bias = True  # apply weight decay to BatchNorm parameters and biases too
    optimizer.clip_global_norm = placeholder(float)  # largest global norm of the gradient; None: no clipping
    optimizer.accumulate = 1  # micro-batches a batch is split into; their gradients are averaged
    optimizer.skip_nonfinite = 0  # consecutive non-finite steps to skip before stopping

    # Evaluation and prediction.
    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.class_names = ()  # pairs of a class of other data and the network's name for it: (("auto", "car"),)
    # Checkpoint of --mode=eval: "latest" or "best" (by validation mIoU). Also of predict, demo, export and convert, if
    # --config or a field of it is given.
    evaluation.checkpoint = "latest"
    evaluation.multi_scale = False  # True: the paper's protocol, at all scales below and flipped
    evaluation.scales = (0.5, 0.75, 1.0, 1.5, 1.75)  # factors on the image's sides, with multi_scale
    evaluation.flip = True  # also predict the mirrored image, with multi_scale
    # Scores where windows overlap: "sum" (the authors' evaluator) or "average" of the probabilities, or
    # "average_logits": of the logits, before the softmax (mmsegmentation).
    evaluation.overlap = "sum"
    # False: predict whole images, for networks that take images of any size; see docs/evaluation.md.
    evaluation.windows = True
    evaluation.batch_size = 0  # windows at once on each device; 0: 2 on CPUs, 8 on accelerators
    evaluation.canvas_mib = 1024  # MiB of scores kept on a device; larger images are tiled, with equal results
    evaluation.pictures = 8  # images drawn in the report, in predictions/ and in TensorBoard (at most 4 there)

    # How the work is done. Nothing here changes what is learned, so all of it may change when a run is resumed.
    config.system = system = ml_collections.ConfigDict()
    system.compilation_cache = "~/.cache/cpnet_jax"  # trusted folder of compiled programs, kept between runs; "": none
    system.data_cache = "~/.cache/cpnet_jax/data"  # folder where each host copies prepared data from a bucket
    system.threads = 4  # threads that decode and augment, in each input process; 0: none besides its main thread
    system.workers = 0  # processes that decode and augment; 0: the training process itself
    system.batches_ahead = 2  # batches moved to the devices before the step asks for them
    system.remat = "none"  # "blocks": recompute the inside of the backbone's blocks in the backward pass
    system.forms = "auto"  # train in the forms that are fastest on "cpu", "gpu" or "tpu"; "auto": on the devices used
    system.log_every = 50  # steps between entries of metrics.jsonl and TensorBoard
    system.profile_steps = ""  # "10:15" traces steps 10 to 15 for TensorBoard and Perfetto; "": none
    return config.lock()  # a field that does not exist is an error, also in an experiment's file
