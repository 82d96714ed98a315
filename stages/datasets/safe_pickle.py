"""Pickles of plain data: lists, dicts, strings and numbers, and nothing that could run."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from clip2video_pipe.stages.datasets import DatasetError

MEMO = frozenset(["PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"])
FRAMING = frozenset(["PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE"])
LISTS = frozenset(["EMPTY_LIST", "LIST", "APPEND", "APPENDS"])
DICTS = frozenset(["EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"])
STRINGS = frozenset(
    ["STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"]
)
NUMBERS = frozenset(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"])
ALLOWED = MEMO | FRAMING | LISTS | DICTS | STRINGS | NUMBERS


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("refers to something outside of it")


def load_plain(path: Path) -> Any:
    """What a pickle of lists, dicts, strings and numbers holds. Raises DatasetError; nothing in the file is run."""
    try:
        data = path.read_bytes()
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name not in ALLOWED:
                raise pickle.UnpicklingError(f"{opcode.name} at byte {position} makes something else")
            # A place in the memo may be any number, and room is made up to it.
            if opcode.name in MEMO and int(argument or 0) > len(data):
                raise pickle.UnpicklingError(f"{opcode.name} at byte {position} asks for place {argument}")
        return _Unpickler(io.BytesIO(data), encoding="utf-8").load()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a broken pickle can raise anything
        raise DatasetError(f"{path}: not a pickle of lists, dicts, strings and numbers: {error}") from error
