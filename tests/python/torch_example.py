#!/usr/bin/env python3
"""Runs examples/pytorch with real PyTorch, as three organisations would: a real server, and three `fedbasin site run`.

The network's graph is exported, its spec derived and verified; the sites begin with networks of their own, train on disjoint data
for two rounds and try each round's models. What they are told, and the published models themselves, are then looked at.

usage: torch_example.py [--programs target/debug] [--idle-seconds N]      (with a Python that has torch and safetensors)

--idle-seconds measures, instead, what a site takes that waits for others: processor and memory.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "pytorch"
SITES = ["north", "east", "south"]
ROUNDS = 2
# Steps of other sizes at each, so that the counters of BatchNorm differ, too.
BATCHES = [40, 48, 56]
DEADLINE_S = 120
LEAST_ACCURACY = 0.80
LEAST_GAIN_OVER_NAIVE = 0.30


def check(claim, holds, shown=""):
    """Prints a claim that holds; ends the program at one that does not."""
    if not holds:
        sys.exit(f"FAILED: {claim} {shown}")
    print(f"  ok: {claim}", flush=True)


class Scene:
    """A server on free ports with SQLite, and the programs, in a folder of their own."""

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, folder
        self.server = self.started("server", [
            programs / "fedbasin-server", "serve", "--data-dir", folder / "data",
            "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"], stdout=subprocess.PIPE)
        line = self.server.stdout.readline().split()
        check("the server says where it listens", line[:1] == ["listening"], self.log("server"))
        self.urls = dict(word.split("=", 1) for word in line[1:])
        self.token = (folder / "data" / "admin-token").read_text().strip()

    def started(self, name, command, stdout=None):
        """A process in a group of its own, whose log is named after it."""
        log = open(self.folder / f"{name}.log", "w")
        environment = {
            **os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=stdout or log, stderr=log, text=True, start_new_session=True)
        log.close()
        return process

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def fedbasin(self, *arguments):
        """A command of `fedbasin` to its end; gives what it printed."""
        environment = {**os.environ, "FEDBASIN_ADMIN_TOKEN": self.token, "FEDBASIN_STATE_DIR": str(self.folder / "state")}
        done = subprocess.run([self.programs / "fedbasin", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True)
        check(f"fedbasin {' '.join(str(word) for word in arguments[:2])}", done.returncode == 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def admin(self, *arguments):
        return self.fedbasin("admin", *arguments, "--server", self.urls["http"])

    def get(self, path):
        request = urllib.request.Request(self.urls["http"] + path, headers={"authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def prepare(self):
        """The graph, its spec and a run that begins without a model."""
        begun = time.monotonic()
        subprocess.run([sys.executable, "-B", EXAMPLE / "export.py"], cwd=self.folder, check=True)
        said = self.fedbasin("spec", "derive", "model.onnx", "--checkpoint", "model.safetensors", "-o", "spec.json")
        check("the spec has a group for each layer before the last", said.count("3 groups"), said)
        said = self.fedbasin("spec", "verify", "spec.json", "model.onnx")
        check("and is verified, with every axis that was left out noticed", "verified:" in said and " 0 made no difference" in said, said)
        for site in SITES:
            self.admin("enrol", site, "-o", f"{site}.token")
        self.admin("create-run", "--id", "pytorch", "--spec", "spec.json", "--cohort", ",".join(SITES), "--rounds", str(ROUNDS),
                   "--quorum", str(len(SITES)), "--deadline-seconds", "600", "--evaluate-naive")
        print(f"  export, spec and run: {time.monotonic() - begun:.1f} s")

    def site(self, number):
        """One organisation, with every twelfth image to train on, every third of others to try models with, and a seed of its own."""
        name, python = SITES[number], sys.executable
        return self.started(name, [
            self.programs / "fedbasin", "site", "run", "--server", self.urls["grpc"], "--token-file", f"{name}.token",
            "--run", "pytorch", "--work-dir", name,
            "--train", f"{python} {EXAMPLE}/train.py --share {number}/12 --seed {number} --batch {BATCHES[number]}",
            "--evaluate", f"{python} {EXAMPLE}/evaluate.py --share {number}/{len(SITES)}"])


def stop(process):
    """Asks a process to end, as Ctrl-C does, and sees to it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def scene(programs):
    with tempfile.TemporaryDirectory(prefix="fedbasin-torch.") as folder, contextlib.ExitStack() as stack:
        made = Scene(programs, pathlib.Path(folder))
        stack.callback(stop, made.server)
        yield made, stack


def whole_run(made, stack):
    """All sites to the end of the run."""
    begun = time.monotonic()
    processes = [made.site(number) for number in range(len(SITES))]
    for process in processes:
        stack.callback(stop, process)
    for name, process in zip(SITES, processes):
        try:
            code = process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            code = "none in time"
        check(f"site {name} goes through the whole run", code == 0, f"exit code {code}\n{made.log(name)}")
    print(f"  {ROUNDS} rounds of three sites: {time.monotonic() - begun:.1f} s")
    rounds = [made.get(f"/v1/runs/pytorch/rounds/{number}") for number in range(1, ROUNDS + 1)]
    check("the run is complete and each round published",
          made.get("/v1/runs/pytorch")["state"] == "complete" and all(record["state"] == "published" for record in rounds), rounds)
    for record in rounds:
        tried(record)
    return rounds


