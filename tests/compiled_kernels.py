"""The kernels for the GPU, compiled for this processor: what they compute can be tested without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

KINDS = {  # C++'s name for each, and that of ctypes
    "float32": ("float", ctypes.c_float),
    "uint8": ("unsigned char", ctypes.c_uint8),
    "int32": ("int", ctypes.c_int),
    "int64": ("long long", ctypes.c_longlong),
    "bool": ("bool", ctypes.c_bool),
}
RAW = """#include <cstddef>
typedef float T;
template <typename E, int ndim> struct Raw {  // what CuPy makes of a raw argument
    char* data;
    const ptrdiff_t* strides;
    E& operator[](const ptrdiff_t (&at)[ndim]) const {
        ptrdiff_t offset = 0;
        for (int axis = 0; axis < ndim; ++axis) offset += at[axis] * strides[axis];
        return *reinterpret_cast<E*>(data + offset);
    }
    E& operator[](ptrdiff_t i) const { return reinterpret_cast<E*>(data)[i]; }  // where it lies in one piece
};
"""


class CompiledNumPy:
    """NumPy, with CuPy's ElementwiseKernel. Its T is float32."""

    def __init__(self, folder):
        self.folder, self.compiler = folder, shutil.which("c++") or shutil.which("g++")
        self.functions = {}
        if self.compiler is None:
            pytest.skip("needs a C++ compiler")

    def __getattr__(self, name):
        return getattr(np, name)

    def ElementwiseKernel(self, inputs, output, body, name, preamble):
        parameters = [parameter.split() for parameter in f"{inputs}, {output}".split(",")]

        def call(*arguments, size=None):
            assert len(arguments) == len(parameters)
            shapes = [
                np.shape(a) for words, a in zip(parameters, arguments, strict=True) if words[0] != "raw"
            ]
            shape = np.broadcast_shapes(*shapes) if size is None else (size,)
            declared, made, given, outputs = [], [], [], []
            for (*kind, label), argument in zip(parameters, arguments, strict=True):
                dtype = {"T": "float32", "S": str(getattr(argument, "dtype", ""))}.get(kind[-1], kind[-1])
                c, c_type = KINDS[dtype]
                if not isinstance(argument, np.ndarray):
                    declared.append(f"{c} {label}")
                    given.append(c_type(argument))
                elif kind[0] == "raw":
                    assert argument.dtype == dtype
                    declared.append(f"char* {label}_, const ptrdiff_t* {label}__")
                    made.append(f"Raw<{c}, {argument.ndim}> {label} = {{{label}_, {label}__}};")
                    given += [argument.ctypes.data, (ctypes.c_ssize_t * argument.ndim)(*argument.strides)]
                else:
                    assert argument.dtype == dtype
                    whole = np.broadcast_to(argument, shape).copy()
                    declared.append(f"{c}* {label}_")
                    made.append(f"#define {label} {label}_[i]")
                    given.append(whole.ctypes.data)
                    outputs.append((argument, whole))
            source = [
                f"{RAW}{preamble}",
                f'extern "C" void kernel(ptrdiff_t size, {", ".join(declared)}) {{',
                *made,
                f"for (ptrdiff_t i = 0; i < size; ++i) {{ {body} }} }}",
            ]
            function = self.compiled(name, "\n".join(source))
            function(
                ctypes.c_ssize_t(int(np.prod(shape))),
                *[ctypes.c_void_p(a) if isinstance(a, int) else a for a in given],
            )
            for argument, whole in outputs:
                if argument.shape == shape:  # an input is what it was
                    argument[...] = whole
            return arguments[-1]

        return call

    def compiled(self, name, source):
        source = source.replace("#pragma unroll", "")
        if source not in self.functions:
            path = self.folder / f"{name}_{len(self.functions)}.cpp"
            path.write_text(source)
            command = [self.compiler, "-O1", "-shared", "-fPIC", "-Wall", "-Werror"]
            subprocess.run([*command, "-o", path.with_suffix(".so"), path], check=True)
            function = ctypes.CDLL(str(path.with_suffix(".so"))).kernel
            function.restype = None
            self.functions[source] = function
        return self.functions[source]
