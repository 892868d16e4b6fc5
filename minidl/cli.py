"""The command line: each command is a few lines that call the library.

An error is one sentence on stderr and exit status 1; a wrong usage has status 2, an interruption 130, and a
reader who closes the pipe 141, as for any command in a shell.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minidl import __version__, option_types
from minidl.check_operations import check_operations, check_own
from minidl.data import Compose, DataLoader, ImageFolder
from minidl.data.pictures import open_picture
from minidl.errors import CheckpointError, DataError, MinidlError
from minidl.models import VGG, vgg16
from minidl.nn import summary
from minidl.tensor import Tensor
from minidl.training import (
    MODEL,
    OPTIMIZERS,
    Predictions,
    Result,
    best_clip,
    finetune,
    load_pretrained,
    picture_id,
    predict,
    read_metadata,
    read_options,
    train_from_scratch,
    write_submission,
)
from minidl.training.demo import EPOCHS, comparison_table, run_demo, save_demo
from minidl.training.history import Row
from minidl.training.run import OPTIONS, new_folder, start_run
from minidl.visualize.report import write_report
from minidl.weights.download import PUBLISHED, download_vgg16

BATCH = 8  # pictures at once where nothing is learned


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a file may be no text, a console may lack ±
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        status = arguments.command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _complain(interrupt, 130)
    except MinidlError as error:
        return _complain(error, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}", 1)
    except MemoryError:
        return _complain("out of memory: try smaller arrays, or a smaller --batch-size", 1)
    return status or 0


def _complain(problem: Any, status: int) -> int:
    print("minidl:", " ".join(str(problem).split()) or "interrupted", file=sys.stderr)
    return status


# What the commands do


def _demo(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.out) if arguments.out else new_folder("demo")
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    start_run(folder, "demo", {"seeds": list(seeds), "epochs": EPOCHS}, {}, resume=False)
    runs = run_demo(seeds, on_stage=_announce, on_epoch=_print_epoch)
    run = runs[0]
    save_demo(folder, run)
    write_report(
        folder / "report.html",
        title="Cats and dogs after shapes",
        history=run.finetuned,
        predictions=run.predictions,
        classes=run.model.classes or [],
        picture=lambda i: run.pictures[i],
        facts={"command": _command_line(), "seed": run.seed, "model": run.model.config},
        name="fine-tuned",
        comparison={"from scratch": run.scratch, "linear on pixels": run.linear},
    )
    print(comparison_table(runs))
    _print_folder(folder)


def _announce(stage: str) -> None:
    print(f"\n{stage}", flush=True)


def _finetune(arguments: argparse.Namespace) -> None:
    result = finetune(**_run_options(arguments, finetune), on_epoch=_print_epoch)
    _report(result, "finetune", "Fine-tuning VGG16")


def _train(arguments: argparse.Namespace) -> None:
    result = train_from_scratch(**_run_options(arguments, train_from_scratch), on_epoch=_print_epoch)
    _report(result, "train", "A small VGG from scratch")


def _evaluate(arguments: argparse.Namespace) -> None:
    model, transform = _load(arguments)
    pictures = ImageFolder(arguments.folder, transform, on_error=arguments.on_error)
    if pictures.classes != model.classes:
        raise DataError(
            f"{arguments.folder} has the classes {', '.join(pictures.classes)}, "
            f"the model knows {', '.join(model.classes or ['no names'])}"
        )
    predictions = _predict(model, pictures)
    print(_verdict(predictions))
    width = max(map(len, pictures.classes))
    for name, row in zip(pictures.classes, predictions.confusion_matrix().tolist(), strict=True):
        print(f"{name:>{width}}", *(f"{count:6d}" for count in row))


def _predict_pictures(arguments: argparse.Namespace) -> None:
    model, transform = _load(arguments)
    for path in arguments.pictures:
        x = Tensor(transform(open_picture(path))[None])
        predictions = predict(model, [(x, Tensor([0]))])
        label = int(predictions.predicted[0])
        print(
            path,
            model.classes[label] if model.classes else label,
            f"{predictions.confidence[0]:.4f}",
            sep="\t",
        )


def _submission(arguments: argparse.Namespace) -> None:
    model, transform = _load(arguments)
    classes = model.classes or []
    if len(classes) != 2:
        raise DataError(
            f"{arguments.checkpoint}: a submission needs a model of two classes, "
            f"this one has {model.config['num_classes']}"
        )
    clip = _noted_clip(arguments.checkpoint) if arguments.clip is None else arguments.clip
    pictures = ImageFolder(arguments.folder, transform, on_error=arguments.on_error)
    ids = [picture_id(path) for path, _ in pictures.samples]
    write_submission(arguments.out, ids, _predict(model, pictures).probabilities[:, 1], clip)
    print(
        f"{arguments.out}: P({classes[1]}) of {len(ids)} pictures, kept between {clip:.7g} and {1 - clip:.7g}"
    )


def _summary(arguments: argparse.Namespace) -> None:
    model = vgg16() if arguments.model == "vgg16" else load_pretrained(_checkpoint(arguments.model))
    size = model.preprocessing.size if model.preprocessing else 224
    print(summary(model, (1, model.config["in_channels"], size, size)))


def _download(arguments: argparse.Namespace) -> None:
    print(download_vgg16(arguments.name))


def _gradcheck(arguments: argparse.Namespace) -> int:
    if bool(arguments.names) == arguments.all:
        arguments.usage_error("say either --all or what to check: operations, or path/to/file.py:NAME")
    right, own = True, [name for name in arguments.names if ".py" in name]
    operations = [name for name in arguments.names if name not in own]
    if (operations or arguments.all) and (arguments.shape or arguments.positive or arguments.order):
        arguments.usage_error("--shape, --positive and --order are for file.py:NAME: operations have samples")
    for name in own:
        result = check_own(name, arguments.shape or [], arguments.positive, arguments.order or 2)
        print(f"{name}: {result}")
        right &= bool(result)
    for row in check_operations(operations) if operations or arguments.all else []:
        print(row.line(arguments.markdown), flush=True)
        right &= bool(row)
    return 0 if right else 1


# What several commands need


def _run_options(arguments: argparse.Namespace, run: Callable) -> dict[str, Any]:
    """The arguments of `run`, `finetune` or `train_from_scratch`; of a run to be resumed, its own."""
    given = dict(vars(arguments))
    name, _, usage_error, resume = (given.pop(key) for key in ("name", "command", "usage_error", "resume"))
    if resume is not None:
        options = {**read_options(resume, name), **given, "out": resume, "resume": True}
        try:
            inspect.signature(run).bind(**options)
        except TypeError as error:
            raise CheckpointError(f"{Path(resume) / OPTIONS} is of another minidl: {error}") from None
        return options
    for option, word in (("folder", "DIR"), ("weights", "--weights")):
        if option not in given and (option == "folder" or name == "finetune"):
            usage_error(f"{word} is required, unless a run is resumed")
    if "weights" in given:
        given["weights"] = str(_checkpoint(given["weights"]))
    return given


def _checkpoint(path: str) -> Path:
    """The file itself, or the model of the best epoch in the folder of a run."""
    return Path(path) / MODEL if Path(path).is_dir() else Path(path)


def _load(arguments: argparse.Namespace) -> tuple[VGG, Compose]:
    """The model that classifies pictures, on its device, and what prepares them for it."""
    model = load_pretrained(_checkpoint(arguments.checkpoint))
    if model.config["num_classes"] is None:
        raise DataError(f"{arguments.checkpoint} has no dense layers that tell classes: fine-tune it first")
    assert model.preprocessing is not None
    return model.to(arguments.device), model.preprocessing.transform()


def _noted_clip(checkpoint: str) -> float:
    """The best bound for a submission by the validation that the checkpoint tells of."""
    try:
        return best_clip(**read_metadata(_checkpoint(checkpoint))["training"]["validation"])
    except (KeyError, TypeError, ZeroDivisionError):
        message = f"{checkpoint} does not say how accurate it is: choose the bound with --clip"
        raise DataError(message) from None


def _predict(model: VGG, pictures: ImageFolder) -> Predictions:
    _print_skipped(pictures.skipped)
    return predict(model, DataLoader(pictures, BATCH, num_workers=2), [path for path, _ in pictures.samples])


def _print_epoch(row: Row) -> None:
    line = f"epoch {row['epoch']}: loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.4f}"
    if row["valid_loss"] is not None:
        line += f"; validation {row['valid_loss']:.4f}, {row['valid_accuracy']:.4f}"
    print(f"{line}; {row['seconds']:.1f} s", flush=True)


def _print_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    for _, reason in skipped:
        print("skipped", reason, file=sys.stderr)


def _verdict(predictions: Predictions) -> str:
    return (
        f"accuracy {predictions.accuracy:.4f} ± {predictions.standard_error:.4f}, "
        f"log loss {predictions.log_loss:.4f} on {len(predictions)} pictures"
    )


def _report(result: Result, command: str, title: str) -> None:
    _print_skipped(result.skipped)
    facts = {"command": _command_line(), "skipped pictures": len(result.skipped)}
    write_report(
        result.folder / "report.html",
        title=title,
        history=result.history,
        predictions=result.predictions,
        classes=result.valid.classes,
        picture=result.valid.picture,
        facts={**facts, **read_options(result.folder, command)},
    )
    print(_verdict(result.predictions))
    _print_folder(result.folder)


def _command_line() -> str:
    return shlex.join(["minidl", *sys.argv[1:]])


def _print_folder(folder: Path) -> None:
    print(f"{folder}: report.html, {MODEL}, history.csv")


# How they are called


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minidl", description="A deep learning framework small enough to read."
    )
    parser.add_argument("--version", action="version", version=f"minidl {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    command = commands.add_parser("demo", help="watch a VGG learn cats from dogs, on drawings: a minute")
    command.set_defaults(command=_demo)
    command.add_argument(
        "--seeds", type=option_types.count, default=1, metavar="N", help="how often to repeat it (1)"
    )
    command.add_argument("--seed", type=option_types.seed, default=0, help="the first seed (0)")
    command.add_argument("--out", metavar="RUN", help="folder for the results (a new one in runs/)")

    command = commands.add_parser("finetune", help="teach VGG16 the classes of a folder of pictures")
    _add_run(command, _finetune)
    command.add_argument(
        "--weights", metavar="FILE", help="VGG16 of Keras or PyTorch, or a checkpoint of minidl"
    )
    command.add_argument("--train", choices=["last", "dense", "all"], help="the layers that learn (last)")
    command.add_argument(
        "--augment", action="store_true", help="turn, shift, zoom and flip training pictures"
    )

    command = commands.add_parser("train", help="train a small VGG from scratch")
    _add_run(command, _train)
    command.add_argument("--size", type=option_types.count, metavar="PIXELS", help="side of the input (64)")
    command.add_argument("--no-flip", dest="flip", action="store_false", help="do not flip training pictures")

    command = commands.add_parser("evaluate", help="measure a model on a folder of pictures")
    _add_model(command, _evaluate)
    command.add_argument("folder", metavar="DIR", help="one folder per class")
    _add_on_error(command, default="raise")

    command = commands.add_parser("predict", help="tell the class of pictures")
    _add_model(command, _predict_pictures)
    command.add_argument("pictures", metavar="PICTURE", nargs="+")

    command = commands.add_parser("submission", help="write a Kaggle submission")
    _add_model(command, _submission)
    command.add_argument("folder", metavar="DIR", help="test pictures with numbers for names")
    command.add_argument("--out", default="submission.csv", metavar="FILE")
    command.add_argument(
        "--clip", type=option_types.bound, metavar="P", help="bound of P and 1 − P (the validation error)"
    )
    _add_on_error(command, default="raise")

    command = commands.add_parser("summary", help="list the layers of a model")
    command.add_argument(
        "model",
        metavar="CHECKPOINT",
        help="a checkpoint, the folder of a run, a VGG16 file, or the word vgg16",
    )
    command.set_defaults(command=_summary)

    command = commands.add_parser("gradcheck", help="compare gradients with difference quotients")
    command.set_defaults(command=_gradcheck, usage_error=command.error)
    command.add_argument("names", metavar="NAME", nargs="*", help="an operation, or path/to/file.py:NAME")
    command.add_argument("--all", action="store_true", help="every operation of minidl")
    command.add_argument("--shape", type=option_types.shape, action="append", help="of each input, as 3x4")
    command.add_argument("--positive", action="store_true", help="inputs above 0, as for a logarithm")
    command.add_argument("--order", type=int, choices=[1, 2], help="of the derivative (2: both)")
    command.add_argument("--markdown", action="store_true", help="the table in Markdown")

    command = commands.add_parser("download", help="fetch published weights into MINIDL_HOME")
    command.add_argument("name", choices=list(PUBLISHED))
    command.set_defaults(command=_download)
    return parser


def _add_run(command: argparse.ArgumentParser, run: Any) -> None:
    """What all training has in common. An option not given is absent: the library has the defaults."""
    command.argument_default = argparse.SUPPRESS
    command.set_defaults(command=run, usage_error=command.error)
    command.add_argument(
        "folder", metavar="DIR", nargs="?", help="has train/ and valid/, or a folder per class"
    )
    command.add_argument("--epochs", type=option_types.count)
    command.add_argument("--lr", type=option_types.positive, help="learning rate")
    command.add_argument("--batch-size", type=option_types.count)
    command.add_argument("--optimizer", choices=list(OPTIMIZERS))
    command.add_argument("--sample", type=option_types.count, metavar="N", help="use so many pictures only")
    command.add_argument(
        "--valid",
        type=option_types.share,
        metavar="SHARE",
        help="share held out where there is no valid/ (0.2)",
    )
    command.add_argument("--seed", type=option_types.seed)
    command.add_argument("--out", metavar="RUN", help="folder for the results (a new one in runs/)")
    command.add_argument(
        "--resume", metavar="RUN", default=None, help="continue an interrupted run, with its options"
    )
    _add_device(command)
    _add_on_error(command)


def _add_model(command: argparse.ArgumentParser, run: Any) -> None:
    command.set_defaults(command=run)
    command.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, the folder of a run, or VGG16"
    )
    _add_device(command, default="cpu")


def _add_device(command: argparse.ArgumentParser, **default: Any) -> None:
    command.add_argument("--device", choices=["cpu", "gpu"], **default)


def _add_on_error(command: argparse.ArgumentParser, **default: Any) -> None:
    choices = ["raise", "skip"]
    command.add_argument("--on-error", choices=choices, help="refuse or skip unreadable pictures", **default)
