#!/usr/bin/env python3
"""Lints and renders the Helm chart with a real helm and holds what comes out against the Kubernetes API, the restricted Pod Security
Standard, and the server itself, which is started with the rendered settings.

usage: chart.py --programs target/debug
"""

import json
import pathlib
import subprocess
import tempfile

import yaml

import check
import manifests
import settings
import started
import tools

CHART = check.ROOT / "deploy" / "chart"
# The oldest that Chart.yaml allows, and the newest whose schemas there are.
VERSIONS = ("1.30.0", "1.37.0")

EVERYTHING = {
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "registry"}]},
    "fullnameOverride": "fed",
    "database": {"caSecretName": "postgres-ca"},
    "objects": {"url": "s3://models/fedbasin", "endpoint": "https://s3.example:9000", "region": "eu-central-1"},
    "tls": {"enabled": True, "clientCaSecretName": "sites", "clientCertificates": "accepted"},
    "webhookSecret": {"secretName": "webhook"},
    "caBundle": {"configMapName": "authorities"},
    "settings": {
        "limits": {"max_checkpoint_bytes": 17179869184, "max_json_depth": 32},
        "work": {"lease_seconds": 60, "metrics_listen": "127.0.0.1:9464"},
        "webhooks": [{"name": "ops", "url": "https://hooks.example/a?b=<c>&d", "events": ["round.failed", "site.silent"]}],
        "notify": {"quorum_at_risk_fraction": 0.5, "site_silent_seconds": 3600},
        "oidc": {"issuer": "https://id.example/realms/x", "audience": "fedbasin", "roles_claim": ["realm_access", "roles"],
                 "roles": {"fed-look": "viewer", "fed \"all\"": "admin"},
                 "sign_in": {"redirect_url": "https://fed.example/signin/return", "scopes": ["openid", "groups"]}},
        "otlp": {"endpoint": "http://127.0.0.1:4318", "sample_ratio": 1},
        "log": {"level": "info,sqlx=warn", "json": False},
    },
    "worker": {"autoscaling": {"metrics": [{"type": "External", "external": {
        "metric": {"name": "fedbasin_updates_to_align"}, "target": {"type": "AverageValue", "averageValue": "4"}}}]}},
    "service": {"grpc": {"type": "LoadBalancer", "annotations": {"lb.example/proxy-protocol": "off"}}},
    "ingress": {"grpc": {"enabled": True, "className": "nginx"}, "http": {"enabled": True}},
    "networkPolicy": {
        "database": {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}, "objects": {"to": [{"ipBlock": {"cidr": "10.1.2.4/32"}}], "port": 9000},
        "identity": {"to": [{"ipBlock": {"cidr": "10.1.2.5/32"}}]}, "webhooks": {"to": [{"ipBlock": {"cidr": "10.1.2.6/32"}}]},
        "traces": {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "otel"}}}]},
        "extraEgress": [{"ports": [{"protocol": "TCP", "port": 3128}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "serverName": "fedbasin.example"},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/fedbasin"}},
    "extraVolumes": [{"name": "hooks", "secret": {"secretName": "hooks"}}],
    "extraVolumeMounts": [{"name": "hooks", "mountPath": "/run/hooks", "readOnly": True}],
    "extraEnv": [{"name": "AWS_REQUEST_PAYER", "value": "true"}],
    "podAnnotations": {"example/a": "b"}, "podLabels": {"example/c": "d"}, "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "models", "operator": "Exists"}], "affinity": {"nodeAffinity": {}}, "priorityClassName": "high",
}
LEAST = {
    "objects": {"secretName": ""}, "migrations": {"enabled": False}, "networkPolicy": {"enabled": False}, "worker": {"autoscaling": {"enabled": False}},
    "serviceAccount": {"create": False, "name": "theirs"}, "spreadOver": [], "settings": {"limits": None, "log": None},
}
CASES = {"defaults": {}, "everything": EVERYTHING, "the least": LEAST}

# What the README says for sites with certificates.
CERTIFICATES = {"tls": {"enabled": True, "clientCaSecretName": "fedbasin-authority"}, "service": {"grpc": {"type": "LoadBalancer"}},
                "networkPolicy": {"grpc": None}}
CONTROLLER, MONITORING = ({"kubernetes.io/metadata.name": name} for name in ("ingress-nginx", "monitoring"))
GRPC_PATHS = {"/fedbasin.v1.FedBasin": "Prefix", "/grpc.health.v1.Health/Check": "Exact"}

# Each is refused, and the answer says where.
WRONG = [
    ({"server": {"replicas": "two"}}, "/server/replicas"),
    ({"server": {"replica": 2}}, "/server"),
    ({"settings": {"limits": {"max_conections": 5}}}, "max_conections"),
    ({"settings": {"limits": {"max_connections": "5"}}}, "/settings/limits/max_connections"),
    ({"settings": {"work": {"in_serve": True}}}, "in_serve"),
    ({"settings": {"database_url": "postgres://user:password@host/db"}}, "database_url"),
    ({"objects": {"url": "https://bucket"}}, "/objects/url"),
    ({"tls": {"clientCertificates": "perhaps"}}, "/tls/clientCertificates"),
    ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ({"signingKey": {"secretName": ""}}, "/signingKey/secretName"),
    ({"migrations": {"grantTo": "app; DROP"}}, "/migrations/grantTo"),
    ({"networkPolicy": {"database": {"port": 70000}}}, "/networkPolicy/database/port"),
    ({"ingres": {}}, "ingres"),
]


def helm(*arguments, values=None):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values or {}, file)
        file.flush()
        return subprocess.run([tools.helm(), *arguments, "--values", file.name], capture_output=True, text=True, timeout=60)


