"""Reads the pickles inside PyTorch's files without unpickling them.

A pickle is a program for a small stack machine, and Python's own machine lets the program import and call
anything. This one knows only the instructions that a state dict needs, builds only numbers, strings, lists,
tuples and dicts, and calls only the functions that its caller hands in. Anything else is refused by name.

The instructions are those of protocol 2, as described in Python's `pickletools` module.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from minidl.errors import WeightsError

MAX_PROGRAM = 1 << 20
"""Longest pickle that is read, in bytes; one that names a thousand tensors takes about 150 kB. Every byte may
make one small object, so this bounds the memory too."""


@dataclass(frozen=True)
class Global:
    """What a pickle may import. `call` is run when the pickle calls it; None if it is only a name."""

    name: str
    call: Callable[..., Any] | None = None


def read_pickle(
    file: IO[bytes], allowed: Mapping[str, Global], persistent_load: Callable[[Any], Any] | None = None
) -> Any:
    """Run one pickle from where `file` stands to its STOP, and return what it builds.

    Args:
        file: left just behind the STOP.
        allowed: what may be imported, by "module.name".
        persistent_load: turns a persistent id (PyTorch's reference to a storage) into an object.

    Raises:
        WeightsError: an instruction or a name that is not allowed, or a damaged or overlong program.
    """
    machine = _Machine(file, allowed, persistent_load)
    try:
        while not machine.step():
            pass
        (result,) = machine.stack
    except WeightsError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error):
        # An empty stack, a memo entry never written, a call with the wrong arguments, a broken string.
        raise _damaged() from None
    return result


class _Machine:
    """The stack machine. A MARK opens a new stack; the instruction that closes it takes all its items."""

    def __init__(
        self, file: IO[bytes], allowed: Mapping[str, Global], persistent_load: Callable[[Any], Any] | None
    ) -> None:
        self.file = file
        self.allowed = allowed
        self.persistent_load = persistent_load
        self.unread = MAX_PROGRAM
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self) -> bool:
        """Run one instruction; True if it was STOP."""
        push, pop = self.stack.append, self.stack.pop
        match opcode := self.read(1):
            case b"\x80":  # PROTO
                if self.number("<B") > 2:
                    raise WeightsError("its pickle has a newer protocol than 2, which torch.save writes.")
            case b".":  # STOP
                return True

            case b"N":  # NONE
                push(None)
            case b"\x88":  # NEWTRUE
                push(True)
            case b"\x89":  # NEWFALSE
                push(False)
            case b"K":  # BININT1
                push(self.number("<B"))
            case b"M":  # BININT2
                push(self.number("<H"))
            case b"J":  # BININT
                push(self.number("<i"))
            case b"\x8a":  # LONG1
                push(int.from_bytes(self.read(self.number("<B")), "little", signed=True))
            case b"G":  # BINFLOAT
                push(self.number(">d"))
            case b"X":  # BINUNICODE
                push(self.read(self.number("<I")).decode())
            case b"U":  # SHORT_BINSTRING, a string of Python 2
                push(self.read(self.number("<B")).decode())
            case b"T":  # BINSTRING, a long one
                push(self.read(self.number("<I")).decode())

            case b"(":  # MARK
                self.outer.append(self.stack)
                self.stack = []
            case b")":  # EMPTY_TUPLE
                push(())
            case b"\x85":  # TUPLE1
                push((pop(),))
            case b"\x86":  # TUPLE2
                b, a = pop(), pop()
                push((a, b))
            case b"\x87":  # TUPLE3
                c, b, a = pop(), pop(), pop()
                push((a, b, c))
            case b"t":  # TUPLE
                items = self.since_mark()
                self.stack.append(tuple(items))
            case b"]":  # EMPTY_LIST
                push([])
            case b"a":  # APPEND
                item = pop()
                self.extend([item])
            case b"e":  # APPENDS
                self.extend(self.since_mark())
            case b"}":  # EMPTY_DICT
                push({})
            case b"s":  # SETITEM
                value, key = pop(), pop()
                self.update([key, value])
            case b"u":  # SETITEMS
                self.update(self.since_mark())

            case b"q":  # BINPUT
                self.memo[self.number("<B")] = self.stack[-1]
            case b"r":  # LONG_BINPUT
                self.memo[self.number("<I")] = self.stack[-1]
            case b"h":  # BINGET
                push(self.memo[self.number("<B")])
            case b"j":  # LONG_BINGET
                push(self.memo[self.number("<I")])

            case b"c":  # GLOBAL
                push(self.find_global(f"{self.line()}.{self.line()}"))
            case b"R":  # REDUCE
                arguments, function = pop(), pop()
                push(self.call(function, arguments))
            case b"b":  # BUILD: attributes of an object, such as a state dict's _metadata. Not needed.
                pop()
            case b"Q":  # BINPERSID
                if self.persistent_load is None:
                    raise _damaged()
                push(self.persistent_load(pop()))
            case _:
                raise WeightsError(f"its pickle has the instruction {opcode!r}, which no state dict needs.")
        return False

    def spend(self, size: int) -> None:
        """Take `size` off what may be read."""
        self.unread -= size
        if self.unread < 0:
            raise WeightsError(f"its pickle is longer than {MAX_PROGRAM:,} bytes, which no state dict needs.")

    def read(self, size: int) -> bytes:
        self.spend(size)
        data = self.file.read(size)
        if len(data) < size:
            raise _damaged()
        return data

    def number(self, format: str) -> Any:
        return struct.unpack(format, self.read(struct.calcsize(format)))[0]

    def line(self) -> str:
        characters = bytearray()
        while (character := self.read(1)) != b"\n":
            characters += character
        return characters.decode("ascii")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _damaged()
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        keys, values = items[::2], items[1::2]
        # Only plain keys: the hash of a deeply nested tuple would overflow the C stack.
        if not isinstance(target, dict) or not all(isinstance(key, str | int) for key in keys):
            raise _damaged()
        target.update(zip(keys, values, strict=True))

    def find_global(self, name: str) -> Global:
        if name not in self.allowed:
            raise WeightsError(
                f"its pickle asks for {name[:100]!r}, which a state dict of float32 arrays does not need, so "
                "it was not read. Save the state dict alone: torch.save(model.float().state_dict(), path)."
            )
        return self.allowed[name]

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
            raise _damaged()
        # A long list may be handed over again and again, and something of its size be made of it each time.
        self.spend(sum(len(argument) for argument in arguments if hasattr(argument, "__len__")))
        return function.call(*arguments)


def _damaged() -> WeightsError:
    return WeightsError("its pickle is damaged. Download or save the file again.")


__all__ = ["MAX_PROGRAM", "Global", "read_pickle"]
