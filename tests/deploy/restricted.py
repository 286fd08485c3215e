"""The restricted Pod Security Standard, control by control, and what this chart promises beyond it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/"""

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}


def faults(pod):
    """What of the standard a pod's spec breaks."""
    of_pod = pod.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"{name} is set"
    for sysctl in of_pod.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for volume in pod.get("volumes", []):
        for kind in volume.keys() - {"name"}:
            if kind not in VOLUMES:
                yield f"volume {volume['name']} is a {kind}"
    containers = [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]
    for container in containers:
        for fault in of_container(container, of_pod):
            yield f"container {container['name']}: {fault}"


def of_container(container, of_pod):
    own = container.get("securityContext", {})

    def either(name):
        return own.get(name, of_pod.get(name))

    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if either("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if either("runAsUser") == 0:
        yield "runAsUser is 0"
    if (either("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities do not drop ALL"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"capabilities add {capabilities['add']}"
    if (either("appArmorProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield "appArmorProfile is Unconfined"
    if set(either("seLinuxOptions") or {}) & {"user", "role"}:
        yield "seLinuxOptions name a user or a role"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not Default"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "a hostPort"
    for hook in container.get("lifecycle", {}).values():
        if "exec" in hook:
            yield "a hook runs a program, and the image has none but its own"


def beyond(pod):
    """What of the chart's own promises it breaks: user 65532, a root that cannot be written, no token of the API, bounds."""
    security = pod.get("securityContext", {})
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        if security.get(name) != 65532:
            yield f"{name} is not 65532"
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    for container in pod["containers"]:
        resources = container.get("resources", {})
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"container {container['name']}: its root can be written"
        if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
            yield f"container {container['name']}: no requests of CPU and memory, or no limit of memory"
    for volume in pod.get("volumes", []):
        if "sizeLimit" not in volume.get("emptyDir", {"sizeLimit": ""}):
            yield f"volume {volume['name']} has no sizeLimit"
