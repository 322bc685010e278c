"""Someone who may hurt themselves, and what they are answered: help, in their language.

Found are sentences in which a person says of themselves that they want to die, end their life or hurt themselves. Not
found, as far as rules can tell: figures of speech (this homework is killing me, 笑死我了), talk about others or about
the topic (statistics, prevention, a novel), and what is negated (I do not want to die). What the classifier calls
self-harm with confidence is answered in the same way; see `policy`.

The numbers in the answers are those of national services, checked by their names; they change rarely, and a policy can
replace the texts (`[self_harm] help_en`, `help_zh`).

Sources: World Health Organization, "Preventing suicide: a resource for media professionals", 2023 (say that there is
help, where it is, and nothing of methods); 988 Suicide & Crisis Lifeline (USA); 统一心理援助热线 12356, National Health
Commission of China, from 2025; Samaritans 116 123 (UK and Ireland); befrienders.org for other countries.
"""

import re
from collections.abc import Iterator

from penjing.serving.safety.findings import Finding
from penjing.serving.safety.normalise import plain

HELP = {
    "en": (
        "It sounds as if you are going through something very painful, and I am glad that you said it. I am a computer "
        "program and cannot help the way a person can, but there are people who want to listen, right now and at no "
        "cost. If you might act on these thoughts, please call your local emergency number (112, 911 or 999) or go to "
        "the nearest emergency room.\n\n"
        "- United States and Canada: call or text 988, day and night\n"
        "- United Kingdom and Ireland: Samaritans, call 116 123\n"
        "- Other countries: https://befrienders.org lists helplines by country\n\n"
        "If you can, tell someone near you how you feel, and do not stay alone. You deserve help, and it does get "
        "better for most people who find it."
    ),
    "zh": (
        "听起来你正经历着非常痛苦的事，谢谢你说出来。我只是一个程序，不能像人一样帮助你，但此刻有人愿意倾听，而且不收费。"
        "如果你觉得自己可能会伤害自己，请立即拨打 120 或 110，或者去最近的医院急诊。\n\n"
        "- 中国大陆：全国统一心理援助热线 12356\n"
        "- 香港：撒玛利亚防止自杀会 2389 2222\n"
        "- 台湾：安心专线 1925\n"
        "- 其他地区：https://befrienders.org 列有各国热线\n\n"
        "如果可以，请把你的感受告诉身边信任的人，不要一个人待着。你值得被帮助，很多走过这一步的人后来都好起来了。"
    ),
}
"""What a person is answered, by language."""

_SELF = r"(?:myself|my (?:own )?(?:life|wrists?|arms?|body|throat))"
_ENGLISH = re.compile(
    r"\b(?:"
    rf"(?:kill|killing|hurt|hurting|harm|harming|hang|hanging|cut|cutting|slic(?:e|ing)|drown|shoot|poison|end|ending"
    rf"|burn|burning|starv(?:e|ing)) {_SELF}"
    r"|(?:i (?:just |really |only |still )?(?:want|wanna|need|wish|plan|intend|long|am going|am ready|'m going"
    r"|'m ready|m going) ?(?:to )?(?:just )?(?:die|be dead|end it all|disappear forever|never wake up|not wake up"
    r"|commit suicide|jump off|overdose|take my (?:own )?life|stop existing|not exist|i was dead|i were dead))"
    r"|i wish (?:that )?i (?:was|were|had been) (?:dead|never born)"
    r"|(?:i (?:am|was|feel|have been|keep)|i'm|im|i've been|feeling) (?:so |very |really |still )?"
    r"suicidal"
    r"|(?:i (?:am|have been|keep|was)|i'm|im|i've been) (?:thinking|fantasizing|dreaming) (?:about|of) (?:suicide|dying"
    r"|death|ending (?:it|things|my life)|killing myself)"
    r"|(?:tired of|sick of|done with|no (?:point|reason) (?:in|to)|can'?t go on|don'?t want to (?:go on|keep)"
    r"|not worth) (?:living|liv(?:e|ing) any ?more|life any ?more|being alive)"
    r"|(?:i )?(?:don'?t|do not) want to (?:live|be alive|exist|be here)(?: any ?more| any longer)?"
    r"|better off (?:dead|without me)|(?:my )?suicide (?:note|plan)|self[- ]?harm(?:ed|ing)?|i (?:cut|cuts) myself"
    r")\b"
)
_CHINESE = re.compile(
    r"(?:我|好|真的|只|就|很|越来越|总|一直)[^。，,!！?？\n]{0,8}?(?:想死(?!你|我|了你)|不想活|想自杀|要自杀|去自杀|活不下去|想轻生|寻短见"
    r"|自残|割腕|不想再活|想结束(?:自己的)?(?:生命|一切)|想跳楼|想跳下去|结束我的生命|想了结自己|伤害自己|活着没(?:有)?意思)"
    r"|(?:不如|还是)死了(?:算了|好)|活着(?:真的?|好|太)?(?:没意思|没意义|没有意义|没有意思|累|痛苦)"
    r"|遗书(?:写好|都写)"
)
_ABOUT_OTHERS = re.compile(
    r"\b(?:prevent\w*|statistics|rates? of|novel|character|story|movie|film|article|research|study|definition|what is"
    r"|how (?:can|do) (?:i|we) help|a friend|my (?:friend|brother|sister|son|daughter|student|partner)|someone who"
    r"|people who|if someone|would never|never wanted)\b"
    r"|预防|统计|小说|角色|电影|论文|研究|朋友|同学|有人|如何帮助|怎么帮|别人|笑死|的定义"
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|n'?t|no longer) (?:\w+ ){0,3}|(?:不会|没有?|从未|不再|并不|从没|不是)[^。，,]{0,3})$"
)
_REACH = 60


def find_self_harm(text: str) -> Iterator[Finding]:
    """Where a person says that they want to die or hurt themselves, of kind "SELF-HARM"."""
    spelled = plain(text)
    for pattern in (_ENGLISH, _CHINESE):
        for found in pattern.finditer(spelled.text):
            before = _clause(spelled.text, found.start())
            around = before + spelled.text[found.start() : found.end() + _REACH].split("\n")[0]
            if not _ABOUT_OTHERS.search(around) and not _NEGATED.search(before):
                yield Finding("SELF-HARM", *spelled.span(*found.span()), "says it of themselves")


def _clause(text: str, place: int) -> str:
    """What stands before a place in its own sentence, as far as `_REACH` goes."""
    return re.split(r"[.!?。！？\n]", text[max(0, place - _REACH) : place])[-1]
