"""Builds the parts of an experiment from a config. The only module that translates fields to arguments."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from cpnet_jax import losses, sharding
from cpnet_jax.data import builders, catalog
from cpnet_jax.data.augment import augment
from cpnet_jax.data.catalog import Dataset, FolderLayout
from cpnet_jax.data.normalize import normalize
from cpnet_jax.data.records import Transform, augment_record
from cpnet_jax.models import CPNet, Forms, PriorOptions
from cpnet_jax.models.backbones import BACKBONES
from cpnet_jax.models.contexts import CONTEXTS
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.training.optimizer import poly_schedule, poly_sgd
from cpnet_jax.training.state import TrainState, create_state
from cpnet_jax.training.step import Loss, Targets, train_step

# Options of libtpu. Either of these passes divides the convolutions of small batches along the width, which doubles the
# estimated time of a step with 2 images a chip and changes nothing at 8 images: docs/lab_notes/dilation.md.
TPU_OPTIONS = {"xla_tpu_run_space_to_batch": False, "xla_tpu_run_space_to_batch_on_new_platforms": False}
# XLA's option for CPUs. By default its schedule favours operations that can run side by side; this one frees arrays
# earlier: 266 instead of 509 MB of temporary arrays in the quickstart. docs/lab_notes/cpu_step.md.
CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
PLAIN = Forms()
# Names of the networks without a context prior, by their context.
NAMES = {"none": "dilated FCN", "psp": "PSPNet", "aspp": "DeepLabV3", "non_local": "non-local network"}


def make_dataset(config: ml_collections.ConfigDict) -> Dataset:
    """The dataset of config.data.name: from the catalog, or described by the class file in your own folder."""
    if config.data.name == catalog.folder.NAME:
        return builders.describe_folder(config.data.source, FolderLayout(**config.data.folder.to_dict()))
    return catalog.get(config.data.name)


def prior_size(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """Height and width of the feature map of a crop, which the context prior covers in training."""
    height, width = config.data.crop_size
    return height // OUTPUT_STRIDE, width // OUTPUT_STRIDE


def fixed_prior_size(config: ml_collections.ConfigDict) -> tuple[int, int] | None:
    """`prior_size` if the network has a context prior of positions, whose parameters depend on it; otherwise None."""
    model = config.model
    return prior_size(config) if model.context_prior and model.prior == "positions" else None


def make_model(config: ml_collections.ConfigDict, forms: Forms = PLAIN) -> CPNet:
    """The network, in the plain forms by default; a training step uses `training_forms`."""
    model = config.model
    options = PriorOptions(
        kind=model.prior,
        aggregation=model.aggregation,
        aggregation_kernel=model.aggregation_kernel,
        contexts=model.prior_contexts,
        divide_by_n=model.divide_by_n,
        bfloat16=model.bfloat16_prior,
    )
    return CPNet(
        num_classes=config.data.num_classes,
        depth=model.depth,
        prior_size=fixed_prior_size(config),
        stem=model.stem,
        channels=model.channels,
        aux_channels=model.aux_channels,
        context_prior=model.context_prior,
        prior=options,
        context=_context(model),
        backbone=_backbone(model),
        dropout=model.dropout,
        forms=forms,
        dtype=jnp.bfloat16 if model.bfloat16 else None,
    )


def network_name(config: ml_collections.ConfigDict) -> str:
    """The network's name for people, such as "CPNet (ResNet-50)"."""
    model = config.model
    name = "CPNet" if model.context_prior else NAMES.get(model.context, model.context)
    if model.context_prior and model.context != "none":
        name += f" with {model.context}"
    return f"{name} ({f'ResNet-{model.depth}' if model.backbone == 'resnet' else model.backbone})"


def _context(model: ml_collections.ConfigDict) -> Callable[..., nn.Module] | None:
    """Constructor of the context module, with the fields that become its attributes."""
    options = {
        "psp": {"pool_sizes": tuple(model.pool_sizes)},
        "aspp": {"dilations": tuple(model.aspp_dilations)},
    }
    if model.context == "none":
        return None
    return partial(CONTEXTS[model.context], **options.get(model.context, _section(model, model.context)))


def _backbone(model: ml_collections.ConfigDict) -> Callable[..., nn.Module]:
    """Constructor of the backbone, with the fields that become its attributes."""
    options = {
        "resnet": {"depth": model.depth, "stem": model.stem, "multi_grid": tuple(model.multi_grid)},
    }
    return partial(BACKBONES[model.backbone], **options.get(model.backbone, _section(model, model.backbone)))


def _section(model: ml_collections.ConfigDict, name: str) -> dict[str, Any]:
    """Attributes of a module that a config file adds: the fields of config.model.NAME, if there is such a section."""
    fields: Any = model.get(name, {})
    # Flax needs attributes that can be hashed; a config read from JSON has lists.
    return {field: tuple(value) if isinstance(value, list) else value for field, value in fields.items()}


def backbone_file(config: ml_collections.ConfigDict) -> str:
    """The file or address of the pretrained backbone; empty for none."""
    return config.init.backbone.replace("{depth}", str(config.model.depth))


