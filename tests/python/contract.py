#!/usr/bin/env python3
"""Drives a real server with a client that Python's gRPC tools generated from the .proto file.

Nothing of our own code is in between: what passes here is understood by another language from the contract alone. Two
sites go through a whole founding round: enrol, watch, begin, send, finish, receipt, alignment, download; then errors.

usage: contract.py --server target/debug/fedbasin-server --proto proto/proto
"""

import argparse
import base64
import contextlib
import hashlib
import importlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.request

import grpc
import model_signing
from cryptography.hazmat.primitives import serialization
from grpc_tools import protoc

CHUNK = 1 << 20
DEADLINE_S = 60


def check(claim, holds, shown=""):
    """Prints a claim that holds; ends the program at one that does not."""
    if not holds:
        sys.exit(f"FAILED: {claim} {shown}")
    print(f"  ok: {claim}")


def generate(proto_dir, out_dir):
    """Generates the stubs and imports them: (messages, services)."""
    proto = "fedbasin/v1/fedbasin.proto"
    code = protoc.main(
        ["protoc", f"--proto_path={proto_dir}", f"--python_out={out_dir}", f"--grpc_python_out={out_dir}", proto]
    )
    check("protoc generates Python stubs", code == 0, f"exit code {code}")
    sys.path.insert(0, str(out_dir))
    return (
        importlib.import_module("fedbasin.v1.fedbasin_pb2"),
        importlib.import_module("fedbasin.v1.fedbasin_pb2_grpc"),
    )


