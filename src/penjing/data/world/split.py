"""What training may say and what is kept for the test: a partition of names, combinations and lengths by hash.

A model that has memorised its training text should gain nothing on the held-out items. So every generator asks here
before it puts two things together:

- a **name** belongs to training or to the test, never to both (about one in six is held out);
- a **combination** (a colour and a thing, a verb and its object, two numbers of a sum, a thing and a category that is
  asked about) likewise, by the hash of its parts; each part alone is seen in training, in other combinations;
- a **length** (how many moves a story has, how long a list is) beyond the training range comes only in held-out items.
"""

from functools import lru_cache
from zlib import crc32

from penjing.errors import DataError, nearest

SPLITS = ("train", "heldout")
SHARE = 0.16  # of names and of combinations, held out


@lru_cache(maxsize=1 << 17)
def held_out(*parts: str | int) -> bool:
    """Whether this name or combination is kept out of training: the same answer everywhere, for ever.

    >>> held_out("name", "Mina") == held_out("name", "Mina")
    True
    """
    mixed = (crc32("|".join(map(str, parts)).encode()) * 2654435761) & 0xFFFFFFFF
    mixed ^= mixed >> 15
    return (mixed * 2246822519 & 0xFFFFFFFF) < SHARE * 2**32


def check_split(split: str) -> str:
    """The split's name itself, or a DataError that suggests the nearest one."""
    if split not in SPLITS:
        raise DataError(f"the world has no split '{split}'{nearest(split, SPLITS)}")
    return split
