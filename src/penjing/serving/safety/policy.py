"""What is done with a text: every filter looks, the policy says what follows, and the strictest action is taken.

    policy = Policy.read("policy.toml")                 # None: the default one
    decision = policy.check("Call me on 13812345678", "output", user="ann")
    decision.action, decision.text                      # "redact", "Call me on <PHONE>"
    str(decision.reasons[0])                            # "personal: PHONE (a mobile number of China)"

What a policy may say is in `default.toml`. Each decision but "allow" has its reasons and goes to the audit log, which
holds no text unless asked to. A decision that blocks has no text left; what the person is told instead is its
`message`, and for someone who may hurt themselves that is help, in their language.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penjing.serving.safety.audit import AuditLog
from penjing.serving.safety.findings import HIDDEN, Finding, redacted
from penjing.serving.safety.injection import suspicion
from penjing.serving.safety.language import language_of
from penjing.serving.safety.normalise import invisible, plain
from penjing.serving.safety.personal import find_personal
from penjing.serving.safety.self_harm import HELP, find_self_harm
from penjing.serving.safety.settings import ACTIONS, Action, PolicySettings, Where, read_settings
from penjing.serving.safety.words import WordList

if TYPE_CHECKING:
    from penjing.serving.safety.moderator import Moderator
    from penjing.serving.safety.presidio import Presidio
    from penjing.serving.safety.stream import StreamFilter

_log = logging.getLogger("penjing.serving.safety")
_PASSAGE = 1200
"""Characters of a text that are judged at a time: what is bad does not get lost in much that is not."""
_MESSAGES = {
    "en": "This was stopped by the server's safety rules ({why}). Please say it differently, or ask something else.",
    "zh": "该内容被服务器的安全规则拦截（{why}）。请换一种说法，或者问点别的。",
}


@dataclass(frozen=True)
class Reason:
    """Why a filter minds a text."""

    rule: str
    """The policy's table: "personal", "moderation", ..."""
    action: Action
    """What follows from it."""
    kind: str
    """What it is: "EMAIL", "violence", ..."""
    why: str
    """How it was told."""
    count: int = 1

    def __str__(self) -> str:
        times = f" x{self.count}" if self.count > 1 else ""
        return f"{self.rule}: {self.kind}{times} ({self.why})"

    def to_dict(self) -> dict[str, Any]:
        """For the audit log and for APIs."""
        return {"rule": self.rule, "action": self.action, "kind": self.kind, "why": self.why, "count": self.count}


@dataclass(frozen=True)
class Decision:
    """What is done with a text, and why."""

    action: Action
    text: str
    """What may pass: the text, redacted where something was taken out; empty where it is blocked."""
    reasons: tuple[Reason, ...] = ()
    help: str | None = None
    """What someone who may hurt themselves is answered, in their language."""
    message: str = ""
    """What the person is told where a text is blocked."""


