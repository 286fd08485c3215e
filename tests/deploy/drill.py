#!/usr/bin/env python3
"""The drill of deploy/backup: a server with a published round is backed up and restored, on Postgres and on SQLite; backups that are
damaged, lack something or come from before what was seen are found out.

usage: drill.py --programs target/debug    (FEDBASIN_TEST_POSTGRES_URL: a Postgres whose user may create databases and roles)
"""

import json
import os
import pathlib
import re
import secrets
import shutil
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import check

BACKUP = check.ROOT / "deploy" / "backup"
TOKEN = "an-admin-token-of-the-test-0123456789"
SECONDS = 60


class Postgres:
    """Databases of this test, and a role, all dropped at its end."""

    def __init__(self):
        self.server = os.environ.get("FEDBASIN_TEST_POSTGRES_URL")
        if not self.server:
            raise SystemExit("drill.py: FEDBASIN_TEST_POSTGRES_URL is not set; `tests/run deploy` starts a Postgres")
        self.mark = secrets.token_hex(4)
        self.made = []
        self.role = f"backup_app_{self.mark}"
        self.sql(f"CREATE ROLE {self.role} LOGIN PASSWORD 'p%:w'")

    def sql(self, text, url=None):
        psql = ["psql", "--no-psqlrc", "--quiet", "-tA", "-v", "ON_ERROR_STOP=1", "-d", url or self.server, "-c", text]
        return subprocess.run(psql, check=True, capture_output=True, text=True, timeout=SECONDS).stdout.split()

    def url(self, name, as_role=False):
        parts = urllib.parse.urlsplit(self.server)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(path=f"/{name}", netloc=f"{self.role}:p%25%3Aw@{place}" if as_role else parts.netloc).geturl()

    def database(self, what):
        name = f"backup_{what}_{self.mark}"
        self.sql(f"CREATE DATABASE {name}")
        self.made.append(name)
        return self.url(name)

    def left(self):
        return self.sql("SELECT datname FROM pg_database WHERE datname LIKE 'fedbasin_drill_%'")

    def close(self):
        for name in self.made:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")
        self.sql(f"DROP ROLE {self.role}")


class Installation:
    """A server's settings, and what is done with them."""

    def __init__(self, programs, folder, url):
        self.programs, self.folder, self.url = programs, folder, url
        self.data, self.objects = folder / "data", folder / "objects"
        self.http = self.grpc = self.process = None

    def environment(self, **more):
        where = {"FEDBASIN_DATABASE_URL": self.url} if self.url else {}
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "FEDBASIN_DATA_DIR": str(self.data),
                "FEDBASIN_OBJECTS_URL": f"file://{self.objects}", "FEDBASIN_ADMIN_TOKEN": TOKEN,
                "FEDBASIN_SERVER_PROGRAM": str(self.programs / "fedbasin-server"), **where, **more}

    def __enter__(self):
        serve = [self.programs / "fedbasin-server", "serve", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(serve, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"drill.py: the server does not start: {self.process.stderr.read()}")
        self.grpc, self.http = re.search(r"grpc=(\S+) http=(\S+)", line).groups()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=SECONDS)

    def admin(self, *arguments):
        said = subprocess.run([self.programs / "fedbasin", "--json", "admin", "--server", self.http, *arguments],
                              env=self.environment(), capture_output=True, text=True, timeout=SECONDS)
        if said.returncode:
            raise SystemExit(f"drill.py: {arguments}: {said.stderr}")
        return said.stdout

    def backup(self, *arguments, **more):
        return subprocess.run([BACKUP, *map(str, arguments)], env=self.environment(**more), capture_output=True, text=True, timeout=SECONDS)


