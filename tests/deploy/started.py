"""Starts the real server with rendered settings, on this machine: folders stand for the secrets' mounts, SQLite and a folder for
the database and the bucket; everything else is as it was rendered."""

import json
import pathlib
import re
import signal
import ssl
import subprocess
import tempfile
import urllib.request

SECONDS = 60


def faults(server, text):
    """Whether it starts, becomes ready, and ends when it is told to."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data = folder / "data"
        lay_secrets(server, folder)
        local = text.replace("/run/fedbasin", str(folder)).replace("/var/lib/fedbasin", str(data))
        local = local.replace("0.0.0.0:50051", "127.0.0.1:0").replace("0.0.0.0:8080", "127.0.0.1:0")
        local = re.sub(r'(?ms)^\[objects\].*?(?=^\[)', f'[objects]\nurl = "file://{folder}/objects"\n\n', local)
        (folder / "fedbasin.toml").write_text(local)
        environment = {"FEDBASIN_WEBHOOK_SECRET": "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=", "RUST_BACKTRACE": "0"}
        process = subprocess.Popen([server, "serve", "--config", folder / "fedbasin.toml"], env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            line = process.stdout.readline()
            if address := re.search(r"http=(\S+)", line):
                yield from ready(address[1])
            process.terminate()
            _, errors = process.communicate(timeout=SECONDS)
            # In its first moments the system ends it before it hears that it is to end.
            if not address or process.returncode not in (0, -signal.SIGTERM):
                yield f"the server does not take these settings ({process.returncode}): {errors.strip()[-600:]}"
        finally:
            process.kill()
            process.wait()


def ready(address):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as a probe of the kubelet's asks
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(address + path, timeout=SECONDS, context=context) as answer:
            said = json.load(answer)
            if said["status"] != "ok":
                yield f"{path}: {said}"


def lay_secrets(server, folder):
    """What secrets hold, at the places where pods have them."""
    run = dict(check=True, capture_output=True, timeout=SECONDS)
    subprocess.run([server, "pki", "init", "--dir", folder / "pki", "--host", "localhost"], **run)
    for name in ("signing", "admin", "tls", "sites"):
        (folder / name).mkdir()
    (folder / "tls" / "tls.crt").write_bytes((folder / "pki" / "server.pem").read_bytes())
    (folder / "tls" / "tls.key").write_bytes((folder / "pki" / "server.key").read_bytes())
    (folder / "sites" / "authority.pem").write_bytes((folder / "pki" / "authority.pem").read_bytes())
    (folder / "admin" / "admin-token").write_text("an-admin-token-of-the-test-0123456789\n")
    # Keys are made where nobody names any.
    first = subprocess.Popen([server, "serve", "--data-dir", folder / "first", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"],
                             text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first.stdout.readline()
    first.terminate()
    first.wait(timeout=SECONDS)
    (folder / "signing" / "signing-key.pem").write_bytes((folder / "first" / "signing-key.pem").read_bytes())