def lines(result):
    return (result.stdout + result.stderr).strip()


def release(values, command=("template",)):
    result = helm(*command, "fedbasin", str(CHART), "--namespace", "federated", values=values)
    if result.returncode:
        raise SystemExit(f"helm {command[0]}: {lines(result)}")
    return result.stdout


def documented():
    """Each value has a comment before it and is in the schema; the schema has no other, and refuses others everywhere."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    lines_of = text.splitlines()
    for place, line in values_of(yaml.compose(text), schema, schema["$defs"], ""):
        if not lines_of[line - 1].lstrip().startswith("#"):
            yield f"values.yaml: no comment before {place}"
    yield from same_keys(yaml.safe_load(text), schema, schema["$defs"], "")


def values_of(node, schema, defs, place):
    """Each value's name and line, down to where a reader of the schema is told no more."""
    for key, value in node.value:
        inner = schema.get("properties", {}).get(key.value, {})
        inner = defs[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        name = f"{place}.{key.value}"
        if isinstance(value, yaml.MappingNode) and value.value and "properties" in inner and key.value != "resources":
            yield from values_of(value, inner, defs, name)
        else:
            yield name, key.start_mark.line


def same_keys(values, schema, defs, place):
    schema = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "properties" not in schema:
        return
    if schema.get("additionalProperties") is not False:
        yield f"values.schema.json: {place or 'the whole'} takes anything"
    known = schema["properties"].keys() - {"global"}
    if place.startswith(".settings.") or place.endswith(".resources"):
        known &= values.keys()
    if known != values.keys():
        yield f"values.schema.json: {place or 'the whole'}: {sorted(known ^ values.keys())} only there or in values.yaml"
    for key, value in values.items():
        if isinstance(value, dict):
            yield from same_keys(value, schema["properties"].get(key, {}), defs, f"{place}.{key}")


def settings_of_the_schema():
    """What values may set is what the program has, and nothing that the chart says itself."""
    tables = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"]
    for table, schema in tables.items():
        properties = schema.get("items", schema)["properties"].keys()
        known = {key.partition(".")[2] for key in settings.known_keys() if key.startswith(f"{table}.")} - {"in_serve"}
        if properties != known:
            yield f"values.schema.json: settings.{table}: {sorted(properties ^ known)} only there or in deploy/fedbasin.toml"


def edges(found, grpc, http):
    """Which peers reach which edge of the servers (None: everybody), and which calls an ingress hands on."""
    (policy,) = [manifest for manifest in found if manifest["kind"] == "NetworkPolicy" and manifest["metadata"]["name"].endswith("-server")]
    for port, wanted in (("grpc", grpc), ("http", http)):
        rules = [rule for rule in policy["spec"]["ingress"] if port in [each["port"] for each in rule["ports"]]]
        peers = None if any(not rule.get("from") for rule in rules) else [peer["namespaceSelector"]["matchLabels"] for rule in rules for peer in rule["from"]]
        if peers != wanted:
            yield f"{port} is reached by {peers}"
    for manifest in (manifest for manifest in found if manifest["kind"] == "Ingress"):
        paths = {path["path"]: path["pathType"] for rule in manifest["spec"]["rules"] for path in rule["http"]["paths"]}
        if paths != (GRPC_PATHS if manifest["metadata"]["name"].endswith("-grpc") else {"/": "Prefix"}):
            yield f"Ingress {manifest['metadata']['name']} routes {paths}"


def settings_file(found):
    (text,) = [manifest["data"]["fedbasin.toml"] for manifest in found if manifest["kind"] == "ConfigMap"]
    return text


def faults(programs):
    apis = [tools.Api(version) for version in VERSIONS]
    yield from documented()
    yield from settings_of_the_schema()
    for name, values in CASES.items():
        lint = helm("lint", "--strict", str(CHART), values=values)
        if lint.returncode or "[WARNING]" in lines(lint):
            yield f"{name}: helm lint: {lines(lint)}"
        found = manifests.read(release(values))
        text = settings_file(found)
        yield from (f"{name}: {fault}" for fault in manifests.faults(found, apis))
        yield from (f"{name}: deploy/fedbasin.toml has no {key}" for key in settings.keys_of(text) if key not in settings.known_keys())
        yield from (f"{name}: {fault}" for fault in started.faults(programs / "fedbasin-server", text))
        if "NOTES:" not in release(values, ("install", "--dry-run=client")):
            yield f"{name}: no NOTES"
        print(f"  {name}: {len(found)} manifests, {len(text.splitlines())} lines of settings, which the server took")
    for name, values, grpc in (("everything", EVERYTHING, [CONTROLLER]), ("sites with certificates", CERTIFICATES, None)):
        yield from (f"{name}: {fault}" for fault in edges(manifests.read(release(values)), grpc, [CONTROLLER, MONITORING]))
    for values, place in WRONG:
        result = helm("template", "fedbasin", str(CHART), values=values)
        if not result.returncode or place not in lines(result):
            yield f"{values} is not refused as wrong at {place}: {lines(result)[:300]}"
    print(f"  {len(WRONG)} wrong values refused")


if __name__ == "__main__":
    check.run(faults)
