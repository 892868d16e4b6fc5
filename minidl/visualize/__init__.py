"""Looking at data, training and networks: the report, and plots."""

from minidl.visualize.plots import (
    plot_confusion_matrix,
    plot_history,
    plot_top_losses,
    show_batch,
    show_feature_maps,
    show_filters,
)
from minidl.visualize.report import write_report
from minidl.visualize.tiles import rescale, tile

__all__ = [
    "plot_confusion_matrix",
    "plot_history",
    "plot_top_losses",
    "rescale",
    "show_batch",
    "show_feature_maps",
    "show_filters",
    "tile",
    "write_report",
]
