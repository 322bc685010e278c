"""Records: short lists of who has which number, what has which price or colour, who is where; looked up and copied.

Nothing in them can be known beforehand: each answer has to be found above. This is the purest practice in reading.
"""

from collections.abc import Callable

from penjing.data.world.scene import Scene

_AGAIN = {"en": ("Again: ", "Once more: ", "Copy: "), "zh": ("再来一遍：", "重复：", "抄写：")}


def record(scene: Scene) -> str:
    """A list with look-ups in another order, or a row of words or digits and its copy."""
    return _dictation(scene) if scene.dice.chance(0.5) else _table(scene)


def _dictation(scene: Scene) -> str:
    """Names, things or digits in a row, and the same row again."""
    dice = scene.dice
    count = dice.between(3, 6)
    x = dice.random()
    if x < 0.5:
        parts = [scene.word(name) for name in scene.names(count)]
    elif x < 0.7:
        parts = [scene.word(thing) for thing in scene.companions("things", scene.words.portable, count)]
    else:
        parts = [_digits(scene) for _ in range(count)]
    row = ("、" if scene.zh else ", ").join(parts) + scene.g.STOP
    again = dice.pick(_AGAIN[scene.language])
    return "\n".join([row] + [again + row] * dice.between(1, 2))


def _digits(scene: Scene) -> str:
    """A number of four to six digits."""
    return str(scene.dice.between(1000, 10 ** scene.dice.between(4, 6) - 1))


def _table(scene: Scene) -> str:
    """Entries, each with a value, and some or all of them looked up in another order."""
    dice = scene.dice
    count = dice.between(3, 5)
    entries, ask = dice.pick((_numbers, _numbers, _prices, _colours, _seats))(scene, count)
    told = list(entries.items())
    looked_up = dice.sample(told, dice.between(2, count))
    colon = "：" if scene.zh else ": "
    x = dice.random()
    lines = [f"{key}{colon}{value}" for key, value in told]
    if x < 0.4:
        lines.append(dice.pick(_AGAIN[scene.language]).rstrip())
        lines += [f"{key}{colon}{value}" for key, value in looked_up]
    else:
        lines += [ask(key, value) for key, value in looked_up]
    return "\n".join(lines)


Asked = tuple[dict[str, str], Callable[[str, str], str]]


def _numbers(scene: Scene, count: int) -> Asked:
    """A telephone book."""
    entries = {scene.word(name): _digits(scene) for name in scene.names(count)}
    if scene.zh:
        return entries, lambda key, value: f"{key}的号码是多少？{key}的号码是{value}。"
    return entries, lambda key, value: f"What is {key}'s number? {key}'s number is {value}."


def _prices(scene: Scene, count: int) -> Asked:
    """A price list."""
    things = scene.companions("things", scene.words.artefacts, count)
    entries = {scene.word(thing): str(scene.dice.between(1, 999)) for thing in things}
    if scene.zh:
        return entries, lambda key, value: f"{key}多少钱？{key}卖{value}元。"
    return entries, lambda key, value: f"How much is the {key}? The {key} costs {value} yuan."


def _colours(scene: Scene, count: int) -> Asked:
    """What colour each thing is."""
    things = scene.companions("things", scene.words.artefacts, count)
    entries = {scene.word(thing): scene.word(scene.colour(thing)) for thing in things}
    if scene.zh:
        return entries, lambda key, value: f"{key}是什么颜色的？{key}是{value}的。"
    return entries, lambda key, value: f"What colour is the {key}? The {key} is {value}."


def _seats(scene: Scene, count: int) -> Asked:
    """Who is where."""
    places = scene.places(count)
    people = [scene.word(name) for name in scene.names(count)]
    at = dict(zip(people, places, strict=True))
    entries = {person: scene.word(place) for person, place in at.items()}
    if scene.zh:
        return entries, lambda key, value: f"{key}在哪里？{key}{scene.g.where(at[key])}。"
    return entries, lambda key, value: f"Where is {key}? {key} is {scene.g.where(at[key])}."