def checkpoint(path, fill):
    """A perceptron of two layers, as a safetensors file."""
    shapes = {"0.weight": [4, 3], "0.bias": [4], "2.weight": [2, 4], "2.bias": [2]}
    header, data = {}, b""
    for name, shape in shapes.items():
        numbers = [fill + index * 0.01 for index in range(shape[0] * (shape[1] if len(shape) == 2 else 1))]
        begin = len(data)
        data += struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def one_round(server, site="a"):
    """A site sends an update; its round is published."""
    folder, fedbasin = server.folder, server.programs / "fedbasin"
    token = folder / f"{site}-token"
    server.admin("enrol", site, "--output", str(token))
    checkpoint(folder / "model.safetensors", 0.5)
    spec = [fedbasin, "spec", "mlp", folder / "model.safetensors", "-o", folder / "spec.json"]
    subprocess.run(spec, check=True, capture_output=True, timeout=SECONDS)
    created = server.admin("create-run", "--cohort", site, "--rounds", "1", "--quorum", "1", "--deadline-seconds", "600", "--spec",
                       str(folder / "spec.json"))
    run = json.loads(created)["id"]
    upload = [fedbasin, "site", "upload", "--server", server.grpc, "--token-file", token, "--run", run, "--num-examples", "5"]
    subprocess.run([*upload, folder / "model.safetensors"], env=server.environment(), check=True, capture_output=True, timeout=SECONDS)
    server.admin("watch", run)
    return run


def model(server, run):
    path = server.folder / f"published-{secrets.token_hex(4)}"
    server.admin("model", run, "1", "-o", str(path))
    return path.read_bytes()


