"""Answers to chapter 23: ours, and the shortest stream that shows whole sentences."""


def recall_at(harmful, harmless, rate):
    ordered = sorted(harmless, reverse=True)
    limit = ordered[min(int(rate * len(ordered) + 1e-9), len(ordered) - 1)]
    return sum(score > limit for score in harmful) / len(harmful)


def show(pieces, is_bad):
    held = ""
    for piece in pieces:
        held += piece
        place = 0
        while place < len(held) - 1:
            if held[place] in ".!?" and held[place + 1] == " ":
                sentence, held, place = held[: place + 1], held[place + 1 :], -1
                if is_bad(sentence):
                    return
                yield sentence
            place += 1
    if held and not is_bad(held):
        yield held
