# shellcheck shell=bash
# shellcheck disable=SC2154 # what is read here is set in tests/docker/run
# tests/docker/run: what a site's network reaches.

# reaches NETWORK ADDRESS PORT: yes or no, tried from a container of that network. A refusal came from there, so it is a yes.
reaches() {
    # shellcheck disable=SC2016 # expanded in the container
    docker run --rm --network "${COMPOSE_PROJECT_NAME}_$1" --user 65532:65532 --entrypoint bash "$PROXY_IMAGE" -c '
        timeout 2 bash -c "exec 3<>/dev/tcp/\$0/\$1" "$1" "$2" 2>/tmp/said && echo yes && exit
        said=$(</tmp/said)
        case $said in *refused*) echo yes ;; *) echo no ;; esac' - "$2" "$3" 2>&1
}
# address NETWORK CONTAINER: its address there
address() { docker inspect --format "{{(index .NetworkSettings.Networks \"${COMPOSE_PROJECT_NAME}_$1\").IPAddress}}" "$2"; }
gateway() { docker network inspect --format '{{(index .IPAM.Config 0).Gateway}}' "${COMPOSE_PROJECT_NAME}_$1"; }

# Each address is tried from a network that does reach it as well: a try that cannot succeed shows nothing. All at once, for most of them wait.
check_networks() {
    local neighbour port_here listener outside told name network where port tries=()
    # In another site's network, with a port that answers.
    neighbour=$(docker run --detach --rm --network "$COMPOSE_PROJECT_NAME"_site-1 --name "$COMPOSE_PROJECT_NAME-neighbour" \
        --volume "$PWD/deploy/haproxy.cfg:/etc/haproxy.cfg:ro" --entrypoint haproxy "$PROXY_IMAGE" -db -f /etc/haproxy.cfg)
    # This machine, at an address that leads to it from outside, too.
    python3 -c 'import socket, time; s = socket.create_server(("0.0.0.0", 0)); print(s.getsockname()[1], flush=True); time.sleep(60)' >"$work/port" &
    listener=$!
    until_so "this machine listens" 10 test -s "$work/port"
    port_here=$(cat "$work/port")
    outside=$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("192.0.2.254", 9)); print(s.getsockname()[0])')
    told=$(mktemp -d "${TMPDIR:-/tmp}/fedbasin-reaches.XXXXXX")
    while read -r name network where port; do
        {
            reaches site-0 "$where" "$port" >"$told/$name"
            reaches "$network" "$where" "$port" >"$told/$name-otherwise"
        } &
        tries+=($!)
    done <<LIST
the-server,-for-gRPC site-1 demo-proxy 50051
the-server,-for-HTTP site-1 demo-proxy 8080
Postgres database $(address database "$postgres") 5432
a-replica edge $(address edge "${replicas[0]}") 50051
another-site site-1 $(address site-1 "$neighbour") 50051
this-machine edge $(gateway edge) $port_here
an-address-outside edge $outside $port_here
this-machine-in-its-own-network edge $(gateway site-0) $port_here
Postgres-by-its-name database postgres 5432
LIST
    wait "${tries[@]}"
    for name in "$told"/*; do
        name=${name##*/}
        case $name in
            *-otherwise) ;;
            the-server*) expect "a site reaches ${name//-/ }" yes "$(cat "$told/$name")" ;;
            *-own-network) expect "a site does not reach ${name//-/ }" no "$(cat "$told/$name")" ;;
            *) expect "a site does not reach ${name//-/ }, which others do" 'no yes' "$(cat "$told/$name") $(cat "$told/$name-otherwise")" ;;
        esac
    done
    rm -rf "$told"
    kill "$listener"
    docker kill "$neighbour" >/dev/null
}
