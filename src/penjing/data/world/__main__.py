"""Prints samples of the world: `python -m penjing.data.world --skill location --language zh --split heldout -n 5`."""

import argparse

from penjing.data.world import LANGUAGES, dialogue, document, skills
from penjing.data.world.split import SPLITS


def main() -> None:
    """Prints dialogues with what would be accepted, or documents."""
    parser = argparse.ArgumentParser(prog="python -m penjing.data.world", description=__doc__)
    parser.add_argument("--skill", choices=[skill.name for skill in skills()], help="dialogues of this skill only")
    parser.add_argument("--language", choices=LANGUAGES)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("-n", type=int, default=5, metavar="COUNT", help="how many samples")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--documents", action="store_true", help="pretraining text instead of dialogues")
    args = parser.parse_args()
    for seed in range(args.seed, args.seed + args.n):
        if args.documents:
            print(document(seed, split=args.split, language=args.language))
        else:
            item = dialogue(seed, split=args.split, language=args.language, skill=args.skill)
            print(f"[{item.skill} · {item.language} · difficulty {item.difficulty}]")
            for message in item.messages:
                print(f"{message['role']:>9}: {message['content']}")
        print()


if __name__ == "__main__":
    main()
