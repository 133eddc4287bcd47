"""Networks: fleets of small ones that train side by side, and one big one."""

from kdlib.models.base import Cost, FleetModel
from kdlib.models.cnn import CNN
from kdlib.models.mlp import MLP
from kdlib.models.resnet import ResNet, resnet
from kdlib.models.stack import Stack, stack

__all__ = ["CNN", "MLP", "Cost", "FleetModel", "ResNet", "Stack", "resnet", "stack"]
