"""Checks chapter 20: python docs/path/checks/20.py my_answer.py."""

import sys

import torch
from checking import Checks, differ, first

checks = Checks()


def simulated(stages: int, micro_batches: int) -> float:
    """The share of its time for which a process waits, in 1F1B with a backward pass twice as long as a forward one.

    Each stage does its passes in the order of 1F1B, each as soon as what it needs is there.
    """
    orders = []
    for stage in range(stages):
        ahead = min(stages - stage - 1, micro_batches)
        order = [("forward", i) for i in range(ahead)]
        for i in range(micro_batches - ahead):
            order += [("forward", ahead + i), ("backward", i)]
        order += [("backward", i) for i in range(micro_batches - ahead, micro_batches)]
        orders.append(order)
    ends: dict[tuple[int, str, int], int] = {}
    clock, done = [0] * stages, [0] * stages
    while any(done[stage] < len(order) for stage, order in enumerate(orders)):
        for stage, order in enumerate(orders):
            if done[stage] == len(order):
                continue
            what, i = order[done[stage]]
            needs = [(stage - 1, "forward", i)] if what == "forward" else [(stage + 1, "backward", i)]
            needs = [need for need in needs if 0 <= need[0] < stages]
            if all(need in ends for need in needs):
                begin = max([clock[stage], *(ends[need] for need in needs)])
                clock[stage] = begin + (1 if what == "forward" else 2)
                ends[stage, what, i] = clock[stage]
                done[stage] += 1
    return 1 - 3 * micro_batches / max(clock)


@checks.exercise("idle")
def _(idle):
    for stages, micro_batches in ((1, 4), (2, 1), (2, 4), (4, 4), (4, 8), (8, 64)):
        expected = simulated(stages, micro_batches)
        wrong = differ(f"idle({stages}, {micro_batches})", idle(stages, micro_batches), expected)
        if wrong:
            return wrong
    return None


@checks.exercise("merge")
def _(merge):
    generator = torch.Generator().manual_seed(20)
    for heads, queries, keys, scale in ((1, 3, 8, 1.0), (4, 5, 7, 3.0), (2, 2, 16, 300.0)):
        scores = scale * torch.randn(heads, queries, keys, generator=generator)
        values = torch.randn(heads, keys, 6, generator=generator)
        cut = keys // 3
        parts = [(scores[..., :cut], values[:, :cut]), (scores[..., cut:], values[:, cut:])]
        if scale == 3.0:  # the first query sees nothing of the second part, as a causal mask may have it
            parts[1][0][:, 0] = -torch.inf
        given = []
        for part, value in parts:
            lse = part.logsumexp(-1)
            safe = lse.masked_fill(lse == -torch.inf, 0.0)
            given += [(part - safe[..., None]).exp() @ value, lse]
        answer = merge(*given)
        call = f"merge of {cut} and {keys - cut} keys"
        if not isinstance(answer, tuple) or len(answer) != 2:
            return f"{call} gives {type(answer).__name__}, not a pair (out, lse)"
        wrong = first(
            differ(f"{call}: out", answer[0], scores.softmax(-1) @ values),
            differ(f"{call}: lse", answer[1], scores.logsumexp(-1)),
        )
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
