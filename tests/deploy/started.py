"""Starts the real server with rendered settings, on this machine: folders stand for the secrets' mounts, SQLite and a folder for
the database and the bucket; everything else is as it was rendered."""

import json
import pathlib
import re
import shutil
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
    """What secrets hold, at the places where pods have them: what `init` makes in `made`."""
    made = folder / "made"
    subprocess.run([server, "init", made, "--host", "localhost"], check=True, capture_output=True, timeout=SECONDS)
    for place, file in (
        ("signing/signing-key.pem", "signing-key.pem"),
        ("admin/admin-token", "admin-token"),
        ("tls/tls.crt", "pki/server.pem"),
        ("tls/tls.key", "pki/server.key"),
        ("sites/authority.pem", "pki/authority.pem"),
    ):
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(made / file, folder / place)
