"""Pre-trained weights: VGG16 files of every writer, read without running anything in them, and fetched."""

from minidl.weights.download import download_vgg16
from minidl.weights.load import load_vgg16
from minidl.weights.vgg16 import VGG16File, read_vgg16

__all__ = ["VGG16File", "download_vgg16", "load_vgg16", "read_vgg16"]
