"""Keys and values of a GGUF header, and the cursor that reads it.

Unusual: arrays are not decoded. The tokenizer of a language model is 300,000 strings; they are
passed over in one loop over their lengths, and `decode_array` reads them when they are asked for.
Every length is compared with a limit and with what is left of the file before it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from ...errors import InkstoneError
from .safetensors_header import MAX_NAME, show

MAX_HEADER = 32 * 2**20  # bytes; that of a language model with its tokenizer has 6 MB
MAX_TEXT = 8 * 2**20  # bytes of all names, keys and values that are kept
MAX_VALUE = 2**20  # bytes of one value; a chat template has 3 KB
MAX_ELEMENTS = 16 * 2**20  # of all arrays together
FIRST = 2**20  # bytes that are read first; doubled where the header is longer
CUT = "The download is not complete: download it again"

STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "B",
    10: "Q",
    11: "q",
    12: "d",
}
WHOLE = (0, 1, 2, 3, 4, 5, 10, 11)  # those that are whole numbers
_STRUCTS = {kind: Struct("<" + letter) for kind, letter in NUMBERS.items()}
_LENGTH = _STRUCTS[10]


@dataclass(frozen=True)
class Array:
    """Where the elements of an array are in the file."""

    kind: int
    count: int
    begin: int
    end: int


# fetch(view, offset): fills `view` with the bytes of the file from `offset`
Fetch = Callable[[memoryview, int], None]


class Cursor:
    """A place in a file of `size` bytes whose beginning is read as far as it is asked for."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._fetch, self.size = fetch, size
        self.buffer, self.at, self.text = bytearray(), 0, 0

    def need(self, count: int, what: str) -> None:
        """Makes sure that `count` bytes from here are in the buffer."""
        end = self.at + count
        if end <= len(self.buffer):
            return
        if end > self.size:
            raise InkstoneError(
                f"it ends inside its header: {what} needs {end} bytes, the file has {self.size}. "
                f"{CUT}"
            )
        if end > MAX_HEADER:
            raise InkstoneError(f"the header is longer than {MAX_HEADER >> 20} MiB (at {what})")
        have = len(self.buffer)
        grown = bytearray(min(self.size, MAX_HEADER, max(FIRST, 2 * have, end)))
        grown[:have] = self.buffer
        self._fetch(memoryview(grown)[have:], have)
        self.buffer = grown

    def number(self, kind: int, what: str) -> int | float:
        form = _STRUCTS[kind]
        self.need(form.size, what)
        value = form.unpack_from(self.buffer, self.at)[0]
        self.at += form.size
        return value

    def string(self, most: int, what: str) -> str:
        count = self.number(10, what)
        if count > most:
            raise InkstoneError(f"{what} has {count} bytes, at most {most} are allowed")
        self.text += count
        if self.text > MAX_TEXT:
            most = MAX_TEXT >> 20
            raise InkstoneError(f"names and values have more than {most} MiB (at {what})")
        self.need(count, what)
        try:
            value = self.buffer[self.at : self.at + count].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InkstoneError(f"{what} is not UTF-8 (byte {self.at + error.start})") from None
        self.at += count
        return value

    def name(self, what: str) -> str:
        found = self.string(MAX_NAME, what)
        if not found or not found.isprintable():
            raise InkstoneError(f"{what} is {show(found)}, expected printable text")
        return found

    def skip_strings(self, count: int, what: str) -> None:
        """Over the strings of an array: only their lengths are looked at."""
        at, buffer, unpack = self.at, self.buffer, _LENGTH.unpack_from
        for _ in range(count):
            if at + 8 > len(buffer):
                self.at = at
                self.need(8, what)
                buffer = self.buffer
            at += 8 + unpack(buffer, at)[0]
        self.at = at
        self.need(0, what)


def _array(cursor: Cursor, key: str, elements: int) -> Array:
    """Passes over one array; `elements` are left of the limit for all."""
    what = f"the array {show(key)}"
    kind, count = cursor.number(4, what), cursor.number(10, what)
    if kind != STRING and kind not in NUMBERS:
        word = "arrays inside" if kind == ARRAY else f"elements of the unknown type {kind}"
        raise InkstoneError(f"{what} has {word}, which no such file needs")
    least = 8 if kind == STRING else _STRUCTS[kind].size
    if count * least > cursor.size - cursor.at:
        raise InkstoneError(
            f"{what} should have {count} elements, which need more than the {cursor.size} bytes "
            f"of the file. {CUT}"
        )
    if count > elements:
        raise InkstoneError(f"{what} makes more than {MAX_ELEMENTS} elements in all arrays")
    begin = cursor.at
    if kind == STRING:
        cursor.skip_strings(count, what)
    else:
        cursor.need(count * least, what)
        cursor.at += count * least
    return Array(kind, count, begin, cursor.at)


def _scalar(cursor: Cursor, kind: int, key: str) -> str:
    what = f"the value of {show(key)}"
    if kind == STRING:
        return cursor.string(MAX_VALUE, what)
    if kind not in NUMBERS:
        raise InkstoneError(f"{what} has the unknown type {kind}")
    value = cursor.number(kind, what)
    if kind == BOOL:
        if value > 1:
            raise InkstoneError(f"{what} should be true or false (1 or 0), got {value}")
        return "true" if value else "false"
    return repr(value)


def read_values(
    cursor: Cursor, count: int, until: str = ""
) -> tuple[dict[str, str], dict[str, Array]]:
    """(values as text, arrays) of all keys, or as far as the key `until`."""
    values: dict[str, str] = {}
    arrays: dict[str, Array] = {}
    elements = MAX_ELEMENTS
    for number in range(count):
        key = cursor.name(f"key {number + 1} of {count}")
        if key in values or key in arrays:
            raise InkstoneError(f"the key {show(key)} occurs twice")
        kind = cursor.number(4, f"the type of {show(key)}")
        if kind == ARRAY:
            arrays[key] = array = _array(cursor, key, elements)
            elements -= array.count
        else:
            values[key] = _scalar(cursor, kind, key)
        if key == until:
            break
    return values, arrays


def decode_array(array: Array, data: bytes | bytearray) -> list:
    """The elements of an array from its bytes."""
    if array.kind != STRING:
        values = Struct(f"<{array.count}{NUMBERS[array.kind]}").unpack(data)
        return list(map(bool, values)) if array.kind == BOOL else list(values)
    found, at = [], 0
    for number in range(array.count):
        end = at + 8 + _LENGTH.unpack_from(data, at)[0]
        try:
            found.append(str(data[at + 8 : end], "utf-8"))
        except UnicodeDecodeError:
            raise InkstoneError(f"element {number} is not UTF-8") from None
        at = end
    return found


ZERO_COND_MARK = "__index_timestep_zero__"  # Comfy single files of Edit-2511 carry this key


ARCHITECTURE = "general.architecture"