def training_forms(config: ml_collections.ConfigDict, mesh: Mesh) -> Forms:
    """The forms of a training step: those of config.system.forms, or the fastest on these devices."""
    platform = config.system.forms
    if platform == "auto":
        platform = "tpu" if sharding.is_on_tpus(mesh) else "cpu" if sharding.is_on_cpus(mesh) else "gpu"
    return replace(Forms.for_platform(platform), remat=config.system.remat == "blocks")


def make_loss(config: ml_collections.ConfigDict, forms: Forms = PLAIN) -> Loss:
    """The total loss with the weights and options of config.loss, in the plain forms by default."""
    fields = config.loss.to_dict()
    ohem = losses.Ohem(threshold=fields.pop("ohem_threshold"), min_kept=fields.pop("ohem_min_kept"))
    term_weights = {name: fields.pop(f"{name}_weight", 0) for name in losses.TERMS}
    return partial(
        losses.total_loss,
        upsampled_dtype=jnp.bfloat16 if config.model.bfloat16 else None,
        upsampled_form=forms.upsampled_loss,
        ohem=ohem if fields.pop("ohem") else None,
        class_weights=fields.pop("class_weights") or None,
        term_weights={name: weight for name, weight in term_weights.items() if weight},
        **fields,
    )


def make_targets(config: ml_collections.ConfigDict) -> Targets | None:
    """The function labels -> targets of the affinity loss; None for a network without context prior."""
    if not config.model.context_prior:
        return None

    def targets(labels: Int[Array, "b H W"]) -> losses.AffinityTargets:
        positions = losses.downsample_labels(labels, prior_size(config))
        return losses.AffinityTargets(jnp.asarray(positions), config.loss.exclude_diagonal, config.loss.ignored)

    return targets


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """The poly schedule of config.optimizer over config.total_steps."""
    fields = config.optimizer
    return poly_schedule(
        fields.base_lr,
        config.total_steps,
        power=fields.power,
        min_lr=fields.min_lr,
        warmup_steps=fields.warmup_steps,
    )


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """SGD with the settings of config.optimizer and config.finetune."""
    fields = config.optimizer
    return poly_sgd(
        make_schedule(config),
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        head_lr_multiplier=fields.head_lr_multiplier,
        lr_multipliers=config.finetune.lr_multipliers,
        decay_norm_and_bias=fields.decay_norm_and_bias,
        clip_global_norm=fields.clip_global_norm,
    )


def make_create_state(config: ml_collections.ConfigDict) -> Callable[[], TrainState]:
    """A function that returns the state at step 0 with random parameters; for use under jit."""
    return partial(
        create_state,
        make_model(config),
        make_optimizer(config),
        tuple(config.data.crop_size),
        config.seed,
        freeze=config.finetune.freeze,
    )


def make_train_step(config: ml_collections.ConfigDict, mesh: Mesh, forms: Forms | None = None) -> Any:
    """The jitted step: (state, batch) -> (state, metrics), both replicated; the state passed in is donated.

    Args:
      forms: how the network is computed; `training_forms` by default.
    """
    forms = forms or training_forms(config, mesh)
    step = partial(
        train_step,
        model=make_model(config, forms),
        loss=make_loss(config, forms),
        targets=make_targets(config),
        tx=make_optimizer(config),
        normalize=partial(normalize, mean=config.data.mean, std=config.data.std),
        accumulate=config.optimizer.accumulate,
        skip_nonfinite=config.optimizer.skip_nonfinite,
        freeze=config.finetune.freeze,
        norms_in_eval_mode=config.finetune.norms_in_eval_mode,
    )
    return jax.jit(
        sharding.in_context(step, mesh),
        donate_argnums=0,
        out_shardings=sharding.replicated(mesh),
        compiler_options=_compiler_options(mesh),
    )


def _compiler_options(mesh: Mesh) -> dict[str, Any] | None:
    """Options of the compiler of these devices for a training step."""
    if sharding.is_on_tpus(mesh):
        return TPU_OPTIONS
    return CPU_OPTIONS if sharding.is_on_cpus(mesh) and _is_known(tuple(CPU_OPTIONS.items())) else None


@lru_cache
def _is_known(options: tuple[tuple[str, str], ...]) -> bool:
    """Whether this version of XLA has the options: with an unknown one it refuses to compile."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def make_augmentation(config: ml_collections.ConfigDict, dataset: Dataset) -> Transform:
    """The function that decodes and augments a training record with the settings of config.data."""
    augmentation = partial(
        augment,
        crop_size=tuple(config.data.crop_size),
        scales=tuple(config.data.scales),
        flip_probability=config.data.flip_probability,
        fill=tuple(config.data.mean),
        ignore_label=dataset.ignore_label,
        cat_max_ratio=config.data.cat_max_ratio,
        jitter=config.data.photometric_jitter,
    )
    return partial(
        augment_record,
        num_classes=len(dataset.classes),
        ignore_label=dataset.ignore_label,
        augmentation=augmentation,
    )
