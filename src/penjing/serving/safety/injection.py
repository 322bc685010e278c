"""Instructions where there should be none: text from tools, pages and files that speaks to the model.

What a tool returns is data. When it says "ignore all previous instructions", somebody hopes that the model does not
know the difference. No list of phrases is complete, and none is needed to be: each sign has a weight, the chance that
a text with it, found in data, is meant for the model, and signs add up as independent chances do:

    score = 1 - prod over the signs found of (1 - weight)

    override      ignore, forget, disregard what came before; new instructions          0.5 to 0.75
    role          you are now ..., act as, pretend; developer or system mode            0.4 to 0.6
    forged turn   <|im_start|>, [INST], "System:" at a line's start                     0.7 / 0.35
    secrets       reveal, print, repeat your system prompt, key or password             0.5
    carry out     send, post or attach what was said to an address; picture with data   0.5 / 0.6
    secrecy       do not tell the user                                                  0.5
    to the model  "AI assistant", "language model", "as the assistant" as addressee     0.35
    command       print the following: ...; when asked ...; always answer ...           0.3
    coded         sentences in base 64, hexadecimal or bits; what they say counts too   0.5
    hidden        tag characters (nothing else writes so), many zero-width ones         0.95 / 0.4

All in English and in Chinese. A page *about* prompt injection has these signs too: the score says how much a text looks
like one, and a policy says what follows. Rules stop the lazy attacks only; a tool's rights are what stops the others.

Sources: Greshake et al., "Not what you've signed up for", 2023, arXiv:2302.12173 (indirect injection); Perez and
Ribeiro, "Ignore Previous Prompt", 2022, arXiv:2211.09527 (kinds of attacks).
"""

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from penjing.serving.safety.findings import Finding
from penjing.serving.safety.normalise import hidden, invisible, plain

_MANY_UNSEEN = 8


@dataclass(frozen=True)
class _Sign:
    name: str
    weight: float
    pattern: str


