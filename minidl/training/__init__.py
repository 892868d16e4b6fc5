"""Training: the loop, fine-tuning, metrics, history, checkpoints."""

from minidl.training.checkpoint import load_checkpoint, load_model, read_metadata, save_checkpoint
from minidl.training.finetune import finetune, load_pretrained
from minidl.training.fit import evaluate, fit
from minidl.training.history import History
from minidl.training.interrupt import Interrupted
from minidl.training.metrics import Predictions, accuracy, confusion_matrix, log_loss, predict
from minidl.training.run import MODEL, OPTIMIZERS, Result, read_options
from minidl.training.scratch import train_from_scratch
from minidl.training.submission import best_clip, picture_id, write_submission

__all__ = [
    "MODEL",
    "OPTIMIZERS",
    "History",
    "Interrupted",
    "Predictions",
    "Result",
    "accuracy",
    "best_clip",
    "confusion_matrix",
    "evaluate",
    "finetune",
    "fit",
    "load_checkpoint",
    "load_model",
    "load_pretrained",
    "log_loss",
    "picture_id",
    "predict",
    "read_metadata",
    "read_options",
    "save_checkpoint",
    "train_from_scratch",
    "write_submission",
]
