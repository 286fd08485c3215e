"""What is checked of the manifests of one release: each by itself, and that they belong together."""

import jsonschema
import yaml

import restricted
import settings


class Loader(yaml.SafeLoader):
    """Refuses a key that comes twice, which YAML forbids and PyYAML takes."""


def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"{twice} twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def read(text):
    return [manifest for manifest in yaml.load_all(text, Loader) if manifest]


# Not of Kubernetes itself: what the chart uses of it, as the operator's API has it.
SECRET_KEY = {"type": "object", "additionalProperties": False, "required": ["name", "key"],
              "properties": {"name": {"type": "string"}, "key": {"type": "string"}}}
SERVICE_MONITOR = {
    "type": "object", "additionalProperties": False, "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {"apiVersion": {"const": "monitoring.coreos.com/v1"}, "kind": {"const": "ServiceMonitor"}, "metadata": {"type": "object"},
        "spec": {"type": "object", "additionalProperties": False, "required": ["selector", "endpoints"], "properties": {
            "selector": {"type": "object", "additionalProperties": False, "properties": {"matchLabels": {"type": "object"}}},
            "endpoints": {"type": "array", "minItems": 1, "items": {"type": "object", "additionalProperties": False, "properties": {
                "port": {"type": "string"}, "path": {"type": "string"}, "interval": {"type": "string"},
                "scheme": {"enum": ["http", "https"]},
                "authorization": {"type": "object", "additionalProperties": False,
                                  "properties": {"type": {"type": "string"}, "credentials": SECRET_KEY}},
                "tlsConfig": {"type": "object", "additionalProperties": False, "properties": {
                    "serverName": {"type": "string"},
                    "ca": {"type": "object", "additionalProperties": False, "properties": {"secret": SECRET_KEY}}}},
            }}},
        }}},
}


def faults(manifests, apis):
    """Everything that is wrong with them, a sentence each."""
    for manifest in manifests:
        place = f"{manifest['kind']} {manifest['metadata']['name']}"
        for fault in of_one(manifest, apis):
            yield f"{place}: {fault}"
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name} is there twice"
    yield from together(manifests)


def of_one(manifest, apis):
    if manifest["kind"] == "ServiceMonitor":
        for error in jsonschema.Draft202012Validator(SERVICE_MONITOR).iter_errors(manifest):
            yield f"{error.json_path}: {error.message}"
        return
    for api in apis:
        yield from api.faults(manifest)
    if pod := pod_of(manifest):
        yield from restricted.faults(pod)
        yield from restricted.beyond(pod)
        yield from mounts(pod)
        yield from programs(pod)
        hook = "helm.sh/hook" in manifest["metadata"].get("annotations", {})
        if hook and (pod.get("serviceAccountName") or any("configMap" in volume for volume in pod["volumes"])):
            yield "what runs before the release needs something of the release"


def pod_of(manifest):
    return manifest.get("spec", {}).get("template", {}).get("spec")


def labels_of(manifest):
    return manifest["spec"]["template"]["metadata"]["labels"]


def mounts(pod):
    """Every mount has a volume and every volume a mount; no two mounts are at one place."""
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounted = [mount for container in pod["containers"] for mount in container.get("volumeMounts", [])]
    for name in volumes ^ {mount["name"] for mount in mounted}:
        yield f"volume {name} is not there, or not mounted"
    for container in pod["containers"]:
        places = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if len(places) != len(set(places)):
            yield f"two mounts at one place of {places}"


def programs(pod):
    """Flags, commands and variables of the program are those that it has."""
    (program, *_) = pod["containers"]
    command, *arguments = program["args"]
    for flag in (argument for argument in arguments if argument.startswith("--")):
        if flag not in settings.flags_of(command):
            yield f"fedbasin-server {command} has no {flag}"
    for variable in program["env"]:
        if variable["name"].startswith("FEDBASIN_") and variable["name"] not in settings.VARIABLES:
            yield f"there is no variable {variable['name']}"
    ports = {port["name"] for port in program.get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe in program and program[probe]["httpGet"]["port"] not in ports:
            yield f"{probe} asks a port that is not there"


def together(manifests):
    """What one names of another one is there."""
    of_kind = {}
    for manifest in manifests:
        of_kind.setdefault(manifest["kind"], {})[manifest["metadata"]["name"]] = manifest
    runs = [*of_kind["Deployment"].values(), *of_kind.get("Job", {}).values()]

    def selected(selector):
        wanted = selector["matchLabels"].items()
        return [run for run in runs if wanted <= labels_of(run).items()]

    for kind in ("Deployment", "PodDisruptionBudget", "NetworkPolicy"):
        for name, manifest in of_kind.get(kind, {}).items():
            found = selected(manifest["spec"].get("podSelector") or manifest["spec"]["selector"])
            if len(found) != 1:
                yield f"{kind} {name} selects the pods of {len(found)}"
            elif found[0]["metadata"]["name"] != name:
                yield f"{kind} {name} selects the pods of {found[0]['metadata']['name']}"
    for name, service in of_kind["Service"].items():
        ports = [port["name"] for run in selected({"matchLabels": service["spec"]["selector"]})
                 for port in pod_of(run)["containers"][0].get("ports", [])]
        if any(port["targetPort"] not in ports for port in service["spec"]["ports"]):
            yield f"Service {name} has no pod with its port"
    for name, ingress in of_kind.get("Ingress", {}).items():
        for path in (path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]):
            behind = path["backend"]["service"]
            ports = of_kind["Service"].get(behind["name"], {"spec": {"ports": []}})["spec"]["ports"]
            if behind["port"]["name"] not in [port["name"] for port in ports]:
                yield f"Ingress {name} has no service behind it"
    for name, scaler in of_kind.get("HorizontalPodAutoscaler", {}).items():
        target = of_kind["Deployment"].get(scaler["spec"]["scaleTargetRef"]["name"], {"spec": {"replicas": 0}})
        if "replicas" in target["spec"]:
            yield f"HorizontalPodAutoscaler {name} scales nothing, or what has a number of its own"
    for name, monitor in of_kind.get("ServiceMonitor", {}).items():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [service for service in of_kind["Service"].values() if wanted <= service["metadata"]["labels"].items()]
        ports = [port["name"] for service in found for port in service["spec"]["ports"]]
        if ports != [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]]:
            yield f"ServiceMonitor {name} asks {ports}"
    for run in runs:
        yield from names_of(run, of_kind)


def names_of(run, of_kind):
    """Its service account and ConfigMap are of the release, unless values named others."""
    pod = pod_of(run)
    account = pod.get("serviceAccountName")
    if account and of_kind.get("ServiceAccount") and account not in of_kind["ServiceAccount"]:
        yield f"{run['metadata']['name']}: service account {account} is not there"
    for volume in pod["volumes"]:
        if volume["name"] == "settings" and volume["configMap"]["name"] not in of_kind["ConfigMap"]:
            yield f"{run['metadata']['name']}: ConfigMap {volume['configMap']['name']} is not there"
