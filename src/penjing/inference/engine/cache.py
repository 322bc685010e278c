"""Who holds which page: taking, sharing, giving back, and finding again what another text began with.

A full page is known by its tokens and by the page before it; so a chain of pages is found only by exactly the tokens
that it was computed from, and two texts that begin alike use the same pages. A page that no text uses any more keeps
its content until its memory is needed; the longest unused goes first, of one text the end before the beginning.

    turn 1    [sys sys sys hi][ho w ar e][? ...            pages 1 2 3
    turn 2    [sys sys sys hi][ho w ar e][? fine .][and ...    finds 1 and 2, and takes over 3

The last page of a text that has ended is seldom full; the next text that goes on from its tokens takes it over. Only
one can, since it writes on where the other stopped.

Every page has a place in the pool of each kind of layer (each window, see `nn.paged`). Where a window has passed a page
by, its place there is given back alone; such a page serves a text that begins alike only if that text is so long that
the window has passed it too.

Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023,
arXiv:2309.06180, section 4.4; Zheng et al., "SGLang", 2023, arXiv:2312.07104, section 3.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

Window = int | None


class Page:
    """The keys and values of some consecutive tokens of a text, or of several texts that begin alike."""

    __slots__ = ("key", "places", "uid", "users")

    def __init__(self, uid: int, places: dict[Window, int]):
        self.uid = uid
        self.places = places
        """Where it is in each pool; a window that has lost it is missing."""
        self.users = dict.fromkeys(places, 0)
        self.key: tuple[int, tuple[int, ...]] | None = None
        """The page before it and its tokens, once it can be found by them: it is full, or its text has ended."""


class Pages:
    """The pages of one text, first to last."""

    def __init__(self, windows: Iterable[Window], found: Sequence[Page] = ()):
        self.pages = list(found)
        self.passed: dict[Window, int] = dict.fromkeys(windows, 0)
        """How many of the first pages each window has passed by."""
        self.sealed = len(self.pages)
        """How many can be found by other texts, or are known to equal one that can."""
        self.length = 0
        """How many tokens were there when the text began."""

    def tables(self) -> dict[Window, list[int]]:
        """For each window the places of all pages; -1 where the window has passed."""
        return {
            window: [-1] * passed + [page.places[window] for page in self.pages[passed:]]
            for window, passed in self.passed.items()
        }


class PageCache:
    """The pages of an engine.

    Args:
        sizes: how many pages the pool of each window has.
        page: tokens of a page.
        step: tokens of a text that one pass reads at most.
        reuse: whether pages are kept for texts that begin alike.
    """

    def __init__(self, sizes: dict[Window, int], page: int, step: int, *, reuse: bool = True):
        self.page = page
        self.step = step
        self.reuse = reuse
        self.sizes = sizes
        self._free = {window: list(range(size))[::-1] for window, size in sizes.items()}
        self._idle: dict[Window, OrderedDict[Page, None]] = {window: OrderedDict() for window in sizes}
        self._index: dict[tuple[int, tuple[int, ...]], Page] = {}
        self._uids = itertools.count(1)

    @property
    def used(self) -> dict[Window, int]:
        """How many pages of each pool texts hold now."""
        return {window: size - len(self._free[window]) - len(self._idle[window]) for window, size in self.sizes.items()}

    def available(self) -> int:
        """How many pages more could be taken."""
        return min(len(self._free[window]) + len(self._idle[window]) for window in self.sizes)

    def holds(self, window: Window, length: int) -> int:
        """How many pages of a window's pool a text of `length` tokens holds at most at a time."""
        return pages_for(length, window, self.page, self.step)

    def fits(self, pages: Pages, length: int) -> bool:
        """Whether there is room now for a text to grow to `length` tokens, and a page to spare."""
        return all(
            min(self.holds(window, length), self.pages_of(length) - len(pages.pages))
            < len(self._free[window]) + len(self._idle[window])
            for window in self.sizes
        )

    def pages_of(self, length: int) -> int:
        """How many pages `length` tokens fill or begin."""
        return -(-length // self.page)

    def begin(self, tokens: Sequence[int]) -> Pages:
        """The pages of a new text: those that are there already of its beginning, never of its last token."""
        found = self._match(tokens)
        pages = Pages(self.sizes, found)
        for window in self.sizes:
            pages.passed[window] = self._passed(window, len(found) * self.page)
            for page in found[pages.passed[window] :]:
                self._use(page, window)
        pages.length = len(found) * self.page + self._take_over(pages, tokens)
        return pages

    def extend(self, pages: Pages, length: int) -> bool:
        """Takes pages until there is room for `length` tokens; False, and nothing taken, when there are too few."""
        missing = self.pages_of(length) - len(pages.pages)
        if missing > self.available():
            return False
        for _ in range(missing):
            page = Page(next(self._uids), {window: self._place(window) for window in self.sizes})
            page.users = dict.fromkeys(self.sizes, 1)
            pages.pages.append(page)
        return True

    def seal(self, pages: Pages, tokens: Sequence[int], length: int) -> None:
        """Makes the pages that the first `length` tokens of a text fill findable by those tokens."""
        while self.reuse and (pages.sealed + 1) * self.page <= length:
            number = pages.sealed
            page = pages.pages[number]
            before = pages.pages[number - 1].uid if number else 0
            key = before, tuple(tokens[number * self.page : (number + 1) * self.page])
            known = self._index.get(key)
            if known is None:
                page.key, self._index[key] = key, page
            else:
                page.uid = known.uid  # what follows it is found by either
            pages.sealed += 1

    def retire(self, pages: Pages, tokens: Sequence[int], length: int) -> None:
        """Ends a text of which the first `length` tokens are there; its last page can be found, full or not."""
        number, rest = divmod(length, self.page)
        if self.reuse and rest and pages.sealed == number < len(pages.pages):
            page = pages.pages[number]
            key = pages.pages[number - 1].uid if number else 0, tuple(tokens[number * self.page : length])
            if key not in self._index and len(page.places) == len(self.sizes):
                page.key, self._index[key] = key, page
        self.end(pages)

    def slide(self, pages: Pages, length: int) -> None:
        """Gives back what windows have passed by when the next token's position is `length`."""
        for window, passed in pages.passed.items():
            now = self._passed(window, length)
            for page in pages.pages[passed:now]:
                self._release(page, window)
            pages.passed[window] = max(passed, now)

    def fork(self, pages: Pages, length: int, copy: Callable[[Window, int, int], None]) -> Pages | None:
        """The same text once more: full pages are shared, what the last one holds is copied. None without room."""
        full = length // self.page
        if length % self.page and not self.available():
            return None
        other = Pages(self.sizes, pages.pages[:full])
        other.passed, other.sealed = dict(pages.passed), min(pages.sealed, full)
        for window, passed in other.passed.items():
            for page in other.pages[passed:]:
                self._use(page, window)
        if length % self.page:
            self.extend(other, length)
            for window, passed in other.passed.items():
                if passed <= full:
                    copy(window, pages.pages[full].places[window], other.pages[full].places[window])
        return other

    def end(self, pages: Pages) -> None:
        """Gives all pages back, the last first, so that the first are forgotten last."""
        for window, passed in pages.passed.items():
            for page in reversed(pages.pages[passed:]):
                self._release(page, window)
        pages.pages, pages.sealed = [], 0
        pages.passed = dict.fromkeys(self.sizes, 0)

    def forget(self) -> None:
        """Forgets what no text uses: the model's weights have changed, say."""
        for window, idle in self._idle.items():
            while idle:
                self._free[window].append(self._evict(window))

    def _passed(self, window: Window, length: int) -> int:
        """How many of a text's first pages the query at position `length` cannot see."""
        return 0 if window is None else max(0, length - window + 1) // self.page

    def _match(self, tokens: Sequence[int]) -> list[Page]:
        found: list[Page] = []
        uid = 0
        for start in range(0, len(tokens) - self.page if self.reuse else 0, self.page):
            page = self._index.get((uid, tuple(tokens[start : start + self.page])))
            if page is None or (None in self.sizes and None not in page.places):
                break
            found.append(page)
            uid = page.uid
        number = len(found)
        while number and not self._complete(found[:number]):
            number -= 1
        return found[:number]

    def _take_over(self, pages: Pages, tokens: Sequence[int]) -> int:
        """Gives a new text the page that another left unfinished where it goes on; how many tokens that holds."""
        first = len(pages.pages) * self.page
        before = pages.pages[-1].uid if pages.pages else 0
        for count in range(min(self.page, len(tokens) - first) - 1 if self.reuse else 0, 0, -1):
            page = self._index.get((before, tuple(tokens[first : first + count])))
            if page is not None and len(page.places) == len(self.sizes) and not any(page.users.values()):
                assert page.key is not None
                del self._index[page.key]
                page.key = None
                for window in self.sizes:
                    self._use(page, window)
                pages.pages.append(page)
                return count
        return 0

    def _complete(self, found: list[Page]) -> bool:
        """Whether every window still has what the text's next token sees."""
        return all(
            window in page.places
            for window in self.sizes
            for page in found[self._passed(window, len(found) * self.page) :]
        )

    def _use(self, page: Page, window: Window) -> None:
        page.users[window] += 1
        self._idle[window].pop(page, None)

    def _release(self, page: Page, window: Window) -> None:
        page.users[window] -= 1
        if page.users[window]:
            return
        if page.key is not None:
            self._idle[window][page] = None
        else:
            self._free[window].append(page.places.pop(window))

    def _place(self, window: Window) -> int:
        return self._free[window].pop() if self._free[window] else self._evict(window)

    def _evict(self, window: Window) -> int:
        page, _ = self._idle[window].popitem(last=False)
        if page.key is not None and (window is None or len(page.places) == 1):
            del self._index[page.key]
            page.key = None
            for other in [w for w in page.places if w != window and not page.users[w]]:
                del self._idle[other][page]
                self._free[other].append(page.places.pop(other))
        return page.places.pop(window)


def pages_for(length: int, window: Window, page: int, step: int) -> int:
    """How many pages a text of `length` tokens holds at most, when at most `step` of them are read in one pass."""
    whole = -(-length // page)
    return whole if window is None else min(whole, -(-(window + step) // page) + 1)
