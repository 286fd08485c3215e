# shellcheck shell=bash
# shellcheck disable=SC2154 # what is read here is set in tests/docker/run
# What tests/docker/run holds of images and containers, while all of docker-compose.yml is up.

sql() { # sql ROLE PASSWORD_FILE STATEMENT: what Postgres answers
    # shellcheck disable=SC2016 # expanded in the container
    docker exec "$(containers postgres)" sh -c 'PGPASSWORD=$(cat "$2") psql -h 127.0.0.1 -U "$1" -d fedbasin -Atc "$3" 2>&1' - "$@" || true
}
owner() { sql fedbasin /secret/password "$1"; }
serving() { sql fedbasin_app /secret/app-password "$1"; }

# check_image IMAGE PROGRAM: nothing but the program, the libraries that it loads and what deploy/runtime.sh makes
check_image() {
    local image=$1 program=$2 container files
    container=$(docker create "$image")
    files=$(docker export "$container" | tar -t | grep -v '/$' | grep -vE '^(\.dockerenv|dev/|etc/(hostname|hosts|mtab|resolv\.conf)$)' |
        sed -E 's#^lib(64)?/([^/]*-linux-gnu/)?##' | sort | tr '\n' ' ')
    docker rm --volumes "$container" >/dev/null
    expect "$program's image holds the program, four libraries and little else" \
        "etc/group etc/nsswitch.conf etc/passwd @(etc/ssl/certs/ca-certificates.crt )ld-linux-@(x86-64.so.2|aarch64.so.1) libc.so.6 libgcc_s.so.1 libm.so.6 usr/local/bin/$program usr/share/doc/fedbasin/LICENSE @(|usr/share/doc/fedbasin/fedbasin-*.cdx.json )" \
        "$files"
    expect "and says what it is" "65532:65532 0.1.0 $(git rev-parse HEAD 2>/dev/null || echo unknown) Apache-2.0" \
        "$(docker image inspect --format '{{.Config.User}} {{with .Config.Labels}}{{index . "org.opencontainers.image.version"}} {{index . "org.opencontainers.image.revision"}} {{index . "org.opencontainers.image.licenses"}}{{end}}' "$image")"
    expect "and no shell" '*no such file or directory*' "$(docker run --rm --entrypoint /bin/sh "$image" -c true 2>&1 || true)"
}

# Every container of ours: no root, no capability, a file system that it cannot write. The one that makes the secrets is root, and ends.
check_confined() {
    local id name user told pid
    for id in $(containers); do
        name=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.service"}}' "$id")
        told=$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.RestartPolicy.Name}}' "$id")
        expect "$name: read-only, no capability, no new privileges" 'true \[ALL\] \[no-new-privileges:true\] *' "$told"
        user=$(docker inspect --format '{{.Config.User}}' "$id")
        case $name in
            secret) expect "$name: root without a network" 'root none' "$user $(docker inspect --format '{{.HostConfig.NetworkMode}}' "$id")" ;;
            postgres | role) expect "$name: not root" postgres "$user" ;;
            *) expect "$name: not root" 65532:65532 "$user" ;;
        esac
        pid=$(docker inspect --format '{{.State.Pid}}' "$id")
        # As the kernel has it, where the engine is of this machine.
        if [ "$pid" != 0 ] && [ -r "/proc/$pid/status" ]; then
            expect "$name: nor for the kernel" '@(65532|999) 0000000000000000 1' \
                "$(awk '/^Uid:/ {uid = $3} /^CapEff:/ {caps = $2} /^NoNewPrivs:/ {print uid, caps, $2}' "/proc/$pid/status")"
        fi
        expect "$name: has limits of memory and processes" '@([1-9])*([0-9]) @([1-9])*([0-9])' "$(docker inspect --format '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}' "$id")"
        case $name in
            postgres | server | worker | proxy | demo-proxy)
                expect "$name: is started again" unless-stopped "$(docker inspect --format '{{.HostConfig.RestartPolicy.Name}}' "$id")" ;;
        esac
    done
    local server=${replicas[0]}
    expect "a server cannot write its root" '*ead-only file system*' "$(docker exec "$server" fedbasin-server man /pages 2>&1 || true)"
    expect "but what it needs" '' "$(docker exec "$server" fedbasin-server man /tmp/pages 2>&1 >/dev/null)"
    expect "it sees its own secrets alone" 'database-url signing-key.pem' "$(volume_files "$COMPOSE_PROJECT_NAME"_server-secret)"
    expect "no port outside but the proxy's" "proxy:50051/tcp proxy:8080/tcp" "$(for id in $(containers); do
        docker port "$id" | sed -n "s#^\([0-9]*/tcp\) -> .*#$(docker inspect --format '{{index .Config.Labels "com.docker.compose.service"}}' "$id"):\1#p"
    done | sort -u | tr '\n' ' ' | sed 's/ $//')"
    expect "and the operators' port on this machine alone" "127.0.0.1:$FEDBASIN_HTTP_PORT" "$(docker port "$(containers proxy)" 8080/tcp)"
}