def expanded(server, postgres):
    """A server goes on, with traffic, where a newer version has added to the schema meanwhile; where it took something away its proxy is told."""
    added = [f"ALTER TABLE {table} ADD COLUMN of_the_next_version TEXT"
             for table in postgres.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '\\_%'", server.url)]
    step = "INSERT INTO _sqlx_migrations SELECT 999, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations LIMIT 1"
    postgres.sql("; ".join(["CREATE TABLE of_the_next_version (id TEXT)", *added, step]), server.url)
    one_round(server, "of-before")
    code, _ = ready(server)
    if code != 200:
        yield f"a server of before is not ready where a newer version only added to the schema: {code}"
    floor = postgres.sql("SELECT oldest FROM schema_floor", server.url)[0]
    postgres.sql("UPDATE schema_floor SET oldest = 999", server.url)
    begun = time.monotonic()
    # What it found a moment ago counts for a moment.
    while (said := ready(server))[0] == 200 and time.monotonic() - begun < SECONDS:
        time.sleep(0.2)
    if said[0] != 503 or b"use the newer program" not in said[1]:
        yield f"/readyz does not say that the schema is too new: {said}"
    postgres.sql(f"UPDATE schema_floor SET oldest = {floor}; DELETE FROM _sqlx_migrations WHERE version = 999", server.url)


def ready(server):
    try:
        with urllib.request.urlopen(server.http + "/readyz", timeout=SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read()


def first_start(program, data):
    """Of a server, which makes its data folder and ends."""
    first = subprocess.Popen([program, "serve", "--data-dir", data, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    first.stdout.readline()
    first.terminate()
    first.communicate(timeout=SECONDS)


def damages(folder, keys):
    """Ways to damage a backup, each with what is to be said of it."""
    big = max((folder / "objects").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)

    def altered():
        text = bytearray(big.read_bytes())
        text[len(text) // 2] ^= 1
        big.write_bytes(text)

    def cut():
        (folder / "rows").write_bytes((folder / "rows").read_bytes()[:-100])

    def other_keys():
        data = folder.parent / "other"
        first_start(folder.parent / "fedbasin-server", data)
        shutil.copy(data / "signing-key.pem", keys / "signing-key.pem")

    yield "a byte is another one", altered, "do not belong together"
    yield "a file is not there", big.unlink, "do not belong together"
    yield "the rows are cut off", cut, "is not what was written there"
    yield "no rows", (folder / "rows").unlink, "holds no backup"
    yield "other keys", other_keys, "do not belong together"
    yield "no keys", (keys / "signing-key.pem").unlink, "there are no signing keys"


def drill(programs, folder, postgres):
    """Everything, on one kind of database; gives what was not as it should be."""
    name = "Postgres" if postgres else "SQLite"
    (folder / "fedbasin-server").symlink_to((programs / "fedbasin-server").resolve())
    backup, keys = folder / "backup", folder / "keys"
    with Installation(programs, folder, postgres and postgres.database("first")) as server:
        run = one_round(server)
        if postgres:
            yield from expanded(server, postgres)
        published = model(server, run)
        said = server.backup("drill", backup, "--keys", keys)
        for phrase in ("0 damaged; 0 orphans", "records, whole", "the backup is good"):
            if said.returncode or phrase not in said.stdout:
                yield f"{name}: the drill: {phrase}? {said.returncode} {said.stdout} {said.stderr}"
        print(f"  {name}: " + "; ".join(said.stdout.split("\n")[:3]))
        yield from grown(server, backup, keys, name)
        if not postgres:
            yield from lost(server, backup, keys)
            yield from broken_off(server, backup, keys)
        for what, damage, phrase in damages(backup, keys) if postgres else ():
            spare = [(place, pathlib.Path(f"{place}-spare")) for place in (backup, keys)]
            for place, copy in spare:
                shutil.copytree(place, copy)
            damage()
            said = server.backup("check", backup, "--keys", keys)
            if said.returncode != 1 or phrase not in said.stderr:
                yield f"{name}: {what}: {said.returncode} {said.stdout} {said.stderr}"
            for place, copy in spare:
                shutil.rmtree(place)
                copy.rename(place)
        if postgres:
            # Its owner changes the past: what an update counted for.
            postgres.sql("UPDATE updates SET num_examples = 7", server.url)
            said = server.backup("drill", folder / "rewritten", "--keys", folder / "more-keys")
            if said.returncode != 1 or "the record is not whole" not in said.stderr:
                yield f"rows that were rewritten: {said.returncode} {said.stdout} {said.stderr}"
            if postgres.left():
                yield f"databases of drills are left: {postgres.left()}"
    yield from restored(programs, folder, postgres, run, published, name)


def grown(server, backup, keys, name):
    """A backup from before what an operator saw is told from one that has it."""
    (head,) = (server.folder / ".local/state/fedbasin").rglob("log-head*")
    server.admin("enrol", "b", "--output", str(server.folder / "b-token"))
    before, end = head.read_text(), time.monotonic() + SECONDS
    # The head that travels may be some seconds old.
    while head.read_text() == before and time.monotonic() < end:
        server.admin("sites")
    old = server.backup("check", backup, "--keys", keys, "--seen", head)
    new = server.backup("drill", backup, "--keys", keys, "--seen", head)
    if old.returncode != 1 or "the record is not whole" not in old.stderr or new.returncode:
        yield f"{name}: --seen: {old.returncode} {old.stderr} {new.returncode} {new.stderr}"


def held(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lost(server, backup, keys):
    """What the source lost the backup keeps, unless it is good without that."""
    before, aside = held(backup), server.folder / "aside"

    def refused(what, phrase, *more, after=before, **variables):
        said = server.backup("drill", backup, "--keys", keys, *more, **variables)
        if said.returncode != 1 or phrase not in said.stderr:
            yield f"{what}: {said.returncode} {said.stdout} {said.stderr}"
        if {name: data for name, data in held(backup).items() if name.parts[0] == "objects"} != \
                {name: data for name, data in after.items() if name.parts[0] == "objects"}:
            yield f"{what}: the backup's bytes are others now"
        said = server.backup("check", backup, "--keys", keys)
        if said.returncode:
            yield f"{what}: and the backup is not good any more: {said.stderr}"

    server.objects.rename(aside)
    server.objects.mkdir()
    yield from refused("a volume that is not mounted", "has lost")
    server.objects.rmdir()
    yield from refused("no folder", "there is no folder")
    aside.rename(server.objects)
    yield from refused("another database", "a backup of another installation", FEDBASIN_DATA_DIR=str(empty(server)),
                       FEDBASIN_SIGNING_KEY_FILE=str(server.data / "signing-key.pem"))
    (one, *_) = sorted(path for path in server.objects.rglob("*") if path.is_file() and path.stat().st_size > 100)
    one.rename(aside)
    yield from refused("bytes that rows tell of", "has lost bytes that its rows tell of", "--may-lose", "100")
    one.write_bytes(aside.read_bytes()[:50])
    said = server.backup("drill", backup, "--keys", keys)
    if said.returncode or held(backup / "objects") != held(backup / "objects") | {one.relative_to(server.objects): aside.read_bytes()}:
        yield f"what was damaged at the source replaces what was whole: {said.returncode} {said.stdout} {said.stderr}"
    aside.rename(one)
    # No row tells of it, and the source has it no more.
    stray = backup / "objects" / "stray"
    stray.write_bytes(b"of no row")
    yield from refused("a file of few", "has lost 1 of", after={**before, stray.relative_to(backup): b"of no row"})
    said = server.backup("drill", backup, "--keys", keys, "--may-lose", "100")
    if said.returncode or stray.exists() or (backup / "gone").exists():
        yield f"what is gone stays in the backup: {said.returncode} {said.stdout} {said.stderr}"


def empty(server):
    """The data folder of a server that was only started."""
    data = server.folder / "empty"
    first_start(server.programs / "fedbasin-server", data)
    return data


def broken_off(server, backup, keys):
    """Copies that were killed: the bytes are copied again, and rows without their sum in its place are taken."""
    (one, *_) = sorted(path for path in (backup / "objects").rglob("*") if path.is_file() and path.stat().st_size > 100)
    whole = one.read_bytes()
    one.write_bytes(whole[:100])
    said = server.backup("drill", backup, "--keys", keys)
    if said.returncode or one.read_bytes() != whole:
        yield f"a file that is half there is not copied again: {said.returncode} {said.stdout} {said.stderr}"
    (backup / "rows.sha256").rename(backup / "rows.sha256.new")
    (backup / "rows.sha256").write_text(f"{'0' * 64}  rows\n")
    (backup / "rows.new").write_bytes(b"half")
    # Set aside, and not yet put back.
    aside = backup / "gone" / one.relative_to(backup / "objects")
    aside.parent.mkdir(parents=True)
    one.rename(aside)
    said = server.backup("check", backup, "--keys", keys)
    if said.returncode or one.read_bytes() != whole:
        yield f"what a killed run left is no backup: {said.returncode} {said.stdout} {said.stderr}"


def restored(programs, folder, postgres, run, published, name):
    """Another machine, where nothing is: the model is there, and servers are a role that owns nothing."""
    there = folder / "there"
    there.mkdir()
    target = Installation(programs, there, postgres and postgres.database("second"))
    grant = ["--grant-to", postgres.role] if postgres else []
    said = target.backup("restore", folder / "backup", "--keys", folder / "keys", *grant)
    if said.returncode or "restored" not in said.stdout:
        yield f"{name}: restore: {said.returncode} {said.stdout} {said.stderr}"
        return
    again = target.backup("restore", folder / "backup", "--keys", folder / "keys")
    if again.returncode != 1 or not re.search("not empty|holds a database", again.stderr):
        yield f"{name}: what is there is overwritten: {again.returncode} {again.stderr}"
    if postgres:
        target.url = postgres.url(target.url.rpartition("/")[2], as_role=True)
    with target as server:
        if model(server, run) != published:
            yield f"{name}: another model was restored"


def faults(programs):
    postgres = Postgres()
    try:
        for database in (postgres, None):
            with tempfile.TemporaryDirectory() as folder:
                yield from drill(programs, pathlib.Path(folder), database)
    finally:
        postgres.close()


if __name__ == "__main__":
    check.run(faults)
