#!/usr/bin/env python3
"""Drives the HTTP edge of a real server with a client that openapi-python-client generated from its OpenAPI document.

Nothing of our own code is in between: enrols a site, creates a run, lists it, extends it, reads an error; all by the names and types that
the document gives.

usage: generated.py --server target/debug/fedbasin-server
"""

import argparse
import importlib
import pathlib
import subprocess
import sys
import tempfile
import time

from contract import check, running_server

PACKAGE = "fedbasin_admin_api_client"


def generate(url, folder):
    """Generates the client and gives what imports a part of it."""
    tool = pathlib.Path(sys.executable).parent / "openapi-python-client"
    # Without its formatting, which changes nothing that is run.
    (folder / "config.yaml").write_text("post_hooks: []\n")
    done = subprocess.run(
        [tool, "generate", "--url", f"{url}/openapi.json", "--output-path", folder / "client", "--config", folder / "config.yaml"],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    check("a client is generated from the document", done.returncode == 0, done.stdout)
    sys.path.insert(0, str(folder / "client"))
    return lambda part: importlib.import_module(f"{PACKAGE}.{part}")


def drive(part, url, admin):
    """A site and a run, by the generated client alone."""
    models = part("models")
    client = part("client").AuthenticatedClient(base_url=url, token=admin)
    site = part("api.sites.sites_create").sync(client=client, body=models.NewSite(id="hospital-a"))
    check("a site is enrolled", isinstance(site, models.EnrolledSite) and site.token.startswith("fbs_"), site)
    policy = models.Policy(rounds=1, quorum=1, deadline_seconds=3600)
    new = models.NewRun(id="generated", strategy=models.Strategy.MEAN, cohort=["hospital-a"], policy=policy)
    made = part("api.runs.runs_create").sync(client=client, body=new, idempotency_key="generated-1")
    check("a run is created", isinstance(made, models.Run) and made.id == "generated", made)
    again = part("api.runs.runs_create").sync(client=client, body=new, idempotency_key="generated-1")
    check("and with the same key once", isinstance(again, models.Run) and again.created_at == made.created_at, again)
    listed = part("api.runs.runs_list").sync(client=client, site="hospital-a")
    check("it is listed", [run.id for run in listed.runs] == ["generated"], listed)
    more = part("api.runs.runs_extend").sync("generated", client=client, body=models.Extension(rounds=2))
    check("it is extended", more.policy.rounds == 3, more)
    # It opens within a second or so.
    for _ in range(600):
        opened = part("api.rounds.rounds_list").sync("generated", client=client).rounds
        if opened:
            break
        time.sleep(0.1)
    sites = [(site.site, site.state) for round in opened for site in round.sites]
    check("its round is read, with its site", [round.number for round in opened] == [1] and sites == [("hospital-a", "silent")], opened)
    problem = part("api.runs.runs_show").sync("none", client=client)
    check("an error is a problem with its code", isinstance(problem, models.Problem) and problem.code == "not-found", problem)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="the HTTP edge by a generated client")
    parser.add_argument("--server", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedbasin-generated-") as name:
        folder = pathlib.Path(name)
        with running_server(arguments.server, folder) as (_, url, admin):
            drive(generate(url, folder), url, admin)


if __name__ == "__main__":
    main()