def tried(record):
    """Every site's figures of the round's models are stored, and their means are those of the figures."""
    known, number = record["evaluations"], record["number"]
    for model in ("global", "own", "naive"):
        figures = [said for said in known["sites"] if said["model"] == model]
        check(f"round {number}: each site's evaluation of its {model} model is stored",
              sorted(said["site"] for said in figures) == sorted(SITES), known)
        examples = sum(said["num_examples"] for said in figures)
        right = sum(said["num_examples"] * said["accuracy"] for said in figures)
        check(f"  with their mean: {known[model]['accuracy']:.4f} of {examples} images, loss {known[model]['loss']:.4f}",
              examples == 2000 and abs(known[model]["accuracy"] - right / examples) < 1e-9, known)
        if model == "global":
            check("  no path leads from it to itself", not any(said.get("path") for said in figures), figures)
            continue
        ends = [point["loss"] for point in known[model]["path"]["points"]]
        check(f"  and all three sites' way to the global one, {len(ends)} places: loss {ends[0]:.3f} to {ends[-1]:.3f}, at the most {max(ends):.3f}",
              len(ends) == 5 and known[model]["path"]["sites"] == len(SITES), known[model])


def looked_at(made, rounds):
    """The models themselves, by PyTorch alone."""
    sys.path.insert(0, str(EXAMPLE))
    import torch
    from safetensors.torch import load_file, save_file

    import data
    import evaluate
    import model

    inputs, labels = data.load("test", argparse.Namespace(data=data.FASHION_MNIST, share=(0, 1)))

    def accuracy(path):
        network = model.make_model()
        model.load(network, path)
        return evaluate.evaluate(network, inputs, labels)[1]

    own = [made.folder / site / "round-1" / "output.safetensors" for site in SITES]
    states = [load_file(path) for path in own]
    examples = [site["num_examples"] for name in SITES for site in rounds[0]["sites"] if site["site"] == name]
    naive = {
        name: sum(state[name] * share / sum(examples) for state, share in zip(states, examples)).to(states[0][name].dtype)
        for name in states[0]
    }
    save_file(naive, made.folder / "naive.safetensors")
    for number in range(1, ROUNDS + 1):
        made.admin("model", "pytorch", str(number), "-o", f"global-{number}.safetensors")
    sites = [accuracy(path) for path in own]
    plain = accuracy(made.folder / "naive.safetensors")
    merged = [accuracy(made.folder / f"global-{number}.safetensors") for number in range(1, ROUNDS + 1)]
    print(f"  of 2000 test images: sites {', '.join(f'{x:.4f}' for x in sites)}; naive mean {plain:.4f}; "
          f"published {', '.join(f'{x:.4f}' for x in merged)}")

    moved = [site["alignment"]["moved"] for name in SITES for site in rounds[0]["sites"] if site["site"] == name]
    check(f"the sites began apart: one is the reference, most units of the others move ({moved})",
          sorted(moved)[0] == 0 and sorted(moved)[1] > 0.5, moved)
    check("the naive mean that the sites tried is the one computed here",
          abs(rounds[0]["evaluations"]["naive"]["accuracy"] - plain) < 0.002, rounds[0]["evaluations"])
    check("the published model is as good here as the sites say",
          abs(rounds[-1]["evaluations"]["global"]["accuracy"] - merged[-1]) < 1e-6, rounds[-1]["evaluations"])
    check(f"the first published model is better than the naive mean, by {LEAST_GAIN_OVER_NAIVE} at least",
          merged[0] > plain + LEAST_GAIN_OVER_NAIVE)
    check("the last one is better than every site alone", merged[-1] > max(sites) and merged[-1] > LEAST_ACCURACY)

    last = load_file(made.folder / f"global-{ROUNDS}.safetensors")
    counters = {name for name, tensor in last.items() if tensor.dtype == torch.int64}
    reference = states[moved.index(0)]
    check("BatchNorm's counters are whole numbers, and the reference's",
          counters == {f"norm{i}.num_batches_tracked" for i in (1, 2, 3)}
          and all(torch.equal(last[name], reference[name]) for name in counters)
          and len({int(state["norm1.num_batches_tracked"]) for state in states}) == 3, last)
    strict = model.make_model()
    check("load_state_dict takes the published model, strictly", str(strict.load_state_dict(last, strict=True)) == "<All keys matched successfully>")


def has_receipt(ticket):
    return ticket.exists() and bool(json.loads(ticket.read_text()).get("receipt"))


def idle(made, stack, seconds):
    """What a site takes that has sent its update and waits for the others."""
    process = made.site(0)
    stack.callback(stop, process)
    ticket = made.folder / SITES[0] / "round-1" / "ticket.json"
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until and process.poll() is None and not has_receipt(ticket):
        time.sleep(0.2)
    check("the site trains and sends", has_receipt(ticket), made.log(SITES[0]))
    time.sleep(2)  # what follows the receipt

    def processor():
        words = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    before = processor()
    time.sleep(seconds)
    used = processor() - before
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    mib = {name: int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M)[1]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}
    print(f"  idle for {seconds} s: {used:.2f} s of processor ({100 * used / seconds:.2f} %), {mib['VmRSS']:.1f} MiB resident "
          f"({mib['RssAnon']:.1f} MiB of it its own, the rest the program's file), {mib['VmHWM']:.1f} MiB at the most")
    check("a site that waits takes less than 0.5 % of a processor", process.poll() is None and used < 0.005 * seconds + 0.01, used)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target" / "debug", metavar="DIR")
    parser.add_argument("--idle-seconds", type=int, metavar="N")
    options = parser.parse_args()
    with scene(options.programs.resolve()) as (made, stack):
        made.prepare()
        if options.idle_seconds:
            idle(made, stack, options.idle_seconds)
        else:
            looked_at(made, whole_run(made, stack))


if __name__ == "__main__":
    main()
