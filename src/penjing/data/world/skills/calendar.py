"""Time: days and months so many later or earlier, hours of the clock, dates within a month.

The canonical answer to a question about days counts them along, as one does on one's fingers.
"""

from penjing.data.world.items import Skill
from penjing.data.world.lexicon import Word
from penjing.data.world.quiz import Question, Quiz
from penjing.data.world.scene import Scene

SKILL = Skill("calendar", False, "Days, months, hours and dates so many later or earlier.", 0.13)


def quiz(scene: Scene, questions: int) -> Quiz:
    """Independent questions."""
    return Quiz("", [scene.dice.pick((_days, _days, _months, _hours, _dates))(scene) for _ in range(questions)])


def _stepped(scene: Scene, key: str, cycle: tuple[Word, ...], longest: int) -> tuple[int, int, list[str]]:
    """A start, a number of steps (negative: back) and the words passed on the way, the start not included."""
    dice = scene.dice
    far = scene.length(1, longest, longest + 2)
    while True:
        start, steps = dice.below(len(cycle)), dice.pick((1, 1, -1)) * far
        if scene.new(key, cycle[start].en, steps):
            break
        far = far if scene.testing and far > longest else dice.between(1, longest)
    sign = 1 if steps > 0 else -1
    return start, steps, [scene.word(cycle[(start + sign * i) % len(cycle)]) for i in range(1, far + 1)]


def _days(scene: Scene) -> Question:
    days = scene.words.weekdays
    start, steps, passed = _stepped(scene, "days", days, 5)
    n, today, right = abs(steps), scene.word(days[start]), passed[-1]
    options = tuple(scene.word(d) for d in days)
    dice = scene.dice
    if scene.zh:
        when = (
            ("明天" if steps > 0 else "昨天") if n == 1 and dice.chance(0.5) else f"{n}天{'后' if steps > 0 else '前'}"
        )
        text = dice.pick((f"今天是{today}，{when}是星期几？", f"如果今天是{today}，{when}是星期几？"))
        full = f"{'、'.join(passed)}。{when}是{right}。"
        return Question(text, (full, right, f"{when}是{right}", f"是{right}"), options, n)
    one = f"{n} day" + ("s" if n > 1 else "")
    if n == 1 and dice.chance(0.5):
        when = "tomorrow" if steps > 0 else "yesterday"
    else:
        when = f"in {one}" if steps > 0 else f"{one} ago"
    be, ask = ("will be", "will it be") if steps > 0 else ("was", "was it")
    text = dice.pick((f"Today is {today}. What day {ask} {when}?", f"If today is {today}, what day {ask} {when}?"))
    last = f"It {be} {right} {when}."
    return Question(
        text, (f"{', '.join(passed)}. {last}", last, right, f"It {be} {right}", f"{right} {when}"), options, n
    )


def _months(scene: Scene) -> Question:
    months = scene.words.months
    start, steps, passed = _stepped(scene, "months", months, 4)
    n, now, right = abs(steps), scene.word(months[start]), passed[-1]
    options = tuple(scene.word(m) for m in months)
    if scene.zh:
        when = f"{n}个月{'后' if steps > 0 else '前'}"
        text = f"现在是{now}，{when}是几月？"
        return Question(
            text, (f"{'、'.join(passed)}。{when}是{right}。", right, f"{when}是{right}", f"是{right}"), options, n
        )
    count = f"{n} month" + ("s" if n > 1 else "")
    when = f"in {count}" if steps > 0 else f"{count} ago"
    be, ask = ("will be", "will it be") if steps > 0 else ("was", "was it")
    text = f"It is {now} now. What month {ask} {when}?"
    last = f"It {be} {right} {when}."
    return Question(text, (f"{', '.join(passed)}. {last}", last, right, f"It {be} {right}"), options, n)


def _hours(scene: Scene) -> Question:
    """Someone begins something at an hour and it takes some hours; the day is not left."""
    dice = scene.dice
    forms: tuple[str, ...]
    name = scene.word(scene.name())
    while True:
        start, lasts = dice.between(1, 9), dice.between(1, 9)
        if start + lasts <= 12 and scene.new("hours", start, lasts):
            break
    end = start + lasts
    options = tuple(str(h) for h in range(start + 1, 13))
    en, zh = dice.pick(
        (("works", "工作"), ("reads", "看书"), ("draws", "画画"), ("sleeps", "睡觉"), ("studies", "学习"))
    )
    if scene.zh:
        text = f"{name}{start}点开始{zh}，{zh}{lasts}个小时，几点结束？"
        forms = (
            f"{start}+{lasts}={end}。{name}{end}点结束。",
            f"{name}{end}点结束",
            f"{end}点",
            str(end),
            f"{end}点结束",
        )
        return Question(text, forms, options)
    hours = f"{lasts} hour" + ("s" if lasts > 1 else "")
    text = f"{name} starts at {start} o'clock and {en} for {hours}. When does {name} finish?"
    last = f"{name} finishes at {end} o'clock."
    forms = (f"{start} + {lasts} = {end}. {last}", last, f"at {end} o'clock", f"{end} o'clock", str(end), f"at {end}")
    return Question(text, forms, options)


def _dates(scene: Scene) -> Question:
    """A date some days later within the same month."""
    dice = scene.dice
    forms: tuple[str, ...]
    month = dice.pick(scene.words.months)
    while True:
        day, later = dice.between(1, 20), dice.between(2, 9)
        if day + later <= 28 and scene.new("dates", day, later):
            break
    end = day + later
    options = tuple(str(d) for d in range(day + 1, day + 10))
    if scene.zh:
        m = f"{scene.words.months.index(month) + 1}月"
        text = f"今天是{m}{day}日，{later}天后是几月几日？"
        forms = (
            f"{day}+{later}={end}。{later}天后是{m}{end}日。",
            f"{m}{end}日",
            f"{later}天后是{m}{end}日",
            f"是{m}{end}日",
            f"{m}{end}号",
        )
        return Question(text, forms, tuple(f"{m}{d}日" for d in options))
    text = f"Today is {day} {month.en}. What is the date in {later} days?"
    last = f"It is {end} {month.en}."
    forms = (f"{day} + {later} = {end}. {last}", last, f"{end} {month.en}", f"{month.en} {end}")
    return Question(text, forms, tuple(f"{d} {month.en}" for d in options))
