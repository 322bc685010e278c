"""Longer stories: when, where and in what weather; what people do, feel, say and think; and a question at the end."""

from penjing.data.world.actions import action, as_verb
from penjing.data.world.lexicon import Adjective, Adverb, Name, Place
from penjing.data.world.scene import Scene
from penjing.data.world.syntax import (
    AFTER,
    AND,
    BE_A,
    BE_AT,
    BE_LIKE,
    BECAUSE,
    BEFORE,
    BUT,
    LIVE,
    MOVES,
    SEE,
    SO,
    WHEN,
    Clause,
    Connective,
    I,
    NounPhrase,
    Phrase,
    They,
    Verb,
)
from penjing.data.world.telling import answers, ask

_TWO_EVENTS: tuple[Connective, ...] = (WHEN, BEFORE, AFTER, BUT, AND)
_IN_YEAR = ("spring", "summer", "autumn", "winter")


def story(scene: Scene) -> str:
    """Five to nine sentences about two people, then one or two questions with their answers."""
    dice, g = scene.dice, scene.g
    hero, friend = scene.names(2)
    place = dice.often_early(scene.words.places)
    told: list[str] = [_opening(scene, hero, place)]
    state = Clause(hero, BE_AT, place=place)
    asked: list[tuple[Clause, str]] = [(state, "p")]
    makers = (_did, _did, _did, _two, _felt, _said, _thought, _person, _described, _with_friend)
    for _ in range(dice.between(4, 7)):
        sentence, clause = dice.pick(makers)(scene, hero, friend)
        told.append(sentence)
        if clause is not None and all(c.verb is not clause.verb for c, _ in asked):
            asked.append((clause, dice.pick(("s", "o")) if clause.obj is not None else "s"))
    told_text = g.SPACE.join(told)
    lines = []
    for clause, slot in dice.sample(asked, min(len(asked), dice.between(1, 2))):
        if slot == "s" and clause.subject is not hero and clause.subject is not friend:
            continue
        lines.append(ask(scene, clause, slot) + g.SPACE + answers(scene, clause, slot)[0])
    return "\n".join([told_text, *lines])


def _opening(scene: Scene, hero: Name, place: Place) -> str:
    """Time, weather and where the hero was."""
    dice, words, g = scene.dice, scene.words, scene.g
    x = dice.random()
    if x < 0.35:
        day = dice.pick(words.weekdays)
        when = scene.t(f"On {day.en}", day.zh)
    elif x < 0.6:
        season = words.lexicon.word("season", dice.pick(_IN_YEAR))
        when = scene.t(f"In {season.en}", season.zh)
    elif x < 0.85:
        times = words.remembered(
            "times of day", lambda: tuple(w for w in words.lexicon.of_kind("daytime") if w.group in ("in", "at"))
        )
        time = dice.pick(times)
        when = scene.t(f"In the {time.en}" if time.group == "in" else f"At {time.en}", time.zh)
    else:
        holiday = dice.often_early(words.lexicon.of_kind("holiday"))
        when = scene.t(f"{'On' if holiday.en.endswith(('Day', 'Eve')) else 'At'} {holiday.en}", holiday.zh)
    there = Clause(hero, BE_AT, place=place)
    weather = dice.pick(
        words.remembered("weather", lambda: tuple(a for a in words.lexicon.adjectives if a.kind == "weather"))
    )
    if scene.zh:
        sky = f"那天{weather.zh}" if weather.zh[0] in "下刮多有打起" else f"天气很{weather.zh}"
        return f"{when}，{g.clause(there)}。{sky}。"
    return f"{when}, {g.clause(there)}. It was {weather.en}."


def _manner(scene: Scene) -> Adverb:
    pool = scene.words.remembered(
        "manners", lambda: tuple(a for a in scene.words.lexicon.adverbs if a.kind == "manner" and a.zh.endswith("地"))
    )
    return scene.dice.often_early(pool)


def _act(scene: Scene, who: NounPhrase) -> Clause:
    """Something done, now and then with a manner or a place."""
    clause = action(scene, who)
    x = scene.dice.random()
    if x < 0.2:
        clause.manner = _manner(scene)
    elif x < 0.35 and clause.obj is not None:
        clause.scene = scene.dice.often_early(scene.words.places)
    return clause


