"""The command line: what it prints, what it leaves, and how it fails: in one sentence."""

import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest

from minidl import cli
from minidl.cli import main
from minidl.data import Preprocessing
from minidl.models import VGG
from minidl.training import History, load_model, save_checkpoint


@pytest.fixture
def run(capsys):
    """Runs a command and returns (status, stdout, stderr)."""

    def call(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit:  # argparse
            status = exit.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory, drawn_folder, tiny_vgg):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIDL_HOME", str(folder / "home"))
        out = str(folder / "run")
        arguments = ["finetune", str(drawn_folder), "--weights", str(tiny_vgg), "--out", out, "--epochs", "2"]
        assert main(arguments) == 0
    return folder / "run"


def fails(result, message, status=1):
    """The command failed with this one sentence."""
    found, _, err = result
    assert found == status, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if not line.startswith("usage:")]
    assert len(lines) == 1 or status == 2
    assert lines[-1].startswith("minidl")
    assert message in lines[-1]


# What they do


def test_finetune_prints_each_epoch_and_last_where_everything_is(run, drawn_folder, tiny_vgg, home, tmp_path):
    out = tmp_path / "run"
    status, text, err = run("finetune", drawn_folder, "--weights", tiny_vgg, "--epochs", 2, "--out", out)
    assert (status, err) == (0, "")
    lines = text.splitlines()
    assert lines[0].startswith("epoch 1: loss ")
    assert lines[-2].startswith("accuracy ")
    assert lines[-1] == f"{out}: report.html, model.safetensors, history.csv"
    assert {path.name for path in out.iterdir()} >= {"report.html", "model.safetensors", "history.json"}
    assert "http" not in (out / "report.html").read_text().replace("http-equiv", "").replace("www.w3.org", "")


def test_finetune_takes_every_option(run, drawn_folder, tiny_vgg, home, tmp_path):
    options = "--train dense --epochs 1 --lr 0.01 --batch-size 4 --optimizer rmsprop --augment --sample 12"
    options += " --valid 0.5 --seed 3 --device cpu --on-error skip"
    arguments = ["finetune", drawn_folder, "--weights", tiny_vgg, "--out", tmp_path / "run", *options.split()]
    assert run(*arguments)[0] == 0
    notes = cli.read_options(tmp_path / "run", "finetune")
    assert (notes["train"], notes["lr"], notes["batch_size"], notes["seed"]) == ("dense", 0.01, 4, 3)
    assert (notes["optimizer"], notes["augment"], notes["sample"]) == ("rmsprop", True, 12)


