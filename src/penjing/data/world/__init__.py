"""A small world told in English and in Chinese: the corpus that ships with Penjing, because it is generated.

`document` makes text to pretrain on; `dialogue` makes a conversation that ends in a checkable answer, `explanation` one
that tells of things, `small_talk` one that greets and thanks; `check` decides whether an answer is exactly right;
`skills` lists what is taught. All of it depends on nothing but a seed, and the held-out split has names, combinations
and lengths that training never sees.

    >>> item = dialogue(7, language="en", skill="location")
    >>> check(item, item.answer)
    True
"""

from penjing.data.world.calculator import calculator, tool_result
from penjing.data.world.conversation import check, dialogue, explanation, skills
from penjing.data.world.documents import document
from penjing.data.world.items import LANGUAGES, Item, Message, Skill
from penjing.data.world.small_talk import small_talk

__all__ = [
    "LANGUAGES",
    "Item",
    "Message",
    "Skill",
    "calculator",
    "check",
    "dialogue",
    "document",
    "explanation",
    "skills",
    "small_talk",
    "tool_result",
]
