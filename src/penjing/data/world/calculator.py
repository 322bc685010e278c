"""The calculator that answers tool calls: whole and decimal numbers, + - * / and brackets, read by recursive descent.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = "-" factor | number | "(" sum ")"

Nothing is evaluated as code, there is no power operator, and length, depth and size are bounded: a model may write
anything here.
"""

import json
from decimal import Decimal, InvalidOperation, localcontext

LONGEST = 200  # characters of an expression
DEEPEST = 20  # brackets and minus signs inside one another
LARGEST = Decimal(10) ** 15

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
_SAME = str.maketrans({"×": "*", "÷": "/", "−": "-", "（": "(", "）": ")", "＋": "+"})


def calculator(expression: str) -> str:
    """The value of an arithmetic expression as text, or a text that starts with `error:` and says why there is none.

    >>> calculator("37*48")
    '1776'
    >>> calculator("(1+2)/4")
    '0.75'
    >>> calculator("9**9**9")
    "error: expected a number, found '*'"
    """
    if len(expression) > LONGEST:
        return f"error: longer than {LONGEST} characters"
    try:
        with localcontext(prec=28):
            return _shown(_Parser(expression.translate(_SAME)).value())
    except _Refused as refusal:
        return f"error: {refusal}"


def call(expression: str) -> str:
    """The text by which a model asks for the calculator.

    >>> call("37*48")
    '<tool_call>{"name": "calculator", "arguments": {"expression": "37*48"}}</tool_call>'
    """
    request = {"name": "calculator", "arguments": {"expression": expression}}
    return CALL_OPEN + json.dumps(request, ensure_ascii=False) + CALL_CLOSE


def tool_result(reply: str) -> str | None:
    """What the calculator answers to an assistant's reply, or None when the reply is no tool call at all.

    A call that is malformed, or names another tool, is answered with an `error:` text.

    >>> tool_result(call("2*(3+4)"))
    '14'
    >>> tool_result("It is 14.") is None
    True
    """
    reply = reply.strip()
    if not reply.startswith(CALL_OPEN):
        return None
    try:
        request = json.loads(reply[len(CALL_OPEN) :].partition(CALL_CLOSE)[0])
        name, expression = request["name"], request["arguments"]["expression"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "error: the call is not of the form of a calculator call"
    if name != "calculator" or not isinstance(expression, str):
        return "error: there is only the calculator, and it takes an expression"
    return calculator(expression)


class _Refused(Exception):
    """Why an expression has no value here."""


class _Parser:
    """Recursive descent over one expression."""

    def __init__(self, text: str):
        self.text = text.replace(" ", "")
        self.at = 0

    def value(self) -> Decimal:
        result = self.sum(0)
        if self.at < len(self.text):
            raise _Refused(f"unexpected '{self.text[self.at]}'")
        return result

    def take(self, symbols: str) -> str:
        if self.at < len(self.text) and self.text[self.at] in symbols:
            self.at += 1
            return self.text[self.at - 1]
        return ""

    def sum(self, depth: int) -> Decimal:
        result = self.product(depth)
        while sign := self.take("+-"):
            other = self.product(depth)
            result = _bounded(result + other if sign == "+" else result - other)
        return result

    def product(self, depth: int) -> Decimal:
        result = self.factor(depth)
        while sign := self.take("*/"):
            other = self.factor(depth)
            if sign == "/" and not other:
                raise _Refused("division by zero")
            result = _bounded(result * other if sign == "*" else result / other)
        return result

    def factor(self, depth: int) -> Decimal:
        if depth > DEEPEST:
            raise _Refused(f"nested more than {DEEPEST} deep")
        if self.take("-"):
            return -self.factor(depth + 1)
        if self.take("("):
            result = self.sum(depth + 1)
            if not self.take(")"):
                raise _Refused("a bracket is not closed")
            return result
        return self.number()

    def number(self) -> Decimal:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in "0123456789.":
            self.at += 1
        if start == self.at:
            found = f"'{self.text[start]}'" if start < len(self.text) else "the end"
            raise _Refused(f"expected a number, found {found}")
        try:
            return _bounded(Decimal(self.text[start : self.at]))
        except InvalidOperation:
            raise _Refused(f"'{self.text[start : self.at]}' is not a number") from None


def _bounded(value: Decimal) -> Decimal:
    if abs(value) > LARGEST:
        raise _Refused("the number is too large")
    return value


def _shown(value: Decimal) -> str:
    """Whole numbers without a point; others rounded to six places without trailing zeros."""
    text = format(round(value, 6), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
