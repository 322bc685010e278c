"""What is true, as running text: things, kinds of thing, countries, jobs, shapes, units, opposites, measure words."""

from collections.abc import Callable

from penjing.data.world.grammar_en import article, enumeration
from penjing.data.world.knowledge import can_claim, eat_claim, facts_of, kind_claim, many, subject
from penjing.data.world.lexicon import Thing
from penjing.data.world.scene import Scene

_MOST = {"fly": ("can fly", "cannot fly", "会飞", "不会飞"), "swim": ("can swim", "cannot swim", "会游泳", "不会游泳")}


def entry(scene: Scene) -> str:
    """One article: about one to three subjects of a kind, a few sentences each."""
    x = scene.dice.random()
    if x < 0.62:
        lines = [about(scene, draw(scene)) for _ in range(scene.dice.between(1, 3))]
    elif x < 0.78:
        lines = [_category(scene)]
    else:
        tell = scene.dice.pick(_OTHERS)
        lines = [tell(scene) for _ in range(scene.dice.between(3, 6))]
        return scene.g.SPACE.join(dict.fromkeys(lines))
    return "\n".join(dict.fromkeys(lines))


def draw(scene: Scene) -> Thing:
    """A thing to tell about, common ones more often."""
    return scene.dice.often_early(scene.words.things, 8)


def about(scene: Scene, thing: Thing) -> str:
    """Facts about a thing, and claims that are not held out."""
    dice, words, i = scene.dice, scene.words, int(scene.zh)
    said = [scene.g.capital(dice.pick(fact.statements[i])) for fact in facts_of(words, thing)]
    first, rest = said[0], said[1:]
    claims = [can_claim(thing, "fly"), can_claim(thing, "swim")]
    if thing.edible or dice.chance(0.4):
        claims.append(eat_claim(thing))
    claims.append(kind_claim(thing, dice.pick(words.categories), False))
    for claim in claims:
        if claim is None or not scene.may(claim.kind, thing.en, claim.other):
            continue
        if claim.kind == "is" and words.is_a(thing, words.lexicon.category(claim.other)):
            continue
        rest.append(scene.g.sentence((claim.yes if claim.true else claim.no)[i]))
    rest.append(_counted(scene, thing))
    dice.shuffle(rest)
    return scene.g.SPACE.join([first, *rest[: dice.between(2, 5)]])


def _counted(scene: Scene, thing: Thing) -> str:
    """One and many: the plural, or the measure word."""
    n = scene.dice.between(2, 10)
    if scene.zh:
        return f"一{thing.measure}{thing.zh}，{scene.g.number(n).replace('二', '两')}{thing.measure}{thing.zh}。"
    one, more = scene.g.noun(thing, 1), scene.g.noun(thing, n)
    return scene.g.capital(f"{article(one)}, {scene.g.number(n)} {more}.")


def _category(scene: Scene) -> str:
    """Examples of a kind of thing, what is not one, and what most of them can do."""
    dice, words = scene.dice, scene.words
    category = dice.pick(words.categories)
    members = scene.things(dice.between(3, 5), words.members[category.key])
    said = []
    if scene.zh:
        said.append(f"{scene.g.enumeration([t.zh for t in members])}都是{category.zh}。")
        if category.parent:
            said.append(f"{category.zh}都是{words.lexicon.category(category.parent).zh}。")
    else:
        said.append(scene.g.capital(f"{enumeration([many(t) for t in members])} are {category.plural}."))
        if category.parent:
            said.append(scene.g.capital(f"{category.plural} are {words.lexicon.category(category.parent).plural}."))
    for _ in range(2):
        other = dice.often_early(words.things)
        claim = kind_claim(other, category, False)
        if not words.is_a(other, category) and scene.may("is", other.en, category.key):
            said.append(scene.g.sentence(claim.no[scene.zh]))
    for ability, forms in _MOST.items():
        able = [t.can_fly if ability == "fly" else t.can_swim for t in words.members[category.key]]
        known = [a for a in able if a is not None]
        if len(known) >= 5 and abs(sum(known) * 2 - len(known)) > len(known) // 3:
            yes = sum(known) * 2 > len(known)
            en, zh = (forms[0], forms[2]) if yes else (forms[1], forms[3])
            said.append(f"大多数{category.zh}{zh}。" if scene.zh else f"Most {category.plural} {en}.")
    return scene.g.SPACE.join(said)


def _country(scene: Scene) -> str:
    country = scene.dice.often_early(scene.words.lexicon.countries)
    continent = scene.words.lexicon.word("continent", country.continent)
    if scene.zh:
        said = f"{country.zh}是{continent.zh}的一个国家，首都是{country.capital_zh}。"
        if country.language:
            said += f"那里的人说{scene.words.lexicon.word('language', country.language).zh}。"
        return said
    name = f"{country.article} {country.en}" if country.article else country.en
    be = "are" if country.article == "the" and country.en.endswith("s") else "is"
    said = scene.g.capital(f"{name} {be} a country in {continent.en}. The capital of {name} is {country.capital}.")
    return said + (f" People there speak {country.language}." if country.language else "")