def test_without_out_it_goes_to_a_new_folder_in_runs(
    run, drawn_folder, tiny_vgg, home, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    status, text, _ = run("finetune", drawn_folder, "--weights", tiny_vgg, "--epochs", 1)
    assert status == 0
    assert text.splitlines()[-1].startswith(f"runs/{drawn_folder.name}-last-")


def test_train_from_scratch(run, drawn_folder, tmp_path):
    out = tmp_path / "run"
    status, text, _ = run("train", drawn_folder, "--size", 16, "--epochs", 2, "--no-flip", "--out", out)
    assert status == 0
    assert text.splitlines()[-1] == f"{out}: report.html, model.safetensors, history.csv"
    assert run("train", "--resume", out)[0] == 0


def test_evaluate(run, drawn_folder, finished):
    status, text, _ = run("evaluate", finished, drawn_folder / "valid")
    assert status == 0
    lines = text.splitlines()
    assert lines[0].startswith("accuracy ")
    assert lines[0].endswith("on 10 pictures")
    assert lines[1].split()[0] == "cats"
    assert sum(int(count) for line in lines[1:] for count in line.split()[1:]) == 10
    accuracy = float(lines[0].split()[1])
    assert accuracy == max(History.load(finished)["valid_accuracy"])


def test_predict_tells_class_and_probability(run, drawn_folder, finished):
    picture = next((drawn_folder / "valid" / "cats").iterdir())
    status, text, _ = run("predict", finished / "model.safetensors", picture, picture)
    assert status == 0
    first, second = (line.split("\t") for line in text.splitlines())
    assert first == second
    assert first[0] == str(picture)
    assert first[1] in ("cats", "dogs")
    assert 0.5 <= float(first[2]) <= 1


def test_submission(run, drawn_folder, finished, tmp_path):
    (tmp_path / "test").mkdir()
    for number, picture in enumerate(sorted((drawn_folder / "valid" / "dogs").iterdir()), start=9):
        shutil.copy(picture, tmp_path / "test" / f"{number}.png")
    out = tmp_path / "submission.csv"
    status, _, _ = run("submission", finished, tmp_path / "test", "--out", out)
    assert status == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "id,label"
    assert [line.split(",")[0] for line in lines[1:]] == ["9", "10", "11", "12", "13"]
    wrong = 1 - max(History.load(finished)["valid_accuracy"])
    labels = [float(line.split(",")[1]) for line in lines[1:]]
    assert min(wrong, 0.5) - 1e-5 <= min(labels)
    assert max(labels) <= 1 - min(wrong, 0.5) + 1e-5
    assert run("submission", finished, tmp_path / "test", "--out", out, "--clip", 0.49)[0] == 0
    assert all(0.49 <= float(line.split(",")[1]) <= 0.51 for line in out.read_text().splitlines()[1:])


def test_summary(run, finished):
    status, text, _ = run("summary", finished)
    assert status == 0
    assert "conv2_2" in text
    assert "fc5" in text


def test_download(run, monkeypatch):
    monkeypatch.setattr(cli, "download_vgg16", lambda name: f"/home/me/{name}.pth")
    assert run("download", "vgg16") == (0, "/home/me/vgg16.pth\n", "")


def test_python_m_minidl_is_the_same(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["minidl", "--help"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("minidl", run_name="__main__")
    assert exit.value.code == 0
    assert "finetune" in capsys.readouterr().out


# How they fail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["finetune"], "DIR is required, unless a run is resumed"),
        (["finetune", "pictures"], "--weights is required, unless a run is resumed"),
        (
            ["finetune", "pictures", "--epochs", "0"],
            "argument --epochs: expected a whole number above 0, got '0'",
        ),
        (["finetune", "pictures", "--lr", "nan"], "argument --lr: expected a number above 0, got 'nan'"),
        (
            ["train", "pictures", "--valid", "1"],
            "argument --valid: expected a number between 0 and 1, got '1'",
        ),
        (
            ["train", "pictures", "--seed", "-1"],
            "argument --seed: expected a whole number, 0 or above, got '-1'",
        ),
        (["download", "resnet"], "invalid choice: 'resnet'"),
    ],
)
def test_wrong_usage(run, arguments, message):
    fails(run(*arguments), message, status=2)


def test_no_folder(run, tiny_vgg, tmp_path):
    fails(run("finetune", tmp_path / "none", "--weights", tiny_vgg), "none: no such folder")


def test_an_empty_folder(run, tiny_vgg, tmp_path):
    fails(run("finetune", tmp_path, "--weights", tiny_vgg), "no pictures in this folder")


def test_one_class_only(run, tiny_vgg, drawn_folder, tmp_path):
    shutil.copytree(drawn_folder / "train" / "cats", tmp_path / "cats")
    fails(run("finetune", tmp_path, "--weights", tiny_vgg), "has one class only (cats)")


def test_other_classes(run, finished, drawn_folder):
    message = "has the classes train, valid, the model knows cats, dogs"
    fails(run("evaluate", finished, drawn_folder), message)


def test_other_classes_in_train_and_valid(run, tiny_vgg, drawn_folder, tmp_path):
    shutil.copytree(drawn_folder, tmp_path / "drawn")
    os.rename(tmp_path / "drawn" / "valid" / "cats", tmp_path / "drawn" / "valid" / "birds")
    fails(run("finetune", tmp_path / "drawn", "--weights", tiny_vgg), "has the classes cats, dogs, but")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x02cposix\nsystem\n(S'x'\ntR.", b"\x08\0\0\0\0\0\0\0{}      "]
)
def test_weights_that_are_none(run, drawn_folder, tmp_path, content):
    (tmp_path / "weights").write_bytes(content)
    fails(
        run("finetune", drawn_folder, "--weights", tmp_path / "weights", "--out", tmp_path / "run"),
        "weights: ",
    )
    assert sorted(os.listdir(tmp_path)) == ["weights"]


def test_missing_weights(run, drawn_folder, tmp_path):
    fails(run("finetune", drawn_folder, "--weights", tmp_path / "w"), "w: No such file or directory")


def test_truncated_weights(run, drawn_folder, tiny_vgg, tmp_path):
    (tmp_path / "weights").write_bytes(tiny_vgg.read_bytes()[:-100])
    fails(run("finetune", drawn_folder, "--weights", tmp_path / "weights"), "weights: ")


def test_a_picture_that_is_none(run, drawn_folder, tiny_vgg, home, finished, tmp_path):
    shutil.copytree(drawn_folder, tmp_path / "drawn")
    bad = tmp_path / "drawn" / "train" / "cats" / "bad.jpg"
    bad.write_text("not a picture")
    arguments = ["finetune", tmp_path / "drawn", "--weights", tiny_vgg, "--epochs", 1, "--out"]
    fails(run(*arguments, tmp_path / "1"), "bad.jpg: ")
    fails(run("predict", finished, bad), "bad.jpg: ")
    status, _, err = run(*arguments, tmp_path / "2", "--on-error", "skip")
    assert status == 0
    assert err.startswith("skipped ")
    assert "bad.jpg" in err


def test_predict_wants_pictures_and_a_run(run, drawn_folder, finished, tmp_path):
    cats = drawn_folder / "valid" / "cats"
    fails(run("predict", finished, cats), f"{cats}: a folder, not a picture: name the pictures in it")
    picture = next(cats.iterdir())
    message = f"{tmp_path / 'model.safetensors'}: No such file or directory"
    fails(run("predict", tmp_path, picture), message)
    fails(run("predict", tmp_path / "none", picture), f"{tmp_path / 'none'}: No such file or directory")
    fails(run("predict", picture, picture), f"{picture}: not a weight file that minidl knows")


def test_a_missing_extra(run, drawn_folder, tiny_vgg, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "safetensors", None)
        message = "this needs safetensors: pip install 'minidl[weights]'"
        fails(run("finetune", drawn_folder, "--weights", tiny_vgg), message)
        result = run("train", drawn_folder, "--size", 16)
        fails(result, message)
        assert result[1] == ""  # before anything is learned
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    for command in (["train", drawn_folder, "--size", 16], ["demo"]):
        result = run(*command)
        fails(result, "this needs Pillow: pip install 'minidl[images]'")
        assert result[1] == ""


def test_no_gpu(run, drawn_folder, tiny_vgg, tmp_path):
    from minidl.backend import gpu_unavailable

    reason = gpu_unavailable()
    if reason is None:
        pytest.skip("there is a GPU")
    out = tmp_path / "run"
    fails(run("finetune", drawn_folder, "--weights", tiny_vgg, "--device", "gpu", "--out", out), reason)
    assert not out.exists()


def test_a_run_that_is_there_is_not_overwritten(run, drawn_folder, tiny_vgg, finished):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    result = run("finetune", drawn_folder, "--weights", tiny_vgg, "--out", finished)
    fails(result, "holds a run already: resume it, or choose another folder")
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (None, "holds no run: run.json: No such file or directory"),
        ("{", "run.json is damaged"),
        (
            '{"command": "train", "options": {}, "inputs": {}}',
            "holds a run of minidl train, not of minidl finetune",
        ),
        (
            '{"command": "finetune", "options": {"folder": "a", "weights": "b", "depth": 3}, "inputs": {}}',
            "run.json is of another minidl: got an unexpected keyword argument 'depth'",
        ),
    ],
)
def test_nothing_to_resume(run, tmp_path, notes, message):
    if notes is not None:
        (tmp_path / "run.json").write_text(notes)
    fails(run("finetune", "--resume", tmp_path), message)


