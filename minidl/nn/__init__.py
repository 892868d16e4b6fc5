"""Networks: modules, the layers, the initialisers."""

from minidl.nn import init
from minidl.nn.activation import GELU, LeakyReLU, ReLU, Sigmoid, Softmax, Softplus, Tanh
from minidl.nn.container import Sequential
from minidl.nn.convolution import Conv2d, ConvTranspose2d
from minidl.nn.dropout import Dropout
from minidl.nn.hooks import RemovableHandle
from minidl.nn.linear import Flatten, Identity, Linear
from minidl.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from minidl.nn.module import Module, ModuleCall
from minidl.nn.normalization import BatchNorm1d, BatchNorm2d, LocalResponseNorm
from minidl.nn.parameter import Parameter
from minidl.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from minidl.nn.state import IncompatibleKeys
from minidl.nn.summary import LayerSummary, Summary, summary

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Identity",
    "IncompatibleKeys",
    "LayerSummary",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleCall",
    "Parameter",
    "ReLU",
    "RemovableHandle",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Summary",
    "Tanh",
    "init",
    "summary",
]
