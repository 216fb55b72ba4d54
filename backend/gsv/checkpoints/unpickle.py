"""Reads a pickle as data: nothing that it names is ever imported or called.

A pickle is a program for a small stack machine. This is that machine with every dangerous part left
out: it builds plain values, descriptions of tensors (``TensorRef``) and upstream's ``HParams``
config objects as dicts. A name outside ``_CALLS`` and ``_STORAGES`` ends the reading with an error.

Why not ``torch.load(weights_only=True)``: its allow-list belongs to the whole process and would
need upstream's ``HParams`` as a real class; it has let code through before (CVE-2025-32434); it
reads neither the two-byte header of v4 LoRA files nor anything without loading all of it.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Sized
from typing import Any, BinaryIO

from gsv import errors
from gsv.errors import CheckpointError

# Largest of upstream's own: its name dictionary, 0.6 million opcodes. An opcode costs at most some
# hundred bytes besides its text, and copies of what was read before are counted by element: all
# three together bound the memory and the time.
OPCODE_LIMIT = 4_000_000
COPY_LIMIT = OPCODE_LIMIT  # elements and characters; honest files copy only what they hold once
PICKLE_LIMIT = 64 << 20  # bytes
DIMENSIONS = 8  # of a tensor, at most

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # begins torch's older form; the one number over 64 bits
# Sizes and seeds need no more. Longer ones can't be told in decimal digits, and as keys they could
# be chosen to collide.
_INTEGER_BITS = 64
_NAME_LENGTH = 300  # characters, module and all; forks' longest have some 40
_TEXT_LENGTH = 4_096  # characters of a path or a key

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StorageRef:
    """A storage by its key in the file; ``count`` elements of the torch type ``dtype``."""

    key: str
    dtype: str
    count: int


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A view of a storage, as the file describes it; nothing is checked yet."""

    storage: StorageRef
    offset: Any
    shape: Any
    stride: Any


@dataclasses.dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions: a name, never the thing."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Record(dict[str, Any]):
    """The attributes of a config object."""


@dataclasses.dataclass(frozen=True)
class Unpickled:
    """What a pickle holds, and every storage that it mentions, by key."""

    value: Any
    storages: dict[str, StorageRef]


def unpickle(stream: BinaryIO) -> Unpickled:
    """Read one pickle from the stream's position; the stream then stands right behind it.

    Raises:
        CheckpointError: the pickle names something outside the list, is damaged, or is too large.
    """
    machine = _Machine()
    return Unpickled(machine.run(stream), machine.storages)


