"""What settings there are: deploy/fedbasin.toml names every key, `fedbasin-server … --help` every variable and flag."""

import re

try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

import check

SAMPLE = (check.ROOT / "deploy" / "fedbasin.toml").read_text()
HELP = (check.ROOT / "tests" / "snapshots" / "fedbasin-server.txt").read_text()
# Hidden in the help, for they are secrets: the sample names them.
VARIABLES = set(re.findall(r"\[env: (FEDBASIN_\w+)", HELP)) | set(re.findall(r"FEDBASIN_\w+", SAMPLE))


def known_keys():
    """`key` and `table.key` of every line of the sample, whether it is a comment or not. A table within one is a key of it."""
    table, keys = "", set()
    for line in SAMPLE.splitlines():
        line = line.removeprefix("# ")
        if header := re.match(r"\[{1,2}(\w+)(\.\w+)?\]", line):
            table = header[1] + "."
            if header[2]:
                table = None
                keys.add(header[1] + header[2])
        elif table is None:
            continue
        elif key := re.match(r"(\w+) +?= ", line):
            keys.add(table + key[1])
    return keys


def keys_of(text):
    """The same of a file of settings."""
    for key, value in tomllib.loads(text).items():
        tables = value if isinstance(value, list) else [value]
        for table in tables:
            if isinstance(table, dict):
                yield from (f"{key}.{inner}" for inner in table)
            else:
                yield key


def flags_of(command):
    """The flags that `fedbasin-server COMMAND --help` names."""
    start = HELP.index(f"$ fedbasin-server {command} --help")
    end = HELP.find("\n$ ", start)
    return set(re.findall(r"^ +(?:-\w, +)?(--[a-z-]+)", HELP[start:end], re.MULTILINE))