class Policy:
    """Filters and what follows from them; safe to use from several threads.

    Args:
        settings: what follows from what.
        moderator: the classifier, if there is one.
        base: the folder that relative paths in the settings start from.

    Raises:
        ConfigError, DataError, CheckpointError: a file that the settings name is missing or damaged, or presidio is.
    """

    def __init__(self, settings: PolicySettings, *, moderator: "Moderator | None" = None, base: Path | None = None):
        from penjing.serving.safety.moderator import Moderator
        from penjing.serving.safety.tagger import Tagger

        base = base or Path()
        self.settings = settings
        self.moderator = moderator
        if moderator is None and settings.moderation.model:
            self.moderator = Moderator.load(base / settings.moderation.model)
        self._lists = [WordList.read(base / file) for file in settings.words.files]
        if settings.words.words:
            self._lists.append(WordList(settings.words.words, "the policy's words"))
        self._allowed_words = {plain(word).text for word in settings.words.allow}
        folder = settings.personal.tagger
        self._tagger = Tagger.load(base / folder) if folder else None
        self._presidio: Presidio | None = _presidio() if settings.personal.presidio else None
        self.audit = AuditLog(base / settings.audit.file, text=settings.audit.text) if settings.audit.file else None

    @classmethod
    def read(cls, path: str | Path | None = None, *, moderator: "Moderator | None" = None) -> "Policy":
        """The policy in a TOML file; the default one for None.

        Args:
            path: the file; paths in it start from its folder.
            moderator: a classifier in the place of the one that the file names.

        Raises:
            ConfigError, DataError, CheckpointError: it is missing or says what cannot be, or a file it names does.
        """
        file = None if path is None else Path(path)
        return cls(read_settings(file), moderator=moderator, base=file.parent if file else None)

    def check(self, text: str, where: Where, *, user: str = "", context: str = "") -> Decision:
        """What is done with a text.

        Args:
            text: what a user, the model or a tool says.
            where: which of them.
            user: who is asking, for the audit log.
            context: what was said just before, and has passed: a find that begins in it and ends in the text counts.
        """
        decision = self.decide(text, where, context=context)
        self.note(decision, text, where, user=user)
        return decision

    def decide(self, text: str, where: Where, *, context: str = "") -> Decision:
        """As `check`, and the audit log is not told."""
        finds = [find for find in self._finds(text, where, context) if find[0].action != "allow"]
        action: Action = max((reason.action for reason, _ in finds), key=ACTIONS.index, default="allow")
        taken = [finding for reason, findings in finds if reason.action == "redact" for finding in findings]
        reasons = tuple(sorted((reason for reason, _ in finds), key=lambda r: -ACTIONS.index(r.action)))
        language = language_of(context + text)
        help_text = self._help(language) if where == "input" and any(map(_self_harm, reasons)) else None
        passing = "" if action == "block" else redacted(text, taken)
        message = ""
        if action == "block":
            why = ", ".join(dict.fromkeys(reason.kind for reason in reasons if reason.action == "block"))
            message = help_text or _MESSAGES[language].format(why=why)
        return Decision(action, passing, reasons, help_text, message)

    def note(self, decision: Decision, text: str, where: Where, *, user: str = "") -> None:
        """Writes a decision about a text into the audit log, or where there is none into the server's; not "allow"."""
        if decision.action == "allow":
            return
        reasons = [reason.to_dict() for reason in decision.reasons]
        if self.audit is not None:
            self.audit.write(user=user, where=where, action=decision.action, reasons=reasons, text=text)
        else:
            _log.info("%s of %s: %s", decision.action, where, json.dumps(reasons, ensure_ascii=False))

    def stream(self, *, user: str = "") -> "StreamFilter":
        """A filter for what a model says piece by piece."""
        from penjing.serving.safety.stream import StreamFilter

        return StreamFilter(
            lambda sentence, context: self.decide(sentence, "output", context=context),
            lambda decision, sentence: self.note(decision, sentence, "output", user=user),
        )

    def close(self) -> None:
        """Closes the audit log."""
        if self.audit is not None:
            self.audit.close()

    def _finds(self, text: str, where: Where, context: str) -> Iterator[tuple[Reason, list[Finding]]]:
        """Each filter's reason and where in the text its finds are."""
        settings = self.settings
        whole, border = context + text, len(context)

        def reasons(rule: str, action: Action, findings: Sequence[Finding]) -> Iterator[tuple[Reason, list[Finding]]]:
            by_kind: dict[str, list[Finding]] = {}
            for found in findings:
                if found.end > border:
                    placed = Finding(found.kind, max(found.start - border, 0), found.end - border, found.why)
                    by_kind.setdefault(found.kind, []).append(placed)
            for kind, members in by_kind.items():
                why = ", ".join(dict.fromkeys(member.why for member in members))
                yield Reason(rule, action, kind, why, len(members)), members

        if (action := settings.hidden_text.action(where)) != "allow":
            unseen = [Finding(HIDDEN, start, end, "characters that no one sees") for start, end in invisible(whole)]
            yield from reasons("hidden_text", action, unseen)
        if (action := settings.self_harm.action(where)) != "allow":
            yield from reasons("self_harm", action, list(find_self_harm(whole)))
        actions = settings.personal.action(where), settings.keys.action(where)
        if actions != ("allow", "allow"):
            personal = self._personal(whole)
            yield from reasons("personal", actions[0], [found for found in personal if found.kind != "KEY"])
            yield from reasons("keys", actions[1], [found for found in personal if found.kind == "KEY"])
        if self._lists and (action := settings.words.action(where)) != "allow":
            yield from reasons("words", action, self._words(whole))
        if (action := settings.injection.action(where)) != "allow":
            found = suspicion(whole)
            if found.score >= settings.injection.score and any(place.end > border for place in found.findings):
                why = f"{', '.join(found.signs)}: suspicion {found.score:.2f}, limit {settings.injection.score:g}"
                places = [Finding(p.kind, max(p.start - border, 0), p.end - border, p.why) for p in found.findings]
                yield Reason("injection", action, "INSTRUCTION", why), [p for p in places if p.end > 0]
        if self.moderator is not None and (action := settings.moderation.action(where)) != "allow":
            yield from self._moderation(text, context, action)

    def _personal(self, text: str) -> list[Finding]:
        spelled = plain(text, lower=False)
        kinds = {*self.settings.personal.kinds, "KEY"}
        found = find_personal(spelled.text, kinds, allow=self.settings.personal.allow, tagger=self._tagger)
        if self._presidio is not None:
            found = [*found, *self._presidio.find(spelled.text, kinds, allow=self.settings.personal.allow)]
        return [Finding(f.kind, *spelled.span(f.start, f.end), f.why) for f in found]

    def _words(self, text: str) -> list[Finding]:
        spelled = plain(text)
        found = [finding for words in self._lists for finding in words.find(text, spelled)]
        return [f for f in found if plain(text[f.start : f.end]).text not in self._allowed_words]

    def _moderation(self, text: str, context: str, action: Action) -> Iterator[tuple[Reason, list[Finding]]]:
        """The classifier's word on the text, and on what came before with it."""
        assert self.moderator is not None
        passages = _passages(text)
        if context.strip() and text.strip():
            passages.append((context + text)[-_PASSAGE:])
        settings = self.settings.moderation
        worst: dict[str, float] = {}
        for judged in self.moderator.judge(passages, false_positives=settings.false_positives):
            for name in judged.categories:
                worst[name] = max(worst.get(name, 0.0), judged.scores[name])
        everything = [Finding("MODERATED", 0, len(text))]
        for name, score in worst.items():
            why = f"probability {score:.2f}, at {settings.false_positives:.1%} false positives"
            yield Reason("moderation", settings.categories.get(name, action), name, why), everything

    def _help(self, language: str) -> str:
        own = self.settings.self_harm.help_zh if language == "zh" else self.settings.self_harm.help_en
        return own or HELP[language]


def _presidio() -> "Presidio":
    from penjing.serving.safety.presidio import Presidio

    return Presidio()


def _self_harm(reason: Reason) -> bool:
    judged = reason.rule == "moderation" and reason.kind == "self-harm"
    return reason.action in ("warn", "redact", "block") and (judged or reason.rule == "self_harm")


def _passages(text: str) -> list[str]:
    """The text in pieces that the classifier reads as a whole, each with the end of the one before."""
    step = _PASSAGE * 3 // 4
    starts = range(0, max(len(text) - _PASSAGE // 4, 1), step)
    return [piece for start in starts if (piece := text[start : start + _PASSAGE]).strip()]
