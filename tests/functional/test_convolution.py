"""Convolution: its definition, its gradients of every order, and every way to cut it into strips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl as dl
from minidl import Tensor, gradients
from minidl.backend import threads
from minidl.backend.im2col import Window
from minidl.backend.threads import get_num_threads, set_num_threads
from minidl.errors import ShapeError
from minidl.functional import conv2d, conv_transpose2d, convolution, fold, im2col_conv, strip_conv, unfold
from minidl.functional.convolution import ConvWeight

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw):
    """(x, weight, bias, options) as float64 arrays, any kernel, stride > kernel too, batches of 0 to 3."""
    groups, inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, dilation = draw(PAIRS), draw(PAIRS)
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    r = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = r.standard_normal((draw(st.integers(0, 3)), groups * inputs, *size))
    weight = r.standard_normal((groups * outputs, inputs, *kernel))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return x, weight, r.standard_normal(groups * outputs), options


def leaves(*arrays):
    return [Tensor(array, requires_grad=True) for array in arrays]


def by_definition(x, weight, bias, stride, padding, dilation, groups):
    """The sum of the docstring, one product of two pixels at a time."""
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    (n, c, _, _), (o, each, kh, kw) = x.shape, weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    oh = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    ow = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((n, o, oh, ow)) + bias[:, None, None]
    for at in np.ndindex(y.shape):
        picture, filter_, a, b = at
        first = filter_ // (o // groups) * (c // groups)
        for k, i, j in np.ndindex(each, kh, kw):
            y[at] += x[picture, first + k, a * sh + i * dh, b * sw + j * dw] * weight[filter_, k, i, j]
    return y


@settings(max_examples=25)
@given(convolutions())
def test_is_the_sum_of_its_docstring(drawn):
    x, weight, bias, options = drawn
    y = conv2d(Tensor(x), Tensor(weight), Tensor(bias), **options)
    np.testing.assert_allclose(y.numpy(), by_definition(x, weight, bias, **options), atol=1e-12)


@settings(max_examples=40)
@given(convolutions())
def test_the_three_operations_are_one_trilinear_form(drawn):
    """⟨y, x ⋆ w⟩ = ⟨x, y ⋆ᵀ w⟩ = ⟨w, x ⊛ y⟩, and so the gradients of each are the other two."""
    x, weight, _, options = drawn
    x, weight = leaves(x, weight)
    value = conv2d(x, weight, **options)
    (y,) = leaves(np.random.default_rng(0).standard_normal(value.shape))
    form = (value * y).sum()
    dx, dw, dy = dl.grad(form, [x, weight, y], create_graph=True)
    for gradient, of in ((dx, x), (dw, weight), (dy, y)):
        np.testing.assert_allclose((gradient * of).sum().item(), form.item(), atol=1e-9)
    again = dl.grad((dw * weight.detach()).sum(), [x, y], retain_graph=True)  # through ConvWeight
    np.testing.assert_allclose(again[0].numpy(), dx.numpy(), atol=1e-10)
    np.testing.assert_allclose(again[1].numpy(), dy.numpy(), atol=1e-10)
    again = dl.grad((dx * x.detach()).sum(), [weight, y])  # through ConvTranspose2d
    np.testing.assert_allclose(again[0].numpy(), dw.numpy(), atol=1e-10)
    np.testing.assert_allclose(again[1].numpy(), dy.numpy(), atol=1e-10)


@pytest.mark.parity
@settings(max_examples=40)
@given(convolutions())
def test_value_first_and_second_gradient_are_those_of_pytorch(drawn):
    torch = pytest.importorskip("torch")
    *arrays, options = drawn
    ours, theirs = leaves(*arrays), [torch.tensor(array, requires_grad=True) for array in arrays]
    y, expected = conv2d(*ours, **options), torch.nn.functional.conv2d(*theirs, **options)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), atol=1e-12)
    if not y.numel():
        return
    gradients = dl.grad((y**2).sum(), ours, create_graph=True)
    torch_gradients = torch.autograd.grad((expected**2).sum(), theirs, create_graph=True)
    for g, t in zip(gradients, torch_gradients, strict=True):
        np.testing.assert_allclose(g.numpy(), t.detach().numpy(), atol=1e-10)
    second = dl.grad((gradients[0] ** 2).sum() + (gradients[1] ** 2).sum(), ours)
    torch_form = (torch_gradients[0] ** 2).sum() + (torch_gradients[1] ** 2).sum()
    for g, t in zip(second, torch.autograd.grad(torch_form, theirs), strict=True):
        np.testing.assert_allclose(g.numpy(), t.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parity
@settings(max_examples=40)
@given(convolutions(), st.data())
def test_transposed_value_and_gradient_are_those_of_pytorch(drawn, data):
    torch = pytest.importorskip("torch")
    x, weight, _, options = drawn
    kernel, padding = weight.shape[2:], options["padding"]
    options["output_padding"] = tuple(data.draw(st.integers(0, s - 1)) for s in options["stride"])
    options["padding"] = tuple(min(p, (k - 1) // 2) for k, p in zip(kernel, padding, strict=True))
    r = np.random.default_rng(1)
    x = r.standard_normal((x.shape[0], weight.shape[0], *x.shape[2:]))
    arrays = (x, weight, r.standard_normal(weight.shape[1] * options["groups"]))
    ours, theirs = leaves(*arrays), [torch.tensor(array, requires_grad=True) for array in arrays]
    y, expected = conv_transpose2d(*ours, **options), torch.nn.functional.conv_transpose2d(*theirs, **options)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), atol=1e-12)
    if not y.numel():
        return
    gradients = dl.grad((y**2).sum(), ours)
    for g, t in zip(gradients, torch.autograd.grad((expected**2).sum(), theirs), strict=True):
        np.testing.assert_allclose(g.numpy(), t.numpy(), atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_analytic_gradients_are_numerical_ones(kernel, groups):
    r = np.random.default_rng(0)
    inputs = leaves(
        r.standard_normal((2, 4, 5, 6)), r.standard_normal((4, 4 // groups, *kernel)), r.standard_normal(4)
    )

    def f(x, weight, bias):
        return (conv2d(x, weight, bias, stride=(1, 2), padding=(1, 0), groups=groups) ** 2).sum()

    for x, gradient in zip(inputs, dl.grad(f(*inputs), inputs), strict=True):
        for at in list(np.ndindex(x.shape))[:: max(1, x.numel() // 12)]:
            h, values = 1e-5, []
            for step in (h, -h):
                x.data[at] += step
                values.append(f(*inputs).item())
                x.data[at] -= step
            assert gradient.numpy()[at] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6)


def all_three(x, weight, bias, **options):
    """y and its gradients, as arrays."""
    inputs = leaves(x, weight, bias)
    y = conv2d(*inputs, **options)
    dy = Tensor(np.cos(np.arange(y.numel(), dtype=y.dtype)).reshape(y.shape))
    return [y.numpy(), *(g.numpy() for g in dl.grad(y, inputs, dy))]


def small_network_layer(dtype="float32", pictures=5):
    r = np.random.default_rng(0)
    shapes = ((pictures, 12, 9, 10), (8, 12, 3, 3), (8,))
    return [r.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("strip_bytes", [1, 5000, 20000, 1 << 22])
@pytest.mark.parametrize("enough_places", [1, 256])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_way_to_cut_strips_gives_the_same(monkeypatch, strip_bytes, enough_places, stride):
    monkeypatch.setattr(convolution, "_chosen", "strips")
    arrays = small_network_layer("float64")
    expected = all_three(*arrays, padding=1, stride=stride)
    monkeypatch.setattr(strip_conv, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(strip_conv, "ENOUGH_PLACES", enough_places)
    for found, whole in zip(all_three(*arrays, padding=1, stride=stride), expected, strict=True):
        np.testing.assert_allclose(found, whole, atol=1e-11)


@settings(max_examples=40)
@given(convolutions())
def test_strips_give_the_numbers_of_the_plain_way(drawn):
    x, weight, bias, options = drawn
    groups = options.pop("groups")
    window = Window.of(weight.shape[2:], **options)
    y = im2col_conv.conv2d(x, weight, bias, window, groups)
    c_bias, size = np.arange(float(x.shape[1])), x.shape[2:]
    for work, arguments in (
        ("conv2d", (x, weight, bias, window, groups)),
        ("conv_transpose2d", (y, weight, c_bias, window, groups, size)),
        ("conv_weight", (x, y, window, groups)),
    ):
        found, plain = (getattr(module, work)(*arguments) for module in (strip_conv, im2col_conv))
        np.testing.assert_allclose(found, plain, atol=1e-11)


@pytest.mark.parametrize("kernel", [1, 3])
def test_more_channels_than_a_block_gives_the_numbers_of_the_plain_way(monkeypatch, kernel):
    monkeypatch.setattr(strip_conv, "ENOUGH_PLACES", 1)
    r, window = np.random.default_rng(0), Window.of(kernel, 2)
    y, weight = r.standard_normal((8, 4, 3, 2)), r.standard_normal((4, 300, kernel, kernel))
    bias, size = r.standard_normal(300), (8, 6)
    assert len(bias) > strip_conv.BLOCK_ROWS
    found, plain = (
        work.conv_transpose2d(y, weight, bias, window, 1, size) for work in (strip_conv, im2col_conv)
    )
    np.testing.assert_allclose(found, plain, atol=1e-11)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (4, 2)])
def test_results_do_not_depend_on_threads(monkeypatch, groups, stride):
    pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(convolution, "_chosen", "strips")
    monkeypatch.setattr(strip_conv, "STRIP_BYTES", 20000)
    x, weight, bias = small_network_layer(pictures=17)
    weight = weight[:, : 12 // groups]
    before, runs = get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            set_num_threads(threads)
            runs.append(all_three(x, weight, bias, stride=stride, padding=1, groups=groups))
    finally:
        set_num_threads(before)
    for run in runs[1:]:
        for found, expected in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_gradients_of_medium_maps_are_computed_at_once(monkeypatch):
    r = np.random.default_rng(0)
    arrays = [r.standard_normal(shape, np.float32) for shape in ((8, 24, 32, 32), (64, 24, 3, 3), (64,))]
    numbers_of_jobs = []

    def counted(*jobs):
        numbers_of_jobs.append(len(jobs))
        return threads.at_once(*jobs)

    def computed():
        x, weight, bias = inputs = leaves(*arrays)
        y = conv2d(x, weight, bias, padding=1)
        y.backward(Tensor(np.cos(y.numpy())))
        return [t.grad.numpy() for t in inputs]

    monkeypatch.setattr(gradients, "at_once", counted)
    results = computed()
    assert numbers_of_jobs == [3]
    monkeypatch.setattr(gradients, "MEDIUM", (0, 0))
    for at_the_same_time, one_by_one in zip(results, computed(), strict=True):
        np.testing.assert_array_equal(at_the_same_time, one_by_one)
    assert numbers_of_jobs == [3]


def test_what_is_recorded_is_not_computed_at_once(monkeypatch):
    monkeypatch.setattr(gradients, "at_once", None)
    monkeypatch.setattr(gradients, "MEDIUM", (0, 1 << 21))
    x, weight = leaves(np.ones((1, 2, 6, 6)), np.ones((3, 2, 3, 3)))
    dx, dw = dl.grad(conv2d(x, weight).sum(), (x, weight), create_graph=True)
    assert dx.requires_grad
    assert dw.requires_grad


def test_float32_stays_float32():
    for array in all_three(*small_network_layer()):
        assert array.dtype == np.float32


def test_only_what_is_asked_for_is_kept_and_computed():
    x, weight, bias = (Tensor(array) for array in small_network_layer())
    weight.requires_grad_()
    y = conv2d(x, weight, bias)
    assert [None if t is None else t.shape for t in y.grad_fn.saved[:2]] == [x.shape, None]
    y.sum().backward()
    assert x.grad is None
    assert bias.grad is None
    frozen = conv2d(x, weight.detach(), bias)
    assert frozen.grad_fn is None
    y = conv2d(Tensor(x.data, requires_grad=True), weight.detach())
    assert [None if t is None else t.shape for t in y.grad_fn.saved[:2]] == [None, weight.shape]


def test_views_with_any_strides():
    x, weight, bias = small_network_layer("float64")
    views = [
        np.ascontiguousarray(x.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1),
        np.ascontiguousarray(x[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
        np.repeat(x, 2, axis=3)[..., ::2],
    ]
    expected = all_three(x, weight, bias, stride=2, padding=1)
    for view in views:
        assert not view.flags.c_contiguous
        flipped = np.ascontiguousarray(weight[..., ::-1])[..., ::-1]
        for found, whole in zip(all_three(view, flipped, bias, stride=2, padding=1), expected, strict=True):
            np.testing.assert_allclose(found, whole, atol=1e-12)


@settings(max_examples=30)
@given(convolutions())
def test_convolution_is_a_product_with_the_unfolded_picture(drawn):
    x, weight, _, options = drawn
    if options.pop("groups") > 1:
        weight = np.repeat(weight[:, :1], x.shape[1], axis=1)
    columns = unfold(Tensor(x), weight.shape[2:], options["dilation"], options["padding"], options["stride"])
    y = conv2d(Tensor(x), Tensor(weight), **options)
    product = weight.reshape(len(weight), -1) @ columns.numpy()
    np.testing.assert_allclose(product.reshape(y.shape), y.numpy(), atol=1e-12)


@settings(max_examples=30)
@given(convolutions())
def test_fold_is_the_transpose_of_unfold(drawn):
    x, weight, _, options = drawn
    window = (weight.shape[2:], options["dilation"], options["padding"], options["stride"])
    (x,) = leaves(x)
    columns = unfold(x, *window)
    (v,) = leaves(np.random.default_rng(0).standard_normal(columns.shape))
    folded = fold(v, x.shape[2:], *window)
    np.testing.assert_allclose((columns * v).sum().item(), (x * folded).sum().item(), atol=1e-10)
    (dx,) = dl.grad(columns, [x], v, create_graph=True)
    np.testing.assert_allclose(dx.numpy(), folded.numpy(), atol=1e-12)
    np.testing.assert_allclose(
        dl.grad((dx * x.detach()).sum(), v).numpy(), unfold(x, *window).numpy(), atol=1e-12
    )


def test_weight_gradient_alone():
    x, y = np.ones((2, 1, 4, 4)), np.ones((2, 3, 2, 2))
    window = Window.of(3)
    assert ConvWeight(window, 1)(Tensor(x), Tensor(y)).numpy().tolist() == np.full((3, 1, 3, 3), 8.0).tolist()


def zeros(*shape):
    return Tensor(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: conv2d(zeros(8, 4, 224, 224), zeros(64, 3, 3, 3)),
            "expected (N, 3, H, W) for a weight of (64, 3, 3, 3), got (8, 4, 224, 224)",
        ),
        (
            lambda: conv2d(zeros(1, 4, 8, 8), zeros(4, 4, 3, 3), groups=2),
            "expected (N, 8, H, W) for a weight of (4, 4, 3, 3) in 2 groups, got (1, 4, 8, 8)",
        ),
        (
            lambda: conv2d(zeros(1, 6, 8, 8), zeros(4, 2, 3, 3), groups=3),
            "groups must divide the 4 filters of a weight of (4, 2, 3, 3), got 3",
        ),
        (
            lambda: conv2d(zeros(1, 2, 8, 8), zeros(4, 2, 3, 3), groups=0),
            "groups must divide the 4 filters of a weight of (4, 2, 3, 3), got 0",
        ),
        (
            lambda: conv2d(zeros(3, 8, 8), zeros(4, 3, 3, 3)),
            "expected pictures of (N, C, H, W), got (3, 8, 8). One picture is a batch of one: x.unsqueeze(0)",
        ),
        (lambda: conv2d(zeros(8, 8), zeros(4, 3, 3, 3)), "expected pictures of (N, C, H, W), got (8, 8)"),
        (lambda: conv2d(zeros(1, 3, 8, 8), zeros(4, 27)), "expected a weight of (O, C, KH, KW), got (4, 27)"),
        (
            lambda: conv2d(zeros(1, 3, 8, 8), zeros(4, 3, 3, 3), zeros(3)),
            "expected a bias of (4,) for a weight of (4, 3, 3, 3), got (3,)",
        ),
        (
            lambda: conv2d(zeros(1, 3, 2, 8), zeros(4, 3, 3, 3), dilation=(2, 1), padding=(1, 0)),
            "a window of 5×3 does not fit into a picture of 2×8 with padding 1×0: use a larger picture, "
            "a smaller kernel or more padding",
        ),
        (
            lambda: conv2d(zeros(64, 32, 2, 2), zeros(32, 32, 3, 3)),
            "a window of 3×3 does not fit into a picture of 2×2 with padding 0×0: use a larger picture, "
            "a smaller kernel or more padding",
        ),
        (
            lambda: conv2d(zeros(1, 3, 8, 8), zeros(4, 3, 3, 3), stride=0),
            "stride must be an integer ≥ 1 or a pair of them, got 0",
        ),
        (
            lambda: conv2d(zeros(1, 3, 8, 8), zeros(4, 3, 3, 3), padding=(1, 1, 1)),
            "padding must be an integer ≥ 0 or a pair of them, got (1, 1, 1)",
        ),
        (
            lambda: conv_transpose2d(zeros(1, 3, 8, 8), zeros(4, 3, 3, 3)),
            "expected (N, 4, H, W) for a weight of (4, 3, 3, 3), got (1, 3, 8, 8)",
        ),
        (
            lambda: conv_transpose2d(zeros(1, 4, 8, 8), zeros(4, 3, 3, 3), zeros(4)),
            "expected a bias of (3,) for a weight of (4, 3, 3, 3), got (4,)",
        ),
        (
            lambda: conv_transpose2d(zeros(1, 4, 8, 8), zeros(4, 3, 3, 3), stride=2, output_padding=2),
            "output_padding must be smaller than stride 2, got 2",
        ),
        (
            lambda: conv_transpose2d(zeros(1, 4, 1, 8), zeros(4, 3, 3, 3), padding=2),
            "a transposed convolution of (1, 4, 1, 8) with a weight of (4, 3, 3, 3) and padding 2 "
            "would be -1×6: use less padding",
        ),
        (
            lambda: conv_transpose2d(zeros(1, 4, 0, 8), zeros(4, 3, 3, 3), stride=2),
            "a transposed convolution needs pictures with pixels, got (1, 4, 0, 8)",
        ),
        (lambda: unfold(zeros(3, 8, 8), 3), "expected pictures of (N, C, H, W), got (3, 8, 8)"),
        (
            lambda: fold(zeros(1, 18, 9), (4, 5), 3),
            "expected columns of (N, C·9, 6) for a window of 9 pixels at 2×3 places of a picture of 4×5, "
            "got (1, 18, 9)",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ShapeError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(("batch", "size"), [(1, 16), (3, 16), (40, 4), (9, 12)])
def test_a_window_of_one_pixel_is_a_matrix_product(batch, size):
    rng = np.random.default_rng(0)
    x, weight, bias = (
        rng.normal(size=shape).astype("float32") for shape in ((batch, 5, size, size), (7, 5, 1, 1), (7,))
    )
    y = conv2d(Tensor(x), Tensor(weight), Tensor(bias)).numpy()
    expected = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x) + bias[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["im2col", "strips", "rows", "winograd"])
@pytest.mark.parametrize("pictures", [1, 3])
def test_relu_in_the_same_pass(monkeypatch, algorithm, pictures):
    rng = np.random.default_rng(0)
    shapes = [(pictures, 4, 9, 6), (5, 4, 3, 3), (5,)]
    x, weight, bias = (Tensor(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes)
    monkeypatch.setattr(convolution, "_chosen", algorithm)
    one_pass = conv2d(x, weight, bias, padding=1, relu=True)
    two = conv2d(x, weight, bias, padding=1).relu()
    np.testing.assert_array_equal(one_pass.numpy(), two.numpy())
    assert 0 < np.count_nonzero(two.numpy()) < two.numpy().size