_OBJECT = (
    r"(?:instructions?|directions?|directives?|prompts?|rules?|guidelines?|commands?|context|messages?|text|orders?"
    r"|conversations?|tasks?|(?:programming|training)|everything|anything|whatever)"
)
_EARLIER = r"(?:previous|prior|preceding|above|earlier|past|foregoing|existing|initial|original|other|former|system)"
_SECRET = (
    r"(?:system (?:prompt|message)|(?:initial|hidden|secret|original|your) (?:prompt|instructions?|rules)"
    r"|(?:secret|api|access|private) ?(?:key|code|token)s?|passwords?|credentials?|confidential \w+)"
)
_SAY = r"(?:state|say|print|output|write|respond|reply|answer|declare|report|claim|tell)"
_SIGNS = tuple(
    (_Sign(name, weight, pattern), re.compile(pattern, re.MULTILINE))
    for name, weight, pattern in (
        (
            "override",
            0.75,
            rf"\b(?:ignore|forget|disregard|override|overrule|bypass|drop|neglect|skip|cancel)\b[^.\n]{{0,24}}?"
            rf"\b(?:{_EARLIER}\b[^.\n]{{0,16}}?\b{_OBJECT}"
            r"|(?:all|any|every|everything|anything|whatever)\b[^.\n]{0,24}?"
            rf"\b(?:{_EARLIER}|before|told|said|given|learned)"
            r"|your (?:instructions?|rules?|guidelines?|training|prompt))\b",
        ),
        (
            "override",
            0.7,
            rf"\bignore (?:the|this|that|my|these|all) [^.\n]{{1,40}}?(?:,| and| but) (?:just |only )?{_SAY}\b",
        ),
        ("override", 0.5, r"\b(?:new|updated|revised|real|actual) (?:instructions?|task|system prompt|orders?) ?[:：]"),
        ("override", 0.5, r"\bforget (?:everything|all|what you|anything)\b|\blisten to my instructions\b"),
        (
            "override",
            0.75,
            r"(?:忽略|无视|忘记|忘掉|不要理会|跳过|抛开)[^。\n]{0,10}(?:之前|以前|以上|上面|先前|前面|此前|所有|全部|原来|系统)"
            r"[^。\n]{0,6}(?:指令|指示|命令|要求|提示|规则|设定|内容|对话|话)",
        ),
        (
            "override",
            0.5,
            r"(?:新的|最新|真正的?|实际)(?:指令|指示|任务|要求)(?:是|如下)?[:：]|停止(?:执行)?(?:之前|原来)的",
        ),
        (
            "override",
            0.7,
            r"\b(?:olvida|ignora|ignore|ignorez|oubliez|vergiss|vergessen sie|ignorier\w*|esqueça|dimentica)\b"
            r"[^.\n]{0,40}\b(?:instruc\w+|instruções|istruzioni|consignes|anweisung\w*|página|texto|page web)",
        ),
        (
            "role",
            0.4,
            r"\byou are (?:now|no longer|going to be)\b|\bpretend (?:to be|that you|you)\b|\bfrom now on,? you\b",
        ),
        (
            "role",
            0.6,
            r"\b(?:developer|debug|system|admin|god|dan|jailbreak|maintenance|root|unrestricted|override)[ -]mode\b",
        ),
        (
            "role",
            0.6,
            r"\b(?:entering|enter|enable|enabling|activate|switch to)\b[^.\n]{0,32}\bmode\b[^.\n]{0,8}[>\]:]",
        ),
        (
            "role",
            0.4,
            r"\b(?:act|behave|respond|roleplay|role-play) as (?:if you|though you|an? (?:unrestricted|evil|ai))\b",
        ),
        ("role", 0.5, r"你现在是|从现在(?:开始|起)[,，]?你|假装你|(?:开发者|管理员|调试|越狱|无限制)模式"),
        (
            "forged turn",
            0.7,
            r"<\|(?:im_start|im_end|system|user|assistant|end|eot_id|start_header_id)\|>|\[/?inst\]|<<sys>>",
        ),
        (
            "forged turn",
            0.35,
            r"^[ \t#*>\[(<-]{0,6}(?:system|assistant|admin|系统|助手)[ \t]*"
            r"(?:message|note|消息|提示)?[\])*>]{0,3}[:：]",
        ),
        (
            "secrets",
            0.5,
            r"\b(?:reveal|print|show|repeat|output|display|leak|disclose|give me|tell me|spell|what is)\b"
            rf"[^.\n]{{0,32}}?\b{_SECRET}",
        ),
        (
            "secrets",
            0.5,
            r"(?:输出|打印|显示|告诉我?|泄露|透露|重复|复述)[^。\n]{0,12}(?:系统提示|提示词|初始指令|密钥|密码|口令|机密)",
        ),
        (
            "carry out",
            0.5,
            r"\b(?:send|post|forward|upload|email|exfiltrate|transmit)\b[^.\n]{0,60}?"
            r"(?:\bto https?://|\bto [\w.+-]+@[\w-]+\.)",
        ),
        ("carry out", 0.5, r"(?:发送|转发|上传|提交)[^。\n]{0,20}(?:到|至|给)[^。\n]{0,6}(?:https?://|[\w.+-]+@)"),
        (
            "carry out",
            0.6,
            r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{1,200}[?&][\w-]{1,40}="
            r"(?:[{<\[%]|[^)\s]{0,20}\b(?:data|secret|chat|prompt)\b)",
        ),
        (
            "secrecy",
            0.5,
            r"\b(?:do not|don't|never|without) (?:tell|telling|mention\w*|inform\w*|alert\w*) [^.\n]{0,24}\buser",
        ),
        ("secrecy", 0.5, r"(?:不要|别|切勿)(?:告诉|告知|提醒|让)[^。\n]{0,4}用户"),
        (
            "to the model",
            0.35,
            r"\b(?:ai|language model|llm|chatbot|chatgpt|assistant)s?[,:] "
            r"(?:please|you|do|ignore|now|note|always|never|must)\b|\bto the (?:ai|assistant|model) reading this\b",
        ),
        ("to the model", 0.35, r"(?:人工智能|语言模型|大模型|AI|ai)(?:助手|模型)?[,，:：]? ?(?:请|你|必须|不要|务必)"),
        (
            "command",
            0.35,
            rf"\b{_SAY} the following ?[:：]|\b(?:we|you) (?:might|must|should|could) (?:state|say) ?[:：]",
        ),
        (
            "command",
            0.3,
            r"\bwhen(?:ever)? (?:asked|you are asked|someone asks|the user asks)\b"
            r"|\balways (?:answer|respond|reply|say)\b",
        ),
        ("command", 0.3, r"(?:如果|当)(?:有人|用户)(?:问|询问)|(?:只能|一律)(?:回答|回复|输出|推荐)"),
    )
)
_CODED = re.compile(
    r"(?<![\w+/=])(?:(?P<hex>(?:[0-9a-f]{2}){12,4096})|(?P<bits>[01]{8}(?: [01]{8}){7,2048})"
    r"|(?P<base>(?:[A-Za-z0-9+/]{4}){6,4096}[A-Za-z0-9+/]{0,3}={0,2}))(?![\w+/])"
)
_PROSE = re.compile(r"[A-Za-z]{2,}(?:[ ,.'-]+[A-Za-z]+){3,}|[\u4e00-\u9fff]{6,}")


