#!/usr/bin/env python3
"""Checks the figures of a demo report against what is promised, and prints them.

usage: check_demo.py [--same-init] REPORT.json
"""

import json
import sys

LEAST_ALIGNED = 0.81
LEAST_GAIN_OVER_NAIVE = 0.10
# With one starting point the two means are the same model; this is room for rounding only.
MOST_GAIN_SAME_INIT = 0.005


def expect(claim, holds):
    print(f"  {'ok' if holds else 'FAILED'}: {claim}")
    return holds


def moved(report):
    """Every fraction of moved units that the report holds, wherever it stands."""
    found = []

    def walk(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "moved":
                    found.extend(inner if isinstance(inner, list) else [inner])
                else:
                    walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(report)
    return found


def main():
    same_init = "--same-init" in sys.argv[1:]
    (path,) = [argument for argument in sys.argv[1:] if argument != "--same-init"]
    with open(path) as file:
        report = json.load(file)
    rounds = report["rounds"]
    holds = [expect(f"three rounds or more: {len(rounds)}", len(rounds) >= 3)]
    for record in rounds:
        sites = [site["accuracy"] for site in record["sites"]]
        print(
            f"  round {record['round']}: sites {', '.join(f'{x:.4f}' for x in sites)}; "
            f"naive {record['naive']['accuracy']:.4f}, aligned {record['aligned']['accuracy']:.4f}, "
            f"merge-many {record['merge_many']['accuracy']:.4f}, ensemble {record['ensemble']['accuracy']:.4f}"
        )
    print(f"  one model on all data: {report['all_data']['accuracy']:.4f}; "
          f"barrier: naive {report['barrier']['naive']:.4f}, aligned {report['barrier']['aligned']:.4f}")
    first, last = rounds[0], rounds[-1]
    best = max(site["accuracy"] for site in first["sites"])
    aligned, naive = first["aligned"]["accuracy"], first["naive"]["accuracy"]
    if same_init:
        fractions = moved(report)
        holds.append(expect(f"the report tells what moved: {len(fractions)} figures", len(fractions) > 0))
        holds.append(expect("nothing moved", all(fraction == 0 for fraction in fractions)))
        gains = [abs(record["aligned"]["accuracy"] - record["naive"]["accuracy"]) for record in rounds]
        holds.append(expect(f"aligned is naive: differs by {max(gains):.4f}", max(gains) <= MOST_GAIN_SAME_INIT))
    else:
        holds.append(expect(f"round 1: aligned {aligned:.4f} >= {LEAST_ALIGNED}", aligned >= LEAST_ALIGNED))
        holds.append(expect(f"round 1: aligned {aligned:.4f} above every site (best {best:.4f})", aligned > best))
        holds.append(expect(
            f"round 1: aligned {aligned:.4f} >= naive {naive:.4f} + {LEAST_GAIN_OVER_NAIVE}",
            aligned >= naive + LEAST_GAIN_OVER_NAIVE))
        later = max(record["aligned"]["accuracy"] for record in rounds[1:]) if len(rounds) > 1 else 0
        holds.append(expect(f"later rounds improve on it: best {later:.4f}, last {last['aligned']['accuracy']:.4f}", later > aligned))
    sys.exit(0 if all(holds) else 1)


if __name__ == "__main__":
    main()