def _job(scene: Scene) -> str:
    jobs = scene.words.remembered("tasks", lambda: tuple(p for p in scene.words.lexicon.people if p.task_en))
    person = scene.dice.often_early(jobs)
    place = scene.words.lexicon.place(person.place) if person.place else None
    if scene.zh:
        said = f"{person.zh}的工作是{person.task_zh}。"
        return said + (f"{person.zh}在{place.zh}{place.side}工作。" if place and place.zh not in person.task_zh else "")
    said = scene.g.capital(f"the job of {article(person.en)} is to {person.task_en}.")
    return said + (
        scene.g.capital(f" {article(person.en)} works {scene.g.where(place)}.").replace(" a", " A", 1) if place else ""
    )


def _shape(scene: Scene) -> str:
    shapes = scene.words.remembered(
        "sided", lambda: tuple(w for w in scene.words.lexicon.of_kind("shape") if w.value and w.value > 2)
    )
    shape = scene.dice.pick(shapes)
    n = scene.g.number(shape.value)
    return f"{shape.zh}有{n}条边。" if scene.zh else scene.g.capital(f"{article(shape.en)} has {n} sides.")


def _unit(scene: Scene) -> str:
    """One hour is sixty minutes."""
    units = scene.words.remembered(
        "units", lambda: tuple(w for w in scene.words.lexicon.of_kind("unit") if w.value and w.group)
    )
    pairs = scene.words.remembered(
        "unit pairs",
        lambda: tuple(
            (a, b, a.value // b.value)
            for a in units for b in units
            if a.group == b.group and a.value and b.value and a.value > b.value and a.value % b.value == 0
            and a.value // b.value <= 1000
        ),
    )  # fmt: skip
    big, small, n = scene.dice.pick(pairs)
    if scene.zh:
        return f"1{big.zh}等于{n}{small.zh}。"
    return scene.g.capital(f"{article(big.en) if big.en != 'hour' else 'an hour'} is {n} {small.plural or small.en}.")


def _season(scene: Scene) -> str:
    month = scene.dice.pick(scene.words.months)
    season = scene.words.lexicon.word("season", month.group)
    return f"{month.zh}是{season.zh}。" if scene.zh else f"{month.en} is in {season.en}."


def _opposite(scene: Scene) -> str:
    """A pair of opposites, said without direction, so that neither question is answered in advance."""
    pair = scene.dice.often_early(scene.words.antonyms)
    a, b = (pair.zh, pair.zh_opposite) if scene.zh else (pair.en, pair.en_opposite)
    if scene.dice.chance(0.5):
        a, b = b, a
    return f"“{a}”和“{b}”是一对反义词。" if scene.zh else f'"{a}" and "{b}" are opposites.'


def _words(scene: Scene) -> str:
    """A row of words of one small class, introduced by its name."""
    kinds = {
        "sport": ("sports", "运动"),
        "game": ("games", "游戏"),
        "holiday": ("holidays", "节日"),
        "language": ("languages", "语言"),
        "material": ("materials", "材料"),
        "emotion": ("feelings", "情绪"),
        "subject": ("school subjects", "学校的科目"),
        "weather": ("kinds of weather", "天气"),
        "shape": ("shapes", "形状"),
        "sound": ("sounds", "声音"),
        "colour": ("colours", "颜色"),
        "direction": ("directions", "方向"),
        "continent": ("continents", "大洲"),
        "season": ("seasons", "季节"),
        "abstract": ("things of the mind", "抽象的事物"),
    }
    kind = scene.dice.pick(tuple(kinds))
    pool = tuple(w for w in scene.words.lexicon.of_kind(kind) if w.en != kind)
    shown = [scene.word(w) for w in scene.dice.sample(pool, min(len(pool), scene.dice.between(2, 4)))]
    if scene.zh:
        return f"{scene.g.enumeration(shown)}都是{kinds[kind][1]}。"
    return scene.g.capital(f"{enumeration(shown)} are {kinds[kind][0]}.")


def _home_of_kind(scene: Scene) -> str:
    """Whose parent is who: family words."""
    relatives = scene.words.remembered(
        "relatives", lambda: tuple(p for p in scene.words.lexicon.people if p.kind != "job" and p.gender in "fm")
    )
    person = scene.dice.pick(relatives)
    if scene.zh:
        return f"{person.zh}是{'女的' if person.gender == 'f' else '男的'}。"
    return scene.g.capital(f"{article(person.en)} is {'female' if person.gender == 'f' else 'male'}.")


_OTHERS: tuple[Callable[[Scene], str], ...] = (
    _country, _country, _job, _job, _shape, _unit, _season, _opposite, _opposite, _words, _words, _home_of_kind,
)  # fmt: skip

__all__ = ["about", "draw", "entry", "subject"]
