"""Following instructions exactly: three things of a kind, a sentence with given words, one word, a replaced word.

Two kinds are open: any answer that obeys the rule is right (other animals than the canonical ones; another sentence).
"""

import re

from penjing.data.world.items import Item, Skill, is_accepted, normalise
from penjing.data.world.lexicon import Category, Thing
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import BUY, FIND, HAVE, LIKE, SEE, TAKE, WANT, Clause, Phrase, Several
from penjing.data.world.vocabulary import Vocabulary, vocabulary

SKILL = Skill(
    "instructions",
    False,
    "Exact instructions: name three animals, use two words, repeat, replace, one word only.",
    0.11,
)

_PARTS = re.compile(r"\s*(?:,|、|，|\band\b|和|\s)\s*")
_VERBS = (
    (HAVE, "present"),
    (BUY, "past"),
    (FIND, "past"),
    (SEE, "past"),
    (WANT, "present"),
    (LIKE, "present"),
    (TAKE, "past"),
)


def quiz(scene: Scene, questions: int) -> Quiz:
    """Independent instructions."""
    kinds = (_name_some, _use_words, _replace, _repeat, _one_word)
    return Quiz("", [scene.dice.pick(kinds)(scene) for _ in range(questions)])


def check(item: Item, answer: str) -> bool:
    """Open items by their rule, the others by their exact answers."""
    rule = item.rule.get("rule")
    if rule == "name":
        return _names(item, answer)
    if rule == "use":
        return _uses(item, answer)
    return is_accepted(item, answer)


def _kinds(words: Vocabulary) -> tuple[Category, ...]:
    return words.remembered(
        "nameable",
        lambda: tuple(c for c in words.categories if sum(t.number == "count" for t in words.members[c.key]) >= 8),
    )


def _name_some(scene: Scene) -> Question:
    dice, words, g = scene.dice, scene.words, scene.g
    count = scene.length(2, 3, 4)
    while True:
        category = dice.pick(_kinds(words))
        members = tuple(t for t in words.members[category.key] if t.number == "count")
        without = dice.often_early(members)
        if scene.new("name", category.key, without.en):
            break
    chosen: list[Thing] = []
    for thing in members:  # the most common ones: a canonical answer that can be learnt
        if thing.en != without.en and thing.zh != without.zh and len(chosen) < count:
            chosen.append(thing)
    rule = {"rule": "name", "category": category.key, "count": str(count), "without": without.en}
    if scene.zh:
        n = g.number(count).replace("二", "两")
        text = dice.pick(
            (f"说出{n}种{category.zh}，不要说{without.zh}。", f"除了{without.zh}，请举出{n}种{category.zh}。")
        )
        return Question(text, ("、".join(t.zh for t in chosen) + "。",), (), count - 1, rule)
    n = g.number(count)
    text = dice.pick((f"Name {n} {category.plural}, but not {g.article(without.en)}.",
                      f"Name {n} {category.plural} other than {g.article(without.en)}."))  # fmt: skip
    return Question(text, (g.capital(g.enumeration([t.en for t in chosen])) + ".",), (), count - 1, rule)


def _names(item: Item, answer: str) -> bool:
    """Exactly so many different members of the category, without the excluded one, and nothing else."""
    words = vocabulary()
    forms: dict[str, str] = {}
    for thing in words.members[item.rule["category"]]:
        shown = (thing.zh, *thing.also) if item.language == "zh" else (thing.en, thing.plural)
        forms.update({normalise(form): thing.en for form in shown if form})
    text = answer.strip().rstrip(".。!！")
    splitter = r"[、，,和]" if item.language == "zh" else r",\s*(?:and\s+)?|\s+and\s+"
    named = []
    for part in re.split(splitter, text, flags=re.IGNORECASE):
        part = re.sub(r"^(?:an?|the) ", "", part.strip(), flags=re.IGNORECASE)
        if normalise(part) not in forms:
            return False
        named.append(forms[normalise(part)])
    return len(named) == len(set(named)) == int(item.rule["count"]) and item.rule["without"] not in named


def _use_words(scene: Scene) -> Question:
    """The canonical sentence is a clause about both things."""
    dice, g = scene.dice, scene.g
    one, two = scene.companions("things", scene.words.portable, 2)
    name = scene.name()
    verb, tense = dice.pick(_VERBS)
    clause = Clause(name, verb, Several((Phrase(one, "a"), Phrase(two, "a"))), tense=tense)
    rule = {"rule": "use", "one": scene.word(one), "two": scene.word(two), "name": scene.word(name)}
    a, b, who = rule["one"], rule["two"], rule["name"]
    if scene.zh:
        text = dice.pick((f"用“{a}”和“{b}”写一句关于{who}的话。", f"写一句关于{who}的话，用上“{a}”和“{b}”。"))
    else:
        text = dice.pick((f'Write a sentence about {who} with the words "{a}" and "{b}".',
                          f'Use the words "{a}" and "{b}" in a sentence about {who}.'))  # fmt: skip
    return Question(text, (g.sentence(g.clause(clause)),), (), 2, rule)


