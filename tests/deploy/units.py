#!/usr/bin/env python3
"""Checks the systemd units: by systemd-analyze, and by running their very commands, as systemd would, with credentials and folders in
the places that it gives them.

usage: units.py --programs target/debug
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile

import check
import settings
import started

UNITS = check.ROOT / "deploy" / "systemd"
# Of 100, as systemd-analyze counts what a service could do to the machine; these have as much.
MOST_EXPOSED = 14
# The first whose systemd-analyze judges files.
OLDEST = 251
KIT = {"kit.toml", "authority.pem", "site.pem", "site.key"}


def lines_of(unit, key):
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def analyzed(unit, programs, folder):
    """What systemd says of it, where the programs are those that were built."""
    copy = folder / unit.name.replace("@.", "@pilot.")
    copy.write_text(unit.read_text().replace("/usr/bin/", f"{programs.resolve()}/"))
    verify = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
    if verify.returncode or verify.stderr.strip():
        yield f"systemd-analyze verify: {verify.stderr.strip()}"
    security = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", copy],
                              capture_output=True, text=True, timeout=60)
    overall = security.stdout.strip().splitlines()[-1:]
    print(f"  {unit.name}: {' '.join(overall)}")
    if security.returncode:
        yield f"more exposed than {MOST_EXPOSED / 10}: {overall}"


def agrees(unit):
    """Credentials that are named are loaded, and variables are the program's."""
    loaded = {line.partition(":")[0] for line in lines_of(unit, "LoadCredential")}
    named = set(re.findall(r"%d/([\w.-]+)", unit.read_text()))
    if named - loaded:
        yield f"{named - loaded} not loaded"
    for variable in (line.partition("=")[0] for line in lines_of(unit, "Environment")):
        if variable not in settings.VARIABLES:
            yield f"there is no variable {variable}"
    made = lines_of(unit, "StateDirectory") + lines_of(unit, "RuntimeDirectory")
    for line in lines_of(unit, "(?:Environment|ExecStart|WorkingDirectory)"):
        for place in re.findall(r"%[St]/(\S+)", line):
            if place not in made:
                yield f"{place} is not made"


def command(unit, programs, folder, variables):
    """Its command and its environment, as systemd makes them: credentials in folder/credentials, state in folder/state."""
    def filled(text):
        for specifier, value in (("%d", folder / "credentials"), ("%S", folder / "state"), ("%t", folder / "run"), ("%i", "pilot")):
            text = text.replace(specifier, str(value))
        return text.replace("/usr/bin/", f"{programs.resolve()}/").replace("/etc/fedbasin/fedbasin.toml", str(folder / "fedbasin.toml"))
    (line,) = lines_of(unit, "ExecStart")
    words = []
    for word in shlex.split(filled(line)):
        if word.startswith("${"):
            words.append(variables[word[2:-1]])
        elif word.startswith("$"):
            words += shlex.split(variables[word[1:]])
        else:
            words.append(word)
    environment = dict(filled(line).split("=", 1) for line in lines_of(unit, "Environment"))
    return words, {"PATH": os.environ["PATH"], **environment}


def lay(programs, folder):
    """What an administrator puts at the places that the units name: settings, secrets, a kit."""
    server = programs / "fedbasin-server"
    started.lay_secrets(server, folder)
    credentials = folder / "credentials"
    credentials.mkdir()
    for file in (folder / "signing" / "signing-key.pem", folder / "admin" / "admin-token"):
        shutil.copy(file, credentials)
    database = f"sqlite://{folder}/rows.sqlite?mode=rwc"
    (credentials / "database-url").write_text(database + "\n")
    (credentials / "owner-url").write_text(database + "\n")
    settings = (check.ROOT / "deploy" / "systemd" / "fedbasin.toml").read_text()
    settings = settings.replace("/var/lib/fedbasin-objects", f"{folder}/objects")
    (folder / "fedbasin.toml").write_text(f'{settings}[grpc]\nlisten = "127.0.0.1:0"\n[http]\nlisten = "127.0.0.1:0"\n')
    issue = [server, "pki", "issue", "pilot", "--dir", folder / "made" / "pki", "--server", "https://localhost:1", "--run", "pilot", "-o", folder / "kit"]
    subprocess.run(issue, check=True, capture_output=True, timeout=60)
    for name in KIT:
        shutil.copy(folder / "kit" / name, credentials)


def goes_on(words, environment, until):
    """Whether it says that it is at work, and ends when it is told to."""
    process = subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        line = process.stdout.readline()
        process.terminate()
        _, errors = process.communicate(timeout=60)
        if not line.startswith(until):
            yield f"{words}: {line} {errors.strip()[-400:]}"
    finally:
        process.kill()
        process.wait()


def commands(programs, folder):
    lay(programs, folder)
    for name, until in (("server", "listening"), ("worker", "working")):
        yield from goes_on(*command(UNITS / f"fedbasin-{name}.service", programs, folder, {}), until)
    # Roles are Postgres's: on SQLite it goes as far as that.
    words, environment = command(UNITS / "fedbasin-migrate.service", programs, folder, {})
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    if "knows no roles" not in ended.stderr:
        yield f"{words}: {ended.stderr.strip()}"
    site = UNITS / "fedbasin-site@.service"
    if {line.partition(":")[0] for line in lines_of(site, "LoadCredential")} != KIT:
        yield "fedbasin-site@.service loads other files than a kit has"
    (folder / "state" / "fedbasin-site").mkdir(parents=True)
    words, environment = command(site, programs, folder, {"TRAIN": "python train.py", "OPTIONS": "--patience-seconds 1 --num-examples 5"})
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    # It read the kit, and calls the server that the kit names, which is not there.
    if ended.returncode != 1 or "https://localhost:1" not in ended.stderr:
        yield f"{words}: exit code {ended.returncode}: {ended.stderr.strip()}"


def faults(programs):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        units = sorted(UNITS.glob("*.service"))
        for unit in units:
            yield from (f"{unit.name}: {fault}" for fault in agrees(unit))
        yield from commands(programs, folder)
        print(f"  {len(units)} units: their commands run")
        if not systemd():
            raise check.LeftOut(f"there is no systemd-analyze of version {OLDEST} or newer: the units' hardening was NOT checked")
        for unit in units:
            yield from (f"{unit.name}: {fault}" for fault in analyzed(unit, programs, folder))


def systemd():
    """Whether there is a systemd-analyze that judges files."""
    if not shutil.which("systemd-analyze"):
        return False
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, timeout=60).stdout
    return int(re.search(r"systemd (\d+)", version)[1]) >= OLDEST


if __name__ == "__main__":
    check.run(faults)
