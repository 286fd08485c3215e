#!/usr/bin/env python3
"""Writes a package's bill of materials as CycloneDX 1.6 (JSON), and holds it against that format's schema.

Listed is what cargo resolves for one target with the package's default features: what is compiled into the program as `required`,
what only helps to compile it (macros, build scripts) as `excluded`. Versions and checksums are those of Cargo.lock. The same sources
give the same file, byte by byte.

usage: sbom.py PACKAGE -o FILE [--target TRIPLE]     (needs pip install 'cyclonedx-python-lib[json-validation]')
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import subprocess
import sys
import uuid

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = pathlib.Path(__file__).resolve().parent.parent
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def cargo(*arguments):
    """What cargo says."""
    command = ["cargo", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def tree(package, target, edges):
    """What a package depends on: {(name, version): {(name, version), ...}}, itself included."""
    lines = cargo(
        "tree", "--locked", "--package", package, "--target", target, "--edges", edges, "--prefix", "depth", "--format", " {p}"
    ).splitlines()
    found, path = {}, []
    for line in lines:
        depth, name, version = line.split()[:3]
        here = (name, version.removeprefix("v"))
        del path[int(depth):]
        found.setdefault(here, set())
        if path:
            found[path[-1]].add(here)
        path.append(here)
    return found


def component(package, kind, scope, licenses):
    """One package as a component. Only what comes from the registry has an address there and a checksum."""
    name, version = package["name"], package["version"]
    made = Component(
        type=kind,
        name=name,
        version=version,
        bom_ref=f"{name}@{version}",
        scope=scope,
        description=package["description"],
    )
    if package["license"]:
        # The older way to write OR, which is no SPDX expression.
        made.licenses.add(licenses.make_from_string(package["license"].replace("/", " OR ")))
    if package["source"] == REGISTRY:
        made.purl = PackageURL(type="cargo", name=name, version=version)
        made.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=package["checksum"]))
    elif package["source"] is not None:
        sys.exit(f"sbom.py: {name} {version} comes from {package['source']}, and not from the registry")
    return made


def packages():
    """All packages of the workspace's resolution by name and version, with their checksums."""
    found = {}
    for package in json.loads(cargo("metadata", "--locked", "--format-version", "1"))["packages"]:
        found[package["name"], package["version"]] = package
    name = version = None
    for line in (ROOT / "Cargo.lock").read_text().splitlines():
        key, _, value = line.partition(" = ")
        if key == "name":
            name = value.strip('"')
        elif key == "version":
            version = value.strip('"')
        elif key == "checksum" and (name, version) in found:
            found[name, version]["checksum"] = value.strip('"')
    return found


def bill(package, target):
    """The bill of materials of one package."""
    known = packages()
    inside = tree(package, target, "normal,no-proc-macro")
    everything = tree(package, target, "normal,build")
    root = next(key for key in inside if key[0] == package)
    bom, licenses = Bom(), LicenseFactory()
    made = {}
    for key in sorted(everything):
        kind = ComponentType.APPLICATION if key == root else ComponentType.LIBRARY
        scope = ComponentScope.REQUIRED if key in inside else ComponentScope.EXCLUDED
        made[key] = component(known[key], kind, None if key == root else scope, licenses)
        if key != root:
            bom.components.add(made[key])
    bom.metadata.component = made[root]
    bom.metadata.supplier = OrganizationalEntity(name="fedbasin")
    bom.metadata.properties.add(Property(name="cargo:target", value=target))
    for key in sorted(everything):
        bom.register_dependency(made[key], [made[other] for other in sorted(everything[key])])
    # Neither the hour nor chance: the lock file and what was asked for decide the identity, the last commit the time.
    lock = (ROOT / "Cargo.lock").read_bytes()
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"fedbasin:{package}:{target}:{hashlib.sha256(lock).hexdigest()}")
    commit = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True, capture_output=True, check=False)
    seconds = int(commit.stdout.strip() or 0)
    bom.metadata.timestamp = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return bom


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description="a package's bill of materials, CycloneDX 1.6")
    parser.add_argument("package")
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path)
    parser.add_argument("--target", help="default: that of this machine's compiler")
    arguments = parser.parse_args()
    host = subprocess.run(["rustc", "-vV"], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    target = arguments.target or next(line[6:] for line in host.splitlines() if line.startswith("host: "))
    bom = bill(arguments.package, target)
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        sys.exit(f"sbom.py: what was made does not fit CycloneDX's schema: {fault}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text)
    scopes = [component.scope for component in bom.components]
    print(
        f"{arguments.output}: {scopes.count(ComponentScope.REQUIRED)} components in {arguments.package} for {target}, "
        f"{scopes.count(ComponentScope.EXCLUDED)} that only help to compile it"
    )


if __name__ == "__main__":
    main()