def decoded(text: str) -> Iterator[tuple[int, int, str]]:
    """Stretches in base 64, hexadecimal or bits that spell sentences, and what they spell."""
    for found in _CODED.finditer(text):
        raw = b""
        with suppress(ValueError):
            if found["hex"]:
                raw = bytes.fromhex(found["hex"])
            elif found["bits"]:
                raw = bytes(int(byte, 2) for byte in found["bits"].split())
            else:
                whole = found["base"].rstrip("=")
                whole = whole[: -1 if len(whole) % 4 == 1 else None]  # no whole byte is in a single character more
                raw = base64.b64decode(whole + "=" * (-len(whole) % 4))
        spelled = raw.decode("utf-8", "ignore")
        if _PROSE.search(spelled) and sum(c.isprintable() for c in spelled) > 0.9 * len(spelled):
            yield found.start(), found.end(), spelled


@dataclass(frozen=True)
class Suspicion:
    """How much a text looks as if it spoke to the model."""

    score: float
    """From 0 to 1."""
    signs: tuple[str, ...]
    """Which signs there are, the heaviest first."""
    findings: tuple[Finding, ...]
    """Where they are, of kind "INSTRUCTION"."""


def suspicion(text: str) -> Suspicion:
    """How much a text looks as if it spoke to the model; each sign's name counts once, by its heaviest."""
    weights: dict[str, float] = {}
    places: list[Finding] = []
    for name, weight, finding in _signs(text):
        weights[name] = max(weights.get(name, 0.0), weight)
        places.append(finding)
    rest = 1.0
    for weight in weights.values():
        rest *= 1 - weight
    return Suspicion(1 - rest, tuple(sorted(weights, key=lambda name: -weights[name])), tuple(places))


def _signs(text: str) -> Iterator[tuple[str, float, Finding]]:
    spelled = plain(text)
    for sign, pattern in _SIGNS:
        for found in pattern.finditer(spelled.text):
            yield sign.name, sign.weight, Finding("INSTRUCTION", *spelled.span(*found.span()), sign.name)
    for start, end, inner in decoded(text):
        yield "coded", 0.5, Finding("INSTRUCTION", start, end, "coded")
        for sign, pattern in _SIGNS:
            if pattern.search(inner.lower()):
                yield sign.name, sign.weight, Finding("INSTRUCTION", start, end, sign.name)
    unseen = invisible(text)
    if hidden(text):
        yield "hidden", 0.95, Finding("INSTRUCTION", unseen[0][0], unseen[-1][1], "hidden")
        for name, weight, _ in _signs(hidden(text)):
            yield name, weight, Finding("INSTRUCTION", unseen[0][0], unseen[-1][1], name)
    elif len(unseen) >= _MANY_UNSEEN:
        yield "hidden", 0.4, Finding("INSTRUCTION", unseen[0][0], unseen[-1][1], "hidden")