@contextlib.contextmanager
def running_server(binary, folder):
    """A server on free ports; gives (gRPC address, HTTP URL, admin token)."""
    data = folder / "data"
    log = open(folder / "log", "w")
    process = subprocess.Popen(
        [binary, "serve", "--data-dir", data, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=log, text=True,
    )
    try:
        line = process.stdout.readline().split()
        check("the server says where it listens", line[:1] == ["listening"], (folder / "log").read_text())
        urls = dict(word.split("=", 1) for word in line[1:])
        yield urls["grpc"].removeprefix("http://"), urls["http"], (data / "admin-token").read_text().strip()
    finally:
        process.kill()
        process.wait()
        log.close()


def http(url, token, body=None):
    """One JSON call of the HTTP edge."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        return json.load(answer)


def safetensors(tensors):
    """A file of named lists of f32, as (shape, values)."""
    header, data = {}, b""
    for name, (shape, values) in sorted(tensors.items()):
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def read_f32(file, name):
    """One tensor's values."""
    (length,) = struct.unpack("<Q", file[:8])
    begin, end = json.loads(file[8 : 8 + length])[name]["data_offsets"]
    raw = file[8 + length + begin : 8 + length + end]
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc32c_table()


def crc32c(data):
    """CRC-32C (Castagnoli), the plain byte-wise way."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class Site:
    """One site: the generated stub, and the token on every call."""

    def __init__(self, pb, services, address, token):
        self.pb = pb
        options = [("grpc.max_receive_message_length", CHUNK + 4096)]
        self.stub = services.FedBasinStub(grpc.insecure_channel(address, options=options))
        self.auth = {"metadata": [("authorization", f"Bearer {token}")], "timeout": DEADLINE_S}

    def begin(self, run, number, file, num_examples):
        request = self.pb.BeginUpdateRequest(
            run_id=run, round=number, digest=hashlib.sha256(file).hexdigest(), size=len(file),
            num_examples=num_examples, metrics={"loss": 0.25},
        )
        return self.stub.BeginUpdate(request, **self.auth)

    def send(self, update_id, file, offset):
        def chunks(at):
            while at < len(file):
                data = file[at : at + CHUNK]
                yield self.pb.UpdateChunk(update_id=update_id, offset=at, data=data, crc32c=crc32c(data))
                at += len(data)

        return [message.durable_offset for message in self.stub.SendUpdate(chunks(offset), **self.auth)]

    def finish(self, update_id):
        return self.stub.FinishUpdate(self.pb.FinishUpdateRequest(update_id=update_id), **self.auth).receipt

    def upload(self, run, number, file, num_examples):
        begun = self.begin(run, number, file, num_examples)
        self.send(begun.update_id, file, begun.offset)
        return self.finish(begun.update_id)

    def download(self, digest):
        chunks = list(self.stub.Download(self.pb.DownloadRequest(digest=digest), **self.auth))
        return b"".join(chunk.data for chunk in chunks), chunks[0].total_size


def refused(claim, code, name, call):
    """Asserts a gRPC code and the stable string in the metadata."""
    try:
        answer = call()
    except grpc.RpcError as error:
        found = dict(error.trailing_metadata() or ()).get("fedbasin-code")
        check(claim, (error.code(), found) == (code, name), f"{error.code()} {found}: {error.details()}")
        return
    sys.exit(f"FAILED: {claim}: it was answered: {answer}")


# Hidden units 3 -> 4 -> 2; site b's are site a's in another order, so the aligned mean is site a's network.
FIRST = [[2.0, -1.0, 0.5], [-3.0, 1.0, 1.0], [0.0, 4.0, -2.0], [1.0, 1.0, 5.0]]
SECOND = [[1.0, -2.0, 3.0, 0.5], [0.25, 1.5, -1.0, 2.0]]
ORDER = [2, 0, 3, 1]


def network(order):
    hidden = [FIRST[i] for i in order]
    output = [[row[i] for i in order] for row in SECOND]
    flat = lambda rows: [value for row in rows for value in row]
    return safetensors({
        "fc1.weight": ([4, 3], flat(hidden)), "fc1.bias": ([4], [0.5 + i for i in order]),
        "fc2.weight": ([2, 4], flat(output)), "fc2.bias": ([2], [1.0, -1.0]),
    })


SPEC = {
    "format": "fedbasin.spec/1",
    "groups": {"h": {"size": 4, "kind": "symmetric"}},
    "tensors": {"fc1.weight": ["h", None], "fc1.bias": ["h"], "fc2.weight": [None, "h"], "fc2.bias": [None]},
}


def founding_round(pb, services, address, url, admin):
    tokens = {site: http(f"{url}/v1/sites", admin, {"id": site})["token"] for site in ("a", "b")}
    a, b = (Site(pb, services, address, tokens[site]) for site in ("a", "b"))
    run = http(f"{url}/v1/runs", admin, {
        "spec": SPEC, "strategy": "aligned", "cohort": ["a", "b"],
        "policy": {"rounds": 1, "quorum": 2, "deadline_seconds": 600},
    })["id"]

    # The reconciler opens the first round a moment after the run was created.
    for status in a.stub.WatchRun(pb.WatchRunRequest(run_id=run), **a.auth):
        if status.HasField("round"):
            break
    (status,) = a.stub.ListRuns(pb.ListRunsRequest(), **a.auth).runs
    check("a site sees its run", (status.run_id, status.state) == (run, pb.RUN_STATE_OPEN), status)
    check("the round collects, without a reference",
          status.round.state == pb.ROUND_STATE_COLLECTING and not status.round.reference_digest, status)

    # One site watches while the others act.
    seen = []
    watching = threading.Thread(
        target=lambda: seen.extend(a.stub.WatchRun(pb.WatchRunRequest(run_id=run), **a.auth)), daemon=True)
    watching.start()

    first, second = network(range(4)), network(ORDER)
    receipt = a.upload(run, 1, first, 3)
    check("the receipt names what the server holds",
          (receipt.run_id, receipt.round, receipt.site_id, receipt.size, receipt.num_examples)
          == (run, 1, "a", len(first), 3) and receipt.digest == hashlib.sha256(first).hexdigest(), receipt)
    check("the same update again has the same receipt", a.begin(run, 1, first, 3).receipt == receipt)
    refused("another update of the same site conflicts", grpc.StatusCode.ALREADY_EXISTS, "conflict",
            lambda: a.begin(run, 1, second, 3))

    # The other site first sends what must be refused, then half an update, then the rest.
    bad = second.replace(struct.pack("<f", -3.0), struct.pack("<f", float("nan")))
    refused("NaN is no checkpoint", grpc.StatusCode.INVALID_ARGUMENT, "invalid-checkpoint",
            lambda: b.upload(run, 1, bad, 1))
    refused("no examples are no update", grpc.StatusCode.INVALID_ARGUMENT, "invalid-argument",
            lambda: b.begin(run, 1, second, 0))
    refused("a wrong token is unauthenticated", grpc.StatusCode.UNAUTHENTICATED, "unauthenticated",
            lambda: Site(pb, services, address, "fbs_wrong").begin(run, 1, second, 1))
    refused("there is no second round", grpc.StatusCode.NOT_FOUND, "not-found", lambda: b.begin(run, 2, second, 1))
    begun = b.begin(run, 1, second, 1)
    half = len(second) // 2
    check("progress tells the durable offset", b.send(begun.update_id, second[:half], 0)[-1] == half)
    refused("half an update cannot be finished", grpc.StatusCode.FAILED_PRECONDITION, "incomplete",
            lambda: b.finish(begun.update_id))
    check("an upload goes on from its offset", b.begin(run, 1, second, 1).offset == half)
    b.send(begun.update_id, second, half)
    b.finish(begun.update_id)

    watching.join(DEADLINE_S)
    check("the watched run ends as complete", seen and seen[-1].state == pb.RUN_STATE_COMPLETE, seen)
    end = seen[-1]
    update = b.stub.GetUpdate(pb.GetUpdateRequest(update_id=begun.update_id), **b.auth).update
    check("the update was aligned", update.state == pb.UPDATE_STATE_ALIGNED, update)
    check("every hidden unit moved", update.alignment.moved == 1.0, update.alignment)
    check("the alignment raised the objective and closed the distance",
          update.alignment.objective_after > update.alignment.objective_before
          and update.alignment.l2_after < 1e-6 < update.alignment.l2_before, update.alignment)
    model, total = b.download(end.global_digest)
    check("the model has its digest", hashlib.sha256(model).hexdigest() == end.global_digest)
    check("and the size that was told", len(model) == total == end.round.global_size)
    for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
        worst = max(abs(x - y) for x, y in zip(read_f32(model, name), read_f32(first, name)))
        check(f"the aligned mean of equal networks is that network: {name}", worst < 1e-6, worst)
    check("the receipt is given again after the end", a.begin(run, 1, first, 3).receipt == receipt)
    what_is_signed(pb, a, receipt, end.global_digest, model)
    refused("nor then can a site have a second update", grpc.StatusCode.ALREADY_EXISTS, "conflict",
            lambda: b.begin(run, 1, network([1, 0, 2, 3]), 1))


def what_is_signed(pb, site, receipt, digest, model):
    """Checks signatures with others' tools: the OpenSSF's for models, Python's cryptography for receipts."""
    keys = site.stub.GetServerKeys(pb.GetServerKeysRequest(), **site.auth).keys
    bundle = site.stub.GetModelSignature(pb.GetModelSignatureRequest(digest=digest), **site.auth).bundle
    with tempfile.TemporaryDirectory(prefix="fedbasin-signed-") as name:
        folder = pathlib.Path(name)
        (folder / "keys.pem").write_text(keys)
        (folder / "model.safetensors").write_bytes(model)
        (folder / "model.sig").write_text(bundle)
        verifier = lambda: model_signing.verifying.Config().use_elliptic_key_verifier(public_key=folder / "keys.pem")
        verifier().verify(folder / "model.safetensors", folder / "model.sig")
        check("the OpenSSF's tool verifies the model", True)
        statement = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
        aligned = statement["predicate"]["fedbasin"]["alignment"]
        check("and what it is of says how both updates were aligned", (aligned["updates"], aligned["nothing_moved"]) == (2, 1), aligned)
        (folder / "model.safetensors").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
        try:
            verifier().verify(folder / "model.safetensors", folder / "model.sig")
        except ValueError as error:
            check("and refuses another model", "mismatch" in str(error).lower(), error)
        else:
            sys.exit("FAILED: the OpenSSF's tool verified a changed model")

    pem = keys[keys.rindex("-----BEGIN"):]
    key = serialization.load_pem_public_key(pem.encode())
    text = (f"fedbasin receipt v1\nupdate {receipt.update_id}\nrun {receipt.run_id}\nround {receipt.round}\n"
            f"site {receipt.site_id}\ndigest {receipt.digest}\nsize {receipt.size}\n"
            f"examples {receipt.num_examples}\naccepted_at_ms {receipt.accepted_at_ms}\n"
            f"log_seq {receipt.log_record}\n")
    key.verify(receipt.signature, text.encode())
    check("the receipt is signed with Ed25519", len(receipt.signature) == 64)

    # Its record is in the log: RFC 9162, section 2.1.3.2.
    call = site.stub.GetServerKeys.with_call(pb.GetServerKeysRequest(), **site.auth)[1]
    note = base64.b64decode(dict(call.initial_metadata())["fedbasin-log-head"]).decode()
    origin, size, root = note.split("\n")[:3]
    signature = base64.b64decode(note.rstrip("\n").rsplit(" ", 1)[1])[4:]
    key.verify(signature, f"{origin}\n{size}\n{root}\n".encode())
    proof = site.stub.ProveLog(
        pb.ProveLogRequest(first=0, second=int(size), record=receipt.log_record), **site.auth)
    node = lambda left, right: hashlib.sha256(b"\x01" + left + right).digest()
    found, first, last = hashlib.sha256(b"\x00" + proof.record.encode()).digest(), receipt.log_record, int(size) - 1
    for other in proof.inclusion:
        if first % 2 == 1 or first == last:
            found = node(other, found)
            while first % 2 == 0 and first:
                first, last = first // 2, last // 2
        else:
            found = node(found, other)
        first, last = first // 2, last // 2
    check("the receipt's record is in the log", last == 0 and found == base64.b64decode(root), proof)
    check("and is about the update", receipt.update_id in proof.record and receipt.digest in proof.record, proof)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", required=True, type=pathlib.Path, help="the program fedbasin-server")
    parser.add_argument("--proto", required=True, type=pathlib.Path, help="the folder that holds fedbasin/v1")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedbasin-python-") as name:
        folder = pathlib.Path(name)
        stubs = folder / "stubs"
        stubs.mkdir()
        pb, services = generate(arguments.proto.resolve(), stubs)
        with running_server(arguments.server.resolve(), folder) as (address, url, admin):
            try:
                founding_round(pb, services, address, url, admin)
            except BaseException:
                print((folder / "log").read_text(), file=sys.stderr)
                raise
    print(f"contract: understood by Python's grpcio {grpc.__version__}")


if __name__ == "__main__":
    main()
