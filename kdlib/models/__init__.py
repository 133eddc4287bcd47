"""Networks: fleets of small ones that train side by side, and one big one."""

from kdlib.models.base import FleetModel
from kdlib.models.cnn import CNN
from kdlib.models.mlp import MLP
from kdlib.models.resnet import ResNet, resnet

__all__ = ["CNN", "MLP", "FleetModel", "ResNet", "resnet"]