def test_a_submission_needs_numbers(run, drawn_folder, finished, tmp_path):
    out = tmp_path / "s.csv"
    fails(
        run("submission", finished, drawn_folder / "valid", "--out", out),
        "have numbers for names, such as 17.jpg",
    )
    assert not out.exists()


def test_a_model_without_classes_gives_no_submission(run, drawn_folder, tiny_vgg):
    fails(run("submission", tiny_vgg, drawn_folder), "needs a model of two classes, this one has 5")


def test_a_model_that_does_not_classify(run, drawn_folder, tiny_vgg, tmp_path):
    model = VGG(**{**load_model(tiny_vgg).config, "num_classes": None})
    model.preprocessing = Preprocessing()
    save_checkpoint(tmp_path / "notop", model)
    message = "notop has no dense layers that tell classes: fine-tune it first"
    fails(run("predict", tmp_path / "notop", next((drawn_folder / "valid" / "cats").iterdir())), message)


@pytest.mark.parametrize("training", [None, {"validation": {"accuracy": 1.0}}, {"validation": 3}, []])
def test_without_an_accuracy_a_submission_needs_a_bound(run, finished, drawn_folder, tmp_path, training):
    save_checkpoint(tmp_path / "model", load_model(finished / "model.safetensors"), training=training)
    fails(run("submission", tmp_path / "model", drawn_folder), "choose the bound with --clip")


