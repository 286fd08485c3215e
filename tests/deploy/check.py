"""How the checks of this folder are programs."""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


class LeftOut(Exception):
    """Cannot be done on this machine."""


def run(faults_of):
    """`--programs FOLDER`: each fault that is found with them on a line. Exit code 0; 1 for faults; 3 where something is left out, and why."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", required=True, type=pathlib.Path)
    programs = parser.parse_args().programs
    code = 0
    try:
        for fault in faults_of(programs):
            print(f"  FAILED: {fault}")
            code = 1
    except LeftOut as why:
        if not code:
            print(f"left out: {why}")
            code = 3
    sys.exit(code)