def _uses(item: Item, answer: str) -> bool:
    """One sentence of sensible length that starts with the name or has it, with both words, a verb and a stop."""
    text = answer.strip()
    needed = (item.rule["one"], item.rule["two"], item.rule["name"])
    if item.language == "zh":
        rest = text
        for word in sorted(needed, key=len, reverse=True):
            if word not in rest:
                return False
            rest = rest.replace(word, "", 1)
        return (
            text[-1] in "。！"
            and len(re.findall("[。！？]", text)) == 1
            and 1 <= len(rest) <= 40
            and _has_verb(rest, "zh")
        )
    if not text.endswith((".", "!")) or len(re.findall(r"[.!?]", text)) != 1 or not text[0].isupper():
        return False
    rest = text
    for word in sorted(needed, key=len, reverse=True):
        rest, found = re.subn(rf"\b{re.escape(word)}\b", " ", rest, count=1, flags=re.IGNORECASE)
        if not found:
            return False
    return 2 <= len(rest.split()) <= 20 and _has_verb(rest, "en")


def _has_verb(text: str, language: str) -> bool:
    """Whether one of the lexicon's verbs is there in some form."""
    words = vocabulary()
    if language == "zh":
        found = words.remembered(
            "verbs zh", lambda: frozenset(v.zh for v in words.lexicon.verbs) | set("有是在去要拿给")
        )
        return any(verb in text for verb in found)
    forms = words.remembered(
        "verbs en",
        lambda: frozenset(
            f.split()[0] for v in words.lexicon.verbs for f in (v.en, v.third, v.past, v.participle, v.ing)
        ) | {"is", "are", "was", "were", "has", "have", "had", "wants", "wanted", "likes", "liked", "took", "went"},
    )  # fmt: skip
    return any(word in forms for word in re.findall("[a-z]+", text.lower()))


def _replace(scene: Scene) -> Question:
    """Say the sentence with one thing in place of another."""
    dice, g = scene.dice, scene.g
    old, new = scene.companions("things", scene.words.artefacts, 2)
    name = scene.name()
    verb, tense = dice.pick(_VERBS[:5])
    given = g.sentence(g.clause(Clause(name, verb, Phrase(old, "the"), tense=tense)))
    right = g.sentence(g.clause(Clause(name, verb, Phrase(new, "the"), tense=tense)))
    a, b = scene.word(old), scene.word(new)
    if scene.zh:
        text = dice.pick((f"把“{a}”换成“{b}”：{given}", f"用“{b}”代替“{a}”，再说一遍：{given}"))
    else:
        text = dice.pick((f'Replace "{a}" with "{b}": {given}', f'Say it with "{b}" instead of "{a}": {given}'))
    return Question(text, (right,), (), 2)


def _repeat(scene: Scene) -> Question:
    """Write a word so many times."""
    dice = scene.dice
    count = scene.length(2, 4, 5)
    while True:
        thing = scene.thing()
        if scene.new("repeat", thing.en, count):
            break
    word = scene.word(thing)
    if scene.zh:
        text = dice.pick((f"把“{word}”写{scene.g.number(count).replace('二', '两')}遍。", f"请说{count}遍“{word}”。"))
        return Question(text, ("、".join([word] * count) + "。", word * count, " ".join([word] * count)), (), count - 1)
    times = {2: "twice"}.get(count, f"{scene.g.number(count)} times")
    text = dice.pick((f'Write "{word}" {times}.', f'Say the word "{word}" {times}.'))
    return Question(text, (scene.g.capital(", ".join([word] * count)) + ".", " ".join([word] * count)), (), count - 1)


def _one_word(scene: Scene) -> Question:
    """A question about a text, to be answered with one word and nothing else."""
    dice, g = scene.dice, scene.g
    things = scene.companions("things", scene.words.artefacts, 2)
    colours = [scene.colour(t) for t in things]
    while colours[0] is colours[1]:
        colours[1] = scene.colour(things[1])
    name = scene.name()
    both = Several(tuple(Phrase(t, "a", (c,)) for t, c in zip(things, colours, strict=True)))
    told = g.sentence(g.clause(Clause(name, HAVE, both, tense="present")))
    i = dice.below(2)
    right = scene.word(colours[i])
    if scene.zh:
        text = f"{told}{things[i].zh}是什么颜色的？只用一个词回答。"
        return Question(text, (f"{right}。", f"{right}的"), tuple(scene.word(c) for c in colours), 1)
    text = f"{told} What colour is the {things[i].en}? Answer with one word."
    return Question(text, (g.capital(right) + ".",), tuple(scene.word(c) for c in colours), 1)