def test_a_folder_that_cannot_be_written(run, drawn_folder, tiny_vgg, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("finetune", drawn_folder, "--weights", tiny_vgg, "--out", tmp_path / "file" / "run")
    fails(result, "Not a directory")


# In a process of their own


def start(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


FULL_DISK = """
import resource, sys
from minidl.cli import main
from minidl.training import History
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
sys.exit(main())
"""


CODE = "import sys; from minidl.cli import main; sys.exit(main())"


def test_a_reader_who_leaves_gets_no_complaint(finished):
    with start(CODE, "summary", finished) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_name_that_is_no_text_is_printed(finished, drawn_folder, tmp_path):
    picture = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        shutil.copy(next((drawn_folder / "valid" / "cats").iterdir()), picture)
    except OSError:
        pytest.skip("the file system takes only text for a name")
    command = [sys.executable, "-c", CODE, "predict", finished, picture]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    process = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert process.returncode == 0, process.stderr
    assert b"\\udcff.png\t" in process.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX limits")
def test_a_full_disk(drawn_folder, tiny_vgg, home, tmp_path):
    out = tmp_path / "run"
    process = start(
        FULL_DISK, "finetune", drawn_folder, "--weights", tiny_vgg, "--out", out, "--train", "all"
    )
    _, err = process.communicate(timeout=60)
    fails((process.returncode, "", err), "safetensors: File too large. What was there before still is")
    assert sorted(os.listdir(out)) == ["run.json"]


@pytest.mark.slow
def test_control_c_saves_and_exits_with_130(drawn_folder, tiny_vgg, home, tmp_path):
    out = tmp_path / "run"
    process = start(CODE, "finetune", drawn_folder, "--weights", tiny_vgg, "--out", out, "--epochs", 10_000)
    waited = time.monotonic() + 30
    while not (out / "history.csv").exists() and time.monotonic() < waited:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    fails((process.returncode, "", err), f"everything is saved in {out}, resume from there", status=130)
    assert main(["finetune", "--resume", str(out), "--epochs", "1"]) == 0
