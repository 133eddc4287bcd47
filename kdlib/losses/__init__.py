"""Distillation losses as pure functions, usable in anybody's training loop: one value per example, in nats."""

from kdlib.losses.chunked import chunked_jsd_loss, chunked_kd_loss
from kdlib.losses.kd import cross_entropy, kd_loss, soft_cross_entropy, soften, true_class_odds, without_true_class
from kdlib.losses.modern import dist_loss, dkd_loss, jsd_loss, logit_standardised_kd_loss, multilabel_kd_loss

__all__ = [
    "chunked_jsd_loss",
    "chunked_kd_loss",
    "cross_entropy",
    "dist_loss",
    "dkd_loss",
    "jsd_loss",
    "kd_loss",
    "logit_standardised_kd_loss",
    "multilabel_kd_loss",
    "soft_cross_entropy",
    "soften",
    "true_class_odds",
    "without_true_class",
]
