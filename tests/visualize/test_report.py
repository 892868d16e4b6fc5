from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from minidl.errors import DataError
from minidl.training.history import History
from minidl.training.metrics import Predictions
from minidl.visualize.report import GALLERY, MOST_CLASSES, write_report

pytest.importorskip("PIL")

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Fails on an end tag that does not fit, and remembers everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def parse(page: str) -> list[tuple[str, dict]]:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser.tags


def some_history(accuracy=0.9, epochs=3):
    history = History()
    for epoch in range(1, epochs + 1):
        history.append(
            epoch=epoch,
            train_loss=1 / epoch,
            train_accuracy=accuracy,
            valid_loss=1.1 / epoch,
            valid_accuracy=accuracy,
            lr=0.01,
            seconds=1.0,
        )
    return history


def some_predictions(n=40, c=2, seed=0, paths=True):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(c), n).astype(np.float32)
    return Predictions(p, rng.integers(0, c, n), [f"valid/x/{i}.jpg" for i in range(n)] if paths else [])


def grey(i):
    return np.full((20, 30, 3), i % 256, np.uint8)


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        arguments = {
            "title": "A run",
            "history": some_history(),
            "predictions": some_predictions(),
            "classes": ["cat", "dog"],
            "picture": grey,
        }
        write_report(tmp_path / "report.html", **(arguments | changes))
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def test_the_headline_is_the_accuracy_with_its_standard_error(write):
    p = np.array([[0.9, 0.1]] * 100, np.float32)
    page = write(predictions=Predictions(p, np.array([0] * 90 + [1] * 10)))
    assert "90.0&#8239;%" in page
    assert "± 3.0&#8239;%" in page  # √(0.9 · 0.1 / 100)
    assert "90 of 100 validation pictures" in page


def test_no_mistakes_are_not_sold_as_certainty(write):
    page = write(predictions=Predictions(np.array([[0.9, 0.1]] * 100, np.float32), np.zeros(100, np.int64)))
    assert "± 0.0" not in page
    assert "the true error rate is below 3.0&#8239;%" in page


def test_a_probability_never_rounds_to_certainty(write):
    p = np.array([[1.0, 0.0], [0.2, 0.8]], np.float32)
    page = write(predictions=Predictions(p, np.array([0, 1])))
    assert "&gt;&#8239;99.9&#8239;%" in page
    assert "</b> 100.0" not in page


def test_the_page_is_well_formed_and_loads_nothing(write):
    page = write(facts={"command": "minidl finetune"}, comparison={"from scratch": some_history(0.6)})
    for tag, attributes in parse(page):
        assert tag not in {"script", "link", "iframe"}
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in page
    assert "@import" not in page


def test_what_comes_from_strangers_is_escaped(write):
    evil = '<script>alert("x")</script>'
    paths = [f"a/{i}-<img src=x onerror=y>.jpg" for i in range(40)]
    predictions = Predictions(some_predictions().probabilities, some_predictions().targets, paths)
    page = write(
        title=evil,
        predictions=predictions,
        classes=[evil, '"><b>'],
        facts={evil: evil, "command": evil},
        name=evil,
        comparison={'"><i>': some_history()},
    )
    tags = parse(page)
    assert "script" not in {tag for tag, _ in tags}
    assert "i" not in {tag for tag, _ in tags}
    assert not any("onerror" in attributes for _, attributes in tags)
    assert "&lt;script&gt;" in page


def test_a_file_name_that_is_not_utf8_is_shown(write):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    page = write(predictions=Predictions(np.array([[0.9, 0.1]], np.float32), np.array([0]), [name]))
    assert r"caf\udce9.jpg" in page


def test_pictures_are_inline_and_of_bounded_size(write):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    page = write(predictions=some_predictions(4), picture=lambda i: Image.fromarray(noise))
    uris = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert uris
    for uri in uris:
        assert max(Image.open(io.BytesIO(base64.b64decode(uri))).size) == 200


def test_small_pictures_keep_every_pixel(write):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    page = write(predictions=some_predictions(1), picture=lambda i: noise)
    uri = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert uri is not None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(uri[1])))), noise)


def test_the_number_of_pictures_is_bounded_however_many_classes_there_are(write):
    c = 200
    page = write(predictions=some_predictions(2000, c), classes=[f"c{i}" for i in range(c)])
    assert 0 < page.count("<img") <= (2 * MOST_CLASSES + 3) * GALLERY
    assert "Most frequent confusions" in page
    assert len(page) < 1_000_000


def test_galleries_show_the_pictures_they_promise(write):
    p = np.array([[0.99, 0.01], [0.6, 0.4], [0.2, 0.8], [0.49, 0.51]], np.float32)
    page = write(predictions=Predictions(p, np.array([0, 0, 0, 1]), ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]))
    sections = {part.split("<small>")[0].strip(): part for part in page.split("<h3>")[1:]}

    def files(section):
        return re.findall(r'title="(.*?)"', sections[section])

    assert sorted(files("Right")) == ["a.jpg", "b.jpg", "d.jpg"]
    assert files("Wrong") == ["c.jpg"]
    assert files("Most confidently right: cat") == ["a.jpg", "b.jpg"]
    assert files("Most confidently wrong: taken for dog") == ["c.jpg"]
    assert files("Most confidently wrong: taken for cat") == []
    assert files("Most uncertain")[0] == "d.jpg"
    assert "None." in sections["Most confidently wrong: taken for cat"]


def test_a_picture_that_cannot_be_read_any_more_leaves_its_place_empty(write):
    def gone(i):
        raise FileNotFoundError("gone")

    page = write(picture=gone)
    assert "cannot be read" in page
    assert "<img" not in page


def test_runs_are_compared_in_one_table(write):
    page = write(
        name="fine-tuned", history=some_history(0.95), comparison={"from scratch": some_history(0.7)}
    )
    row = re.search(r"<tr><th[^>]*>from scratch</th>(.*?)</tr>", page)
    assert row is not None
    assert "70.0&#8239;%" in row[1]
    assert "fine-tuned, validation" in page
    assert page.count('<path class="curve run1') == 6  # two keys in the legend, two curves in each chart


def test_without_training_or_validation_there_is_still_a_report(write):
    assert "<h2>Learning" not in write(history=None)
    assert "<h2>Learning" not in write(history=History())
    history = History([{"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.5, "lr": 0.1, "seconds": 1.0}])
    parse(write(history=history, comparison={"other": history}))


def test_pictures_without_files_are_numbered(write):
    assert "picture 0" in write(predictions=some_predictions(1, paths=False))


def test_the_same_predictions_give_the_same_report(write):
    assert write() == write()


def test_classes_and_probabilities_must_fit(write):
    with pytest.raises(DataError, match="a report needs a name for each of the 2 classes, got 3"):
        write(classes=["a", "b", "c"])


def test_no_predictions(write):
    empty = Predictions(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="is the validation folder empty"):
        write(predictions=empty)


def test_too_many_runs(write):
    with pytest.raises(DataError, match="compares up to 4 runs, got 5"):
        write(comparison={str(i): some_history() for i in range(4)})