def _did(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    who = hero if scene.dice.chance(0.7) else friend
    clause = _act(scene, who)
    shown = (
        Clause(They(who), clause.verb, clause.obj, scene=clause.scene, manner=clause.manner)
        if scene.dice.chance(0.3) and who is hero
        else clause
    )
    return scene.g.sentence(scene.g.clause(shown)), clause


def _two(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    """Two events in one sentence, joined by time or contrast."""
    joined = scene.dice.pick(_TWO_EVENTS)
    pattern = scene.dice.pick(joined.zh if scene.zh else joined.en)
    one, two = _act(scene, hero), _act(scene, friend)
    one.dependent = joined in (WHEN, AFTER)
    two.dependent = joined is BEFORE
    text = pattern.format(scene.g.clause(one), scene.g.clause(two))
    one.dependent = False
    return scene.g.sentence(text), one


def _emotions(scene: Scene) -> tuple[Adjective, ...]:
    return scene.words.remembered(
        "emotions",
        lambda: tuple(a for a in scene.words.lexicon.adjectives if a.kind in ("emotion", "health") and a.degrees),
    )


def _felt(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    """A feeling and its cause."""
    dice = scene.dice
    feeling = Clause(hero, BE_LIKE, quality=dice.often_early(_emotions(scene)), degree=dice.pick(("", "", "very")))
    cause = _act(scene, They(hero) if dice.chance(0.5) else friend)
    joined = dice.pick((BECAUSE, SO))
    first, second = (feeling, cause) if joined is BECAUSE else (cause, feeling)
    if isinstance(cause.subject, They) and joined is SO:
        cause.subject, feeling.subject = hero, They(hero)
    pattern = dice.pick(joined.zh if scene.zh else joined.en)
    if pattern.startswith(("because {1}", "因为{1}")) and isinstance(cause.subject, They):
        cause.subject, feeling.subject = hero, They(hero)
    return scene.g.sentence(pattern.format(scene.g.clause(first), scene.g.clause(second))), None


def _said(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    """Direct speech."""
    dice, g = scene.dice, scene.g
    clause = action(scene, I, dice.pick(("past", "future", "can", "must")))
    verb = dice.pick((("said", "说"), ("shouted", "喊道"), ("whispered", "低声说"), ("answered", "回答")))
    speaker = dice.pick((hero, friend))
    return g.speech(scene.word(speaker), g.sentence(g.clause(clause)), verb[scene.zh]), None


def _thought(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    """What someone knows, thinks, hopes about the other."""
    dice, words = scene.dice, scene.words
    verbs: tuple[Verb, ...] = words.remembered(
        "thinking",
        lambda: tuple(
            as_verb(words.lexicon.verb(v)) for v in ("think", "know", "believe", "hope", "remember", "forget", "say")
        ),
    )
    content = Clause(friend, BE_AT, place=dice.often_early(words.places)) if dice.chance(0.5) else _act(scene, friend)
    clause = Clause(hero, dice.pick(verbs), content=content, dependent=True)
    return scene.g.sentence(scene.g.clause(clause)), None


def _person(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    """Who someone is, where they are from, what they play or study."""
    dice, words, g = scene.dice, scene.words, scene.g
    x = dice.random()
    if x < 0.3:
        clause = Clause(friend, BE_A, Phrase(dice.often_early(words.lexicon.people[20:]), "a"))
        return g.sentence(g.clause(clause)), clause
    if x < 0.5:
        country = dice.often_early(words.lexicon.countries)
        home = f"{country.article} {country.en}" if country.article else country.en
        return scene.t(f"{friend.en} came from {home}.", f"{friend.zh}来自{country.zh}。"), None
    if x < 0.75:
        sport = dice.pick(
            words.remembered("played", lambda: tuple(w for k in ("sport", "game") for w in words.lexicon.of_kind(k)))
        )
        return scene.t(f"{friend.en} liked {sport.en}.", f"{friend.zh}喜欢{sport.zh}。"), None
    subject = dice.pick(words.lexicon.of_kind("subject"))
    return scene.t(f"{hero.en} was good at {subject.en}.", f"{hero.zh}擅长{subject.zh}。"), None


def _described(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    """A thing or an animal that was seen, with a clause about it; or what kind of person someone is."""
    dice, words, g = scene.dice, scene.words, scene.g
    if dice.chance(0.5):
        characters = words.remembered(
            "characters",
            lambda: tuple(
                a for a in words.lexicon.adjectives if a.kind == "character" and a.degrees and "person" in a.fits
            ),
        )
        clause = Clause(
            dice.pick((hero, friend)), BE_LIKE, quality=dice.often_early(characters), degree=dice.pick(("", "very"))
        )
        return g.sentence(g.clause(clause)), None
    person = dice.often_early(words.lexicon.people)
    seen = Phrase(person, "a")
    seen.who = action(scene, Phrase(person, "the"))
    clause = Clause(hero, SEE, seen)
    return g.sentence(g.clause(clause)), None


def _with_friend(scene: Scene, hero: Name, friend: Name) -> tuple[str, Clause | None]:
    """What is done with or to another person."""
    words = scene.words
    verbs: tuple[Verb, ...] = words.remembered(
        "to people",
        lambda: tuple(
            as_verb(v) for v in words.lexicon.verbs
            if "person" in v.objects and "person" in v.subjects and v.frame in ("transitive", "speech", "mental")
            and v.en not in ("kill", "shoot", "hurt", "hit", "bite", "promise", "tell")
        ),
    )  # fmt: skip
    x = scene.dice.random()
    if x < 0.75:
        clause = Clause(hero, scene.dice.pick(verbs), friend)
        return scene.g.sentence(scene.g.clause(clause)), clause
    verb = scene.dice.pick((*MOVES, LIVE))
    clause = Clause(friend, verb, place=scene.dice.often_early(words.places))
    return scene.g.sentence(scene.g.clause(clause)), None
