"""`kdlib.models.resnet` under its first name."""

from kdlib.models.resnet import Block, ResNet, resnet

__all__ = ["Block", "ResNet", "resnet"]
