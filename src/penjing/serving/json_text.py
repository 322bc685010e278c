r"""What a JSON body must not have, found before anything reads it: each of these ends other readers in odd ways.

    not UTF-8                 {"a": "\xff"}
    nested too deeply         [[[[...]]]]                 parsers and validators recurse
    half a character          "\ud800"                     a string that cannot be written as UTF-8 again
    numbers that JSON lacks   NaN, Infinity               Python reads them; comparisons with them are all false

Whether it is JSON at all is its reader's to find.
"""

import json
import re

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_CONSTANTS = re.compile(rb"NaN|Infinity")


def fault_in(body: bytes, depth: int) -> str | None:
    """What is wrong with a JSON body, or None.

    Args:
        body: as it was sent.
        depth: how many brackets and braces may be open at once.

    >>> fault_in(b'[[["[[[["]]]', depth=3), fault_in(b"[[[[", depth=3)
    (None, 'it is nested more than 3 deep')
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte {error.start})"
    if body.count(b"[") + body.count(b"{") > depth and _deeper(body, depth):
        return f"it is nested more than {depth} deep"
    if _SURROGATE.search(body) or _CONSTANTS.search(body):
        return _odd_value(body)
    return None


def _deeper(body: bytes, depth: int) -> bool:
    level = 0
    for found in _STRUCTURE.finditer(body):
        mark = body[found.start()]
        if mark in b"[{":
            level += 1
            if level > depth:
                return True
        elif mark in b"]}":
            level -= 1
    return False


def _odd_value(body: bytes) -> str | None:
    try:
        value = json.loads(body, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it holds half a surrogate pair, which is no character"
    except json.JSONDecodeError:
        return None  # its reader will say where
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")
