"""Checks what a model says while it says it: a sentence is shown once it has been checked, and not before.

    pieces       "My num" "ber is 138" "1234567" "8. Call" " me!"
    held         until a sentence is whole: "My number is 13812345678." is whole when the space after the dot comes
    shown        "My number is <PHONE>." then " Call me!"

A sentence ends after 。！？； or …, after . ! or ? that white space follows, and at a line's end; closing quotes and
brackets belong to it. No more than `LONGEST` characters are held: of a longer sentence that many are checked, and shown
but for the last `KEPT`, which are checked again with what follows. What is shown does not depend on how the text was
cut into pieces, because whether a sentence is whole is decided by characters, never by pieces.

Each sentence is checked with what was shown before it, so that what begins in one sentence and ends in the next is
found, too. After a sentence that is blocked nothing more is shown.
"""

import re
from collections.abc import Callable, Iterator

from penjing.serving.safety.policy import Decision

LONGEST = 400
"""Characters that are held at most."""
KEPT = 80
"""Of those, what stays when a sentence is longer: as long as anything a rule looks for, as a rule."""
CONTEXT = 300
"""Characters before a sentence that are looked at with it."""
_BORDER = re.compile(
    r"(?:[。！？；…]++[”’」』）》\"')\]】]*+(?=.)"  # possessive: a closing quote that is still to come is waited for
    r"|[.!?]++[”’」』）》\"')\]】*_]*+(?=\s)"
    r"|\n++(?=.))",
    re.DOTALL,
)


class StreamFilter:
    """Checks one reply.

    Args:
        decide: what is done with a sentence, given what came before it.
        note: is told each decision that was carried out, and about which sentence.
    """

    def __init__(
        self,
        decide: Callable[[str, str], Decision],
        note: Callable[[Decision, str], None] = lambda decision, text: None,
    ):
        self._decide, self._note = decide, note
        self._held = ""
        self._before = ""
        self.blocked: Decision | None = None
        """The decision that ended the reply."""

    def waits(self, piece: str) -> bool:
        """Whether a piece makes no sentence whole: `push` then takes it in without checking anything."""
        text = self._held + piece
        return self.blocked is not None or (len(text) <= LONGEST and _BORDER.search(text) is None)

    def push(self, piece: str) -> Iterator[str | Decision]:
        """What may be shown now that a piece has come: texts, and the decisions that warn, redact or block.

        A decision comes before the text that it is about. After one that blocks nothing comes any more.
        """
        if self.blocked is not None:
            return
        self._held += piece
        while self.blocked is None:
            border = _BORDER.search(self._held)
            if border is not None and border.end() <= LONGEST:
                yield from self._let_out(border.end())
            elif len(self._held) > LONGEST:
                yield from self._let_out(LONGEST, whole=False)
            else:
                return

    def flush(self) -> Iterator[str | Decision]:
        """The rest, once the reply is over."""
        yield from self.push("")
        if self.blocked is None and self._held:
            yield from self._let_out(len(self._held))

    def _let_out(self, length: int, *, whole: bool = True) -> Iterator[str | Decision]:
        """Checks the first characters that are held, and shows them: of a part of a sentence not quite all."""
        text = self._held[:length]
        decision = self._decide(text, self._before)
        if decision.action != "block" and not whole:
            text, decision = self._beginning(text, decision)
        if decision.action != "allow":
            self._note(decision, text)
        if decision.action == "block":
            self.blocked, self._held = decision, ""
            yield decision
            return
        self._held = self._held[len(text) :]
        self._before = (self._before + text)[-CONTEXT:]
        if decision.action in ("warn", "redact"):
            yield decision
        if decision.text:
            yield decision.text

    def _beginning(self, text: str, whole: Decision) -> tuple[str, Decision]:
        """How much of a long sentence to show, and what becomes of that.

        Where something is taken out, the cut must not go through it: what the part becomes is then a beginning of what
        the whole becomes. If every cut would, all of it is shown, as it was checked.
        """
        for cut in [place + 1 for place in range(LONGEST - KEPT, LONGEST // 2, -1) if text[place].isspace()] or [
            LONGEST - KEPT
        ]:
            part = text[:cut]
            if whole.action != "redact":
                return part, Decision(whole.action, part, whole.reasons)
            decision = self._decide(part, self._before)
            if decision.action != "block" and whole.text.startswith(decision.text):
                return part, decision
        return text, whole
