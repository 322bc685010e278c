"""How a server and the process of its engine write to each other: lists of JSON, each after its length.

    frame:  4 bytes, the length, big-endian;  then a JSON list of messages, in UTF-8

    asked   {"ask": 7, "prompt": [5, 9], "sampling": {"temperature": 0}, "stop_ids": [2]}    {"cancel": 7}
            {"do": 8, "work": "penjing.studio.look:look_at", "with": {...}}     {"figures": 9}     {"close": true}
    told    [7, 301]                                        a token
            [7, 302, "stop", true, -0.1, [[302, -0.1]]]     one that ends its text, or has scores
            {"begun": 7, "cached": 16}     {"done": 8, "result": {...}}     {"failed": 7, "error": [class, text]}

The pipe is between a program and its own child, and yet nothing is unpickled: what is read are numbers, texts, lists
and mappings, a function is named and must be Penjing's, and so must an error's class.
"""

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any, BinaryIO

from penjing.errors import PenjingError
from penjing.inference.engine.request import Token
from penjing.inference.sampling import DEFAULT, Sampling
from penjing.inference.tools import Tool
from penjing.serving.constraints import Shape
from penjing.serving.orders import Ask, Begun, Cancel, Do, Done, Item, Order, Question, Scores

_HEAD = struct.Struct(">I")
_SETTINGS = tuple(setting.name for setting in fields(Sampling))


def frame(messages: Sequence[Any]) -> bytes:
    """Messages as they are sent."""
    content = json.dumps(messages, separators=(",", ":")).encode()
    return _HEAD.pack(len(content)) + content


def read(pipe: BinaryIO) -> list[Any] | None:
    """The next frame's messages; None: the other side has gone."""
    head = pipe.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (length,) = _HEAD.unpack(head)
    content = pipe.read(length)
    if len(content) < length:
        return None
    messages = json.loads(content)
    assert isinstance(messages, list)
    return messages


def order_to(order: Order) -> dict[str, Any]:
    """An order as JSON."""
    match order:
        case Ask(key, question):
            return {"ask": key} | _question_to(question)
        case Cancel(key):
            return {"cancel": key}
        case Do(key, work, arguments):
            return {"do": key, "work": name_of(work), "with": dict(arguments)}


def order_of(message: dict[str, Any]) -> Order:
    """The order that `order_to` wrote.

    Raises:
        ValueError: it is none.
    """
    if "ask" in message:
        return Ask(message["ask"], _question_of(message))
    if "cancel" in message:
        return Cancel(message["cancel"])
    if "do" in message:
        return Do(message["do"], named(message["work"]), message["with"])
    raise ValueError("no order")


def _question_to(question: Question) -> dict[str, Any]:
    settings = {
        name: value for name in _SETTINGS if (value := getattr(question.sampling, name)) != getattr(DEFAULT, name)
    }
    message: dict[str, Any] = {"prompt": question.prompt, "sampling": settings, "stop_ids": list(question.stop_ids)}
    if question.sample:
        message["sample"] = question.sample
    if question.prompt_logprobs:
        message["prompt_logprobs"] = True
    if (shape := question.shape) is not None:
        tools = [tool.to_dict()["function"] for tool in shape.tools]
        message["shape"] = [tools, list(shape.strict), shape.must, shape.parallel, shape.schema]
    return message


def _question_of(message: dict[str, Any]) -> Question:
    shape = None
    if "shape" in message:
        tools, strict, must, parallel, schema = message["shape"]
        shape = Shape(tuple(Tool(**tool) for tool in tools), frozenset(strict), must, parallel, schema)
    return Question(
        tuple(message["prompt"]),
        Sampling(**message["sampling"]),
        frozenset(message["stop_ids"]),
        shape,
        message.get("sample", 0),
        message.get("prompt_logprobs", False),
    )


def item_to(key: int, item: Item) -> Any:
    """What is told of a key, as JSON."""
    match item:
        case Token(logprob=None, reason=None):
            return [key, item.id]
        case Token():
            return [key, item.id, item.reason, item.is_stop, item.logprob, item.top]
        case Begun(cached, scores):
            return {"begun": key, "cached": cached} | ({} if scores is None else {"scores": scores})
        case Done(result):
            return {"done": key, "result": result}
        case _:
            return {"failed": key, "error": error_to(item)}


def item_of(message: Any) -> tuple[int, Item]:
    """What `item_to` wrote."""
    if isinstance(message, list):
        if len(message) == 2:
            return message[0], Token(0, message[1])
        key, id, reason, is_stop, logprob, top = message
        return key, Token(0, id, logprob, _pairs(top), reason, is_stop)
    if "begun" in message:
        return message["begun"], Begun(message["cached"], _scores(message.get("scores")))
    if "done" in message:
        return message["done"], Done(message["result"])
    return message["failed"], error_of(*message["error"])


def _pairs(top: Iterable[Sequence[Any]]) -> tuple[tuple[int, float], ...]:
    return tuple((id, logprob) for id, logprob in top)


def _scores(scores: Sequence[Any] | None) -> Scores | None:
    return None if scores is None else [(logprob, _pairs(top)) for logprob, top in scores]


def error_to(error: BaseException) -> list[str]:
    """An exception: of ours its class and text; of any other its class alone, for its text may quote a user."""
    if isinstance(error, PenjingError):
        return [name_of(type(error)), str(error)]
    return ["", type(error).__name__]


def error_of(name: str, text: str) -> Exception:
    """The exception that `error_to` wrote; `RuntimeError` for one that is not ours."""
    if not name:
        return RuntimeError(f"{text} in the engine's process")
    kind = named(name)
    if not (isinstance(kind, type) and issubclass(kind, PenjingError)):
        raise ValueError(f"{name} is no error of ours")
    return kind(text)


def name_of(thing: Callable[..., Any]) -> str:
    """What a function or class of Penjing's is called, so that another process finds it.

    Raises:
        ValueError: it is not at the top of a module of Penjing's.
    """
    name = f"{thing.__module__}:{thing.__qualname__}"
    if named(name) is not thing:
        raise ValueError(f"{name} is something else")
    return name


def named(name: str) -> Any:
    """The function or class of that name.

    Raises:
        ValueError: it is not at the top of a module of Penjing's.
    """
    module, _, attribute = name.partition(":")
    if not module.startswith("penjing.") or not attribute.isidentifier():
        raise ValueError(f"{name} is not at the top of a module of Penjing's")
    return getattr(import_module(module), attribute)