class _Machine:
    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self.storages: dict[str, StorageRef] = {}

    def run(self, stream: BinaryIO) -> Any:
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count >= OPCODE_LIMIT:
                    raise CheckpointError(f"its pickle has over {OPCODE_LIMIT} operations; refused")
                if opcode.name == "STOP":
                    return self._stack.pop()
                if isinstance(argument, int):
                    _check_size(argument)
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise CheckpointError(f"its pickle is damaged ({brief(error)})") from error
        raise CheckpointError("its pickle is cut short")  # genops ends with STOP or raises

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        else:
            step = _STEPS.get(name)
            if step is None:
                raise CheckpointError(
                    f"its pickle uses {name}, which no weight file needs; refused"
                )
            step(self, argument)

    # Each step below does what the opcode of that name does (documented in ``pickletools``).

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()  # the mark itself is on top
        else:
            self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, size: int) -> None:
        items = self._stack[len(self._stack) - size :]
        if len(items) != size:
            raise ValueError("stack too short")
        del self._stack[len(self._stack) - size :]
        self._stack.append(tuple(items))

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError("items added to something that is not a list")
        target.extend(items)

    def _add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, set):
            raise TypeError("items added to something that is not a set")
        target.update(_key(item) for item in items)

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("pairs added to something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _dict(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._update(items)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(_checked(_Name(module, name)))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        # Never ``str`` of what a file holds: a list nested in itself has endless text.
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is not a string")
        self._stack.append(_checked(_Name(module, name)))

    def _charge(self, elements: int) -> None:
        """Count what a step copies, which may be the same large thing again and again."""
        self._copied += elements
        if self._copied > COPY_LIMIT:
            raise CheckpointError(f"its pickle copies over {COPY_LIMIT:,} elements; refused")

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is not a function")
        self._charge(len(arguments))
        self._charge(sum(len(value) for value in arguments if isinstance(value, Sized)))
        self._stack.append(_call(function, arguments))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        # A state dict carries ``_metadata`` as state: of no use here. Anything else with state
        # would be an object, and there are none.
        if isinstance(target, _Record):
            if not isinstance(state, dict):
                raise TypeError("a config object without named attributes")
            self._charge(len(state))
            target.update(state)
        elif not isinstance(target, dict):
            raise TypeError("state for something that has none")

    def _persistent(self, _: Any) -> None:
        storage = _storage(self._stack.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise CheckpointError(f"its pickle describes storage {storage.key!r} in two ways")
        self._stack.append(storage)


def _key(value: Any) -> Any:
    # Hashing a deeply nested tuple overflows the C stack, so keys are plain.
    if not isinstance(value, (str, bytes, int, float, type(None))):
        raise TypeError(f"a {type(value).__name__} as dictionary key")
    # Each lookup of an equal key compares all of it.
    if isinstance(value, (str, bytes)) and len(value) > _TEXT_LENGTH:
        raise TypeError(f"a dictionary key of {len(value):,} characters")
    return value


def _check_size(number: int) -> None:
    if number.bit_length() > _INTEGER_BITS and number != LEGACY_MAGIC:
        raise CheckpointError(
            f"its pickle has a number of {number.bit_length():,} bits; "
            f"a tensor's sizes, and all else, need {_INTEGER_BITS} at most"
        )


def _checked(name: _Name) -> _Name:
    # A long one would be taken apart again at each of its calls.
    if len(name.module) + len(name.name) <= _NAME_LENGTH and _is_allowed(name):
        return name
    raise CheckpointError(
        f"its pickle asks for {brief(name)}, which no weight file needs; refused, nothing was run"
    )


def _is_allowed(name: _Name) -> bool:
    is_storage = name.module == "torch" and name.name in _STORAGES
    return str(name) in _CALLS or is_storage or _is_config_class(name)


def _is_config_class(name: _Name) -> bool:
    # Fine-tuned files hold upstream's ``utils.HParams``; forks keep it in packages of their own.
    return name.name == "HParams" and name.module.split(".")[-1] == "utils"


def _call(function: _Name, arguments: tuple[Any, ...]) -> Any:
    if _is_config_class(function):
        return _Record()
    if str(function) not in _CALLS:
        raise TypeError(f"a call of {function}")
    return _CALLS[str(function)](*arguments)


def _storage(identity: Any) -> StorageRef:
    match identity:
        case ("storage", _Name(module="torch", name=name), str(key), _, int(count), *rest) if (
            rest in ([], [None]) and count >= 0 and len(key) <= _NAME_LENGTH
        ):
            return StorageRef(key, _STORAGES[name], count)
    raise CheckpointError("its pickle describes a storage in a way that torch never wrote")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise TypeError("a tensor without storage")
    return TensorRef(storage, offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _shape(sizes: Any) -> tuple[Any, ...]:
    if not isinstance(sizes, (list, tuple)) or len(sizes) > DIMENSIONS:
        raise TypeError("a shape that no tensor has")
    return tuple(sizes)


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise TypeError("pairs that are not a list")
    return {_key(key): value for key, value in pairs}


def _reconstruct(cls: Any, base: Any, state: Any) -> Any:
    # How protocols 0 and 1 make an object of a plain class.
    plain = base in (_Name("builtins", "object"), _Name("__builtin__", "object"))
    if not isinstance(cls, _Name) or not _is_config_class(cls) or not plain or state is not None:
        raise TypeError("an object of a kind that is not expected")
    return _call(cls, ())


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise TypeError("a path of other things than strings")
    length = sum(len(part) + 1 for part in parts)
    if length > _TEXT_LENGTH:
        raise TypeError(f"a path of {length:,} characters; at most {_TEXT_LENGTH:,} allowed")
    return "/".join(parts)  # inert: some configs hold pathlib paths


def _refuse_call(*_: Any) -> Any:
    raise TypeError("a call of object()")


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _shape,
    "copyreg._reconstructor": _reconstruct,
    "copy_reg._reconstructor": _reconstruct,
    "builtins.object": _refuse_call,
    "__builtin__.object": _refuse_call,
    "pathlib.Path": _path,
    "pathlib.PosixPath": _path,
    "pathlib.WindowsPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib.PureWindowsPath": _path,
}

_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": lambda m, _: m._stack.append(m._stack[-1]),
    "PUT": _Machine._memoize,
    "BINPUT": _Machine._memoize,
    "LONG_BINPUT": _Machine._memoize,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._recall,
    "BINGET": _Machine._recall,
    "LONG_BINGET": _Machine._recall,
    "TUPLE": lambda m, _: m._stack.append(tuple(m._pop_to_mark())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "LIST": lambda m, _: m._stack.append(m._pop_to_mark()),
    "APPEND": lambda m, _: m._extend([m._stack.pop()]),
    "APPENDS": lambda m, _: m._extend(m._pop_to_mark()),
    "DICT": _Machine._dict,
    "SETITEM": _Machine._set_item,
    "SETITEMS": lambda m, _: m._update(m._pop_to_mark()),
    "ADDITEMS": lambda m, _: m._add(m._pop_to_mark()),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}


def brief(value: object, length: int = 120) -> str:
    """What a file says, fit for one line of a message: printable and of bounded length.

    Args:
        value: a string, an error or another thing of bounded text; anything else: :func:`shown`.
        length: of the result, in characters, at most.
    """
    text = " ".join(str(value)[: 2 * length].split())
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= length else text[: length - 3] + "..."


def shown(value: object) -> str:
    """Any value of a file as :func:`brief` has it, in quotes if it is a string."""
    return brief(errors.shown(value))
