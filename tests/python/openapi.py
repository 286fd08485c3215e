#!/usr/bin/env python3
"""Asks a real server everything that its OpenAPI document allows, and much that it forbids (schemathesis).

For every call: no answer is 5xx; status, content type, headers and body are as the document says; what the document forbids is refused
with 4xx; without a token there is no answer but 401. Once as a viewer, once as an administrator. The server must then still stand, and
its log must tell of no defect.

usage: openapi.py --server target/debug/fedbasin-server [--seconds 20] [--seed 1]
  --seconds  how long at the most, for each of the two; the long form: --seconds 600 --seed 0
  --seed     of what is generated; 0: another one each time
"""

import argparse
import pathlib
import secrets
import subprocess
import sys
import tempfile

from contract import check, http, running_server

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]


def ask(url, token, who, seconds, seed, folder):
    """One run of schemathesis; its whole report is shown where it finds a fault."""
    command = [
        pathlib.Path(sys.executable).parent / "schemathesis", "run", f"{url}/openapi.json",
        "--header", f"Authorization: Bearer {token}",
        "--checks", ",".join(CHECKS),
        "--max-time", str(seconds), "--seed", str(seed),
        # A stream of events does not end; tests/tests/events.rs asks it.
        "--exclude-path", "/v1/events",
        "--request-timeout", "30", "--generation-database", "none", "--suppress-health-check", "all",
        "--continue-on-failure", "--output-truncate", "false", "--no-color", "--warnings", "off",
    ]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        print(done.stdout)
    totals = [line.strip() for line in done.stdout.splitlines() if "generated" in line or "Seed:" in line]
    check(f"as {who}: every answer is as the document says", done.returncode == 0, "; see above")
    print(f"      {'; '.join(totals)}")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="the HTTP edge against its own OpenAPI document")
    parser.add_argument("--server", required=True)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    seed = arguments.seed or secrets.randbelow(1 << 32)
    with tempfile.TemporaryDirectory(prefix="fedbasin-openapi-") as name:
        folder = pathlib.Path(name)
        with running_server(arguments.server, folder) as (_, url, admin):
            # The names that the document gives as examples.
            viewer = http(f"{url}/v1/tokens", admin, {"role": "viewer"})["token"]
            http(f"{url}/v1/sites", admin, {"id": "hospital-a"})
            policy = {"rounds": 1, "quorum": 1, "deadline_seconds": 3600}
            http(f"{url}/v1/runs", admin, {"id": "pilot", "strategy": "mean", "cohort": ["hospital-a"], "policy": policy})
            # The viewer first: an administrator may revoke its token.
            for who, token in [("a viewer", viewer), ("an administrator", admin)]:
                ask(url, token, who, arguments.seconds, seed, folder)
            check("the server still answers", http(f"{url}/readyz", admin)["status"] == "ok")
        log = (folder / "log").read_text()
        faults = [line for line in log.splitlines() if "panicked" in line or "internal error" in line or " ERROR " in line]
        check("its log tells of no defect", not faults, "\n".join(faults[:10]))


if __name__ == "__main__":
    main()
