"""Answers to chapter 14: ours."""

import heapq


def passes(lengths, seats):
    free = [0] * seats  # after which pass each seat is free
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def found(before, prompt, page):
    longest = 0
    for text in before:
        same = 0
        while same < min(len(text), len(prompt)) and text[same] == prompt[same]:
            same += 1
        longest = max(longest, same)
    return min(longest, len(prompt) - 1) // page * page
