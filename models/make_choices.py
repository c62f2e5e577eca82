#!/usr/bin/env python3
"""Makes multiple-choice questions from a file of stories: which sentence goes on with this one?

The right choice is the story's own next sentence, the three wrong ones come from the same place of other stories.

  make_choices.py tinystories-heldout.txt story-choices.jsonl --questions 200
"""
import argparse
import json
import random
import re

from arguments import run, whole

CONTEXT_SENTENCES = 3
CHOICES = 4


def sentences_of(story):
    return [s for s in re.split(r'(?<=[.!?"])\s+(?=[A-Z"])', " ".join(story.split())) if s]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stories", help="text; stories separated by lines <|endoftext|>")
    parser.add_argument("out", help="JSON lines, as `tidegate eval --choices` reads them")
    parser.add_argument("--questions", type=whole(1, 1_000_000), default=200)
    parser.add_argument("--seed", type=whole(), default=1)
    args = parser.parse_args()
    with open(args.stories, encoding="utf-8") as file:
        stories = [sentences_of(story) for story in file.read().split("<|endoftext|>")]
    stories = [story for story in stories if len(story) > CONTEXT_SENTENCES]
    chance = random.Random(args.seed)
    order = chance.sample(range(len(stories)), min(args.questions, len(stories)))
    with open(args.out, "w", encoding="utf-8") as file:
        for index in order:
            others = [i for i in range(len(stories)) if i != index]
            drawn = [index, *chance.sample(others, CHOICES - 1)]
            chance.shuffle(drawn)
            json.dump({"context": " ".join(stories[index][:CONTEXT_SENTENCES]),
                       "choices": [" " + stories[i][CONTEXT_SENTENCES] for i in drawn],
                       "answer": drawn.index(index)}, file, ensure_ascii=False)
            file.write("\n")


if __name__ == "__main__":
    run(main)
