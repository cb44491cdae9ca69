"""From a config's fields to the parts of an experiment; nobody else translates between the two."""

from collections.abc import Callable
from functools import partial
from typing import Any

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
from cpnet_jax.data.records import Transform, augmented
from cpnet_jax.models import CPNet
from cpnet_jax.models.context_prior import DEFAULT_BLOCK_ROWS, tpu_block_rows
from cpnet_jax.models.cpnet import OUTPUT_STRIDE
from cpnet_jax.training.optimizer import poly_schedule, poly_sgd
from cpnet_jax.training.state import TrainState, create_state
from cpnet_jax.training.step import Loss, Targets, train_step


def make_dataset(config: ml_collections.ConfigDict) -> Dataset:
    """From the catalog, or for one's own folder from the class file there."""
    if config.data.name == catalog.folder.NAME:
        return builders.describe_folder(config.data.source, FolderLayout(**config.data.folder.to_dict()))
    return catalog.get(config.data.name)


def prior_size(config: ml_collections.ConfigDict) -> tuple[int, int]:
    height, width = config.data.crop_size
    return height // OUTPUT_STRIDE, width // OUTPUT_STRIDE


def make_model(config: ml_collections.ConfigDict, *, for_tpus: bool = False) -> CPNet:
    """The network; what is left to be chosen automatically, as it is best for these devices."""

    def chosen(impl: str, tpus: str) -> str:
        return (tpus if for_tpus else "plain") if impl == "auto" else impl

    height, width = prior_size(config)
    block_rows = config.model.prior_block_rows or (tpu_block_rows(height * width) if for_tpus else DEFAULT_BLOCK_ROWS)
    return CPNet(
        num_classes=config.data.num_classes,
        depth=config.model.depth,
        prior_size=prior_size(config),
        stem=config.model.stem,
        channels=config.model.channels,
        aux_channels=config.model.aux_channels,
        context=config.model.context,
        context_options=_context_options(config),
        context_prior=config.model.context_prior,
        aggregation=config.model.aggregation,
        aggregation_kernel=config.model.aggregation_kernel,
        prior_contexts=config.model.prior_contexts,
        divide_by_n=config.model.divide_by_n,
        dropout=config.model.dropout,
        prior_impl=config.model.prior_impl,
        prior_block_rows=block_rows,
        multi_grid=tuple(config.model.multi_grid),
        stem_impl=chosen(config.model.stem_impl, "cells"),
        dilation_impl=config.model.dilation_impl,
        norm_impl=chosen(config.model.norm_impl, "folded"),
        remat=config.system.remat,
        dtype=jnp.bfloat16 if config.model.bfloat16 else None,
    )


def _context_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields that are the context module's own, as its attributes."""
    if config.model.context == "psp":
        return {"pool_sizes": tuple(config.model.pool_sizes)}
    if config.model.context == "aspp":
        return {"dilations": tuple(config.model.aspp_dilations)}
    return {}


def make_loss(config: ml_collections.ConfigDict) -> Loss:
    fields = config.loss.to_dict()
    ohem = losses.Ohem(threshold=fields.pop("ohem_threshold"), min_kept=fields.pop("ohem_min_kept"))
    return partial(
        losses.total_loss,
        prior_size=prior_size(config),
        upsampled_dtype=jnp.bfloat16 if config.model.bfloat16 else None,
        ohem=ohem if fields.pop("ohem") else None,
        class_weights=fields.pop("class_weights") or None,
        **fields,
    )


def make_targets(config: ml_collections.ConfigDict) -> Targets | None:
    """What the affinity loss compares with, from full-resolution labels; None for a network without context prior."""
    if not config.model.context_prior:
        return None

    def targets(labels: Int[Array, "b H W"]) -> losses.AffinityTargets:
        positions = losses.downsample_labels(labels, prior_size(config))
        return losses.AffinityTargets(positions, config.loss.exclude_diagonal, config.loss.ignored)

    return targets


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    fields = config.optimizer
    return poly_schedule(
        fields.base_lr,
        config.total_steps,
        power=fields.power,
        min_lr=fields.min_lr,
        warmup_steps=fields.warmup_steps,
    )


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
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
    """What gives the state at step 0, with random parameters; for use under jit."""
    return partial(
        create_state,
        make_model(config),
        make_optimizer(config),
        tuple(config.data.crop_size),
        config.seed,
        freeze=config.finetune.freeze,
    )


def make_train_step(config: ml_collections.ConfigDict, mesh: Mesh) -> Any:
    """The jitted step: (state, batch) -> (state, metrics), both replicated. The state passed in is given up."""
    step = partial(
        train_step,
        model=make_model(config, for_tpus=sharding.is_on_tpus(mesh)),
        loss=make_loss(config),
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
        compiler_options=_tpu_options(config) if sharding.is_on_tpus(mesh) else None,
    )


def _tpu_options(config: ml_collections.ConfigDict) -> dict[str, bool]:
    """What the compiler for TPUs is told, beyond its defaults."""
    if config.compiler.tpu_space_to_batch:
        return {}
    # Each of the two passes does it without the other.
    return {"xla_tpu_run_space_to_batch": False, "xla_tpu_run_space_to_batch_on_new_platforms": False}


def make_augmentation(config: ml_collections.ConfigDict, dataset: Dataset) -> Transform:
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
        augmented,
        num_classes=len(dataset.classes),
        ignore_label=dataset.ignore_label,
        augmentation=augmentation,
    )