volume_files() { # volume_files VOLUME: names, sorted
    docker run --rm --network none --volume "$1:/volume:ro" --entrypoint sh --user root "$POSTGRES_IMAGE" -c 'cd /volume; echo *'
}

# What the database's role of servers may do, and may not do to the audit log.
check_role() {
    expect "the server connects as a role of its own" 'fedbasin_app' \
        "$(owner "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'fedbasin' AND pid <> pg_backend_pid()")"
    expect "which is no superuser and owns nothing" 'f|0' \
        "$(owner "SELECT rolsuper, (SELECT count(*) FROM pg_class WHERE relowner = r.oid) FROM pg_roles r WHERE rolname = 'fedbasin_app'")"
    expect "it reads the audit log, where the site's record is" '1' \
        "$(serving "SELECT count(*) FROM audit_records WHERE action = 'site.enrolled' AND line LIKE '%hospital-a%'")"
    local statement
    for statement in "UPDATE audit_records SET line = ''" 'DELETE FROM audit_records' 'TRUNCATE audit_records' \
        "UPDATE audit_nodes SET hash = ''" 'DELETE FROM audit_nodes' 'DELETE FROM audit_head' \
        'DROP TRIGGER audit_records_are_kept ON audit_records' 'ALTER TABLE audit_records DISABLE TRIGGER ALL' 'DROP TABLE audit_records' \
        'SET ROLE fedbasin' 'CREATE ROLE another'; do
        expect "and may not: $statement" 'ERROR:*@(permission denied|must be owner)*' "$(serving "$statement")"
    done
}

# What the proxy lets through to the gRPC edge, and how much of it one address has.
check_edges() {
    local path code told call
    command -v curl >/dev/null || fail "curl is missing; it speaks HTTP/2 without TLS"
    # A message of no bytes.
    printf '\0\0\0\0\0' >"$work/empty"
    for path in fedbasin.v1.FedBasin/GetServerKeys=200 grpc.health.v1.Health/Check=200 grpc.health.v1.Health/Watch=404 \
        grpc.health.v1.Health/Check/=404 grpc.reflection.v1.ServerReflection/ServerReflectionInfo=404 fedbasin.v1.FedBasin=404 =404; do
        # What is refused is so before its body came, and curl takes the end of that for a failure: without one.
        call=()
        [ "${path#*=}" != 200 ] || call=(--header 'te: trailers' --header 'content-type: application/grpc' --data-binary @"$work/empty")
        code=$(curl --silent --max-time 5 --http2-prior-knowledge --output /dev/null --write-out '%{http_code}' "${call[@]}" \
            "http://127.0.0.1:$FEDBASIN_GRPC_PORT/${path%=*}") || true
        expect "through the proxy, /${path%=*}" "${path#*=}" "$code"
    done
    # Connections that say nothing, more than one address may have: those beyond are ended, and it may come again.
    told=$(python3 - "$FEDBASIN_HTTP_PORT" <<'PYTHON'
import select, socket, sys, time
lines = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(300)]
time.sleep(1)
ended = 0
for line in select.select(lines, [], [], 0)[0]:
    try:
        ended += line.recv(1) == b""
    except ConnectionResetError:
        ended += 1
print(len(lines) - ended)
PYTHON
    )
    expect "one address has so many connections to the operators' port" 256 "$told"
    until_so "and may come again" 10 is_ready
}

# Signs in through the proxy as a person does, and looks at the run more often than there are replicas.
check_dashboard() {
    local told
    told=$(python3 - "$url" "$token" <<'PYTHON'
import http.cookiejar, sys, urllib.parse, urllib.request
url, token = sys.argv[1:]
form = urllib.parse.urlencode({"token": token, "next": "/"}).encode()
def signed_in(**headers):
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.open(urllib.request.Request(url + "/signin", form, {"origin": url, **headers}), timeout=20)
    return browser, [cookie.secure for cookie in jar]
browser, clear = signed_in()
_, behind_tls = signed_in(**{"x-forwarded-proto": "https"})
pages = [browser.open(url + "/runs/fashion", timeout=20).read().decode() for _ in range(4)]
print(*(all(site in page for site in ("site-0", "site-1", "site-2", "site-3")) and "omplete" in page for page in pages), clear, behind_tls)
PYTHON
    )
    expect "the dashboard shows the run, from any replica; its cookie is secure where a proxy before this one ended TLS" \
        'True True True True \[False\] \[True\]' "$told"
}
