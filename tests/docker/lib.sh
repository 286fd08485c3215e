# shellcheck shell=bash
# What the scripts of this folder share; they read it from the repository's root.

fail() { printf 'tests/docker: %s\n' "$*" >&2; exit 1; }
say() { printf 'docker [%3d s]: %s\n' "$SECONDS" "$*"; }

# shellcheck disable=SC2034 # read by those who call it
find_engine() { # sets compose
    if docker compose version >/dev/null 2>&1; then
        compose=(docker compose)
    elif command -v docker-compose >/dev/null; then
        compose=(docker-compose)
    else
        fail "neither 'docker compose' nor docker-compose is installed"
    fi
    docker version >/dev/null 2>&1 || fail "no Docker engine answers"
}

# The names of all images that tests/docker/images makes, for docker-compose.yml.
name_images() { # name_images TAG
    export POSTGRES_IMAGE=fedbasin-test-postgres:$1 PROXY_IMAGE=fedbasin-test-proxy:$1
    export FEDBASIN_IMAGE=fedbasin-test-server:$1 CLIENT_IMAGE=fedbasin-test-client:$1 DEMO_SITE_IMAGE=fedbasin-test-demo-site:$1
}

remove_images() { # remove_images TAG
    local name
    for name in "$POSTGRES_IMAGE" "$PROXY_IMAGE" "$FEDBASIN_IMAGE" "$CLIENT_IMAGE" "$DEMO_SITE_IMAGE" "${FEDBASIN_IMAGE/:/-runtime:}" \
        "${CLIENT_IMAGE/:/-runtime:}" "${DEMO_SITE_IMAGE/:/-runtime:}" "fedbasin-test-collect:$1" "fedbasin-test-base:$1"; do
        docker image rm --force "$name" >/dev/null 2>&1 || true
    done
}

# All of the project's, and the volumes that images made for its containers.
take_down() {
    local ids volumes
    # shellcheck disable=SC2119
    mapfile -t ids < <(containers)
    if [ ${#ids[@]} -gt 0 ]; then
        mapfile -t volumes < <(docker inspect --format '{{range .Mounts}}{{if .Name}}{{println .Name}}{{end}}{{end}}' "${ids[@]}" | sort -u | grep .)
        docker rm --force --volumes "${ids[@]}" >/dev/null 2>&1 || true
        docker volume rm "${volumes[@]}" >/dev/null 2>&1 || true
    fi
    "${compose[@]}" --profile demo down --volumes --timeout 2 >/dev/null 2>&1 || true
}

choose_ports() { # two that no other stack here is likely to have, below those that a system gives to who calls
    FEDBASIN_GRPC_PORT=$((10000 + RANDOM % 4500))
    FEDBASIN_HTTP_PORT=$((FEDBASIN_GRPC_PORT + 5000))
    export FEDBASIN_GRPC_PORT FEDBASIN_HTTP_PORT
    url=http://127.0.0.1:$FEDBASIN_HTTP_PORT
}

ask() { # ask METHOD PATH TOKEN [BODY]: prints the status and the body
    python3 - "$url" "$@" <<'PYTHON'
import sys, urllib.error, urllib.request
url, method, path, token = sys.argv[1:5]
request = urllib.request.Request(url + path, method=method, headers={"authorization": "Bearer " + token})
if len(sys.argv) > 5:
    request.data = sys.argv[5].encode()
    request.add_header("content-type", "application/json")
try:
    answer = urllib.request.urlopen(request, timeout=20)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
PYTHON
}

expect() { # expect WHAT PATTERN ANSWER
    # shellcheck disable=SC2254 # a pattern is meant
    case $3 in
        $2) echo "  ok: $1" ;;
        *) fail "$1: got $3" ;;
    esac
}

# until WHAT SECONDS COMMAND...: until the command succeeds
until_so() {
    local what=$1 seconds=$2 began=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $((SECONDS - began)) -lt "$seconds" ] || fail "not within $seconds s: $what"
        sleep 0.3
    done
}

# Asked of the engine: docker-compose takes a second to begin.
# shellcheck disable=SC2120 # nothing: of all services
containers() { # containers [SERVICE]: their ids, without those of `run`
    docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --filter label=com.docker.compose.oneoff=False ${1:+--filter "label=com.docker.compose.service=$1"}
}
is_healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }
is_ready() { case $(ask GET /readyz '') in 200*) ;; *) return 1 ;; esac }
