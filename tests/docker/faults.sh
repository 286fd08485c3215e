# shellcheck shell=bash
# shellcheck disable=SC2154 # what is read here is set in tests/docker/run
# tests/docker/run: what goes wrong around containers. Each says so in one clear line, and is over once it is mended.

# says WHAT PATTERN ARGUMENT...: a server that cannot start ends with one line on standard error that is no log line
says() {
    local what=$1 pattern=$2 told
    shift 2
    told=$(timeout 30 docker run --rm --read-only --cap-drop ALL --env FEDBASIN_ALLOW_CLEAR_TEXT=true "$@" 2>&1 | grep -v '^20[0-9-]*T') || true
    [ "$(printf '%s\n' "$told" | wc -l)" = 1 ] || fail "$what: more than one line: $told"
    expect "$what" "fedbasin-server: $pattern" "$told"
}

missing_secrets() {
    says "no file of the database's address" '*/secret/none*No such file*' --env FEDBASIN_DATABASE_URL_FILE=/secret/none "$FEDBASIN_IMAGE" serve
    says "no file of the admin token" 'admin_token_file: cannot read /secret/none*' --env FEDBASIN_ADMIN_TOKEN_FILE=/secret/none "$FEDBASIN_IMAGE" serve
    says "no file of the signing keys" 'signing_key_file: cannot read /secret/none*' --env FEDBASIN_SIGNING_KEY_FILE=/secret/none "$FEDBASIN_IMAGE" serve
}

# make-secret.sh on what an earlier installation had: without its signing keys it makes none, and once they are there the rest.
earlier_secrets() {
    local told
    # shellcheck disable=SC2016 # expanded in the container
    told=$(docker run --rm --network none --user root --read-only --tmpfs /secret --tmpfs /server-secret --tmpfs /admin-secret \
        --volume "$PWD/deploy/make-secret.sh:/make-secret.sh:ro" --entrypoint sh "$POSTGRES_IMAGE" -c '
            printf of-before >/secret/password
            sh /make-secret.sh 2>&1 && echo made
            echo "$(echo /server-secret/*) $(echo /admin-secret/*)"
            printf of-before >/server-secret/signing-key.pem
            sh /make-secret.sh
            echo "$(cat /secret/password) $(cat /server-secret/signing-key.pem) $(echo /server-secret/* /admin-secret/*)"')
    expect "no new signing keys beside the secrets of an earlier installation" "make-secret.sh: *copy it there*the former volume checkpoints*
/server-secret/\* /admin-secret/\*
the secrets are there
of-before of-before /server-secret/database-url /server-secret/signing-key.pem /admin-secret/admin-token" "$told"
}

# What `docker run` is told, a word a line, for `migrate` as the database's owner.
owners() {
    printf '%s\n' --network "$COMPOSE_PROJECT_NAME"_database --volume "$COMPOSE_PROJECT_NAME"_secret:/secret:ro \
        --env FEDBASIN_DATABASE_URL_FILE=/secret/owner-url "$FEDBASIN_IMAGE" migrate
}
not_ready() { case $(docker exec "$1" fedbasin-server healthcheck 2>&1) in *'is not ready'*) ;; *) return 1 ;; esac }

# A schema that this program does not know, and one whose last step broke off: nobody touches it, and servers that run say that they are not ready.
strange_schema() {
    local migrate floor
    floor=$(owner 'SELECT oldest FROM schema_floor')
    mapfile -t migrate < <(owners)
    owner "INSERT INTO _sqlx_migrations VALUES (9999, 'of a later version', now(), true, '\\x00', 1)" >/dev/null
    expect "a program goes on beside a later version that only added" '' "$(docker run --rm --read-only "${migrate[@]}" 2>&1 | grep -v '^20[0-9-]*T' || true)"
    owner 'UPDATE schema_floor SET oldest = 9999' >/dev/null
    says "a database of a later version is left alone" '*schema*9999*' "${migrate[@]}"
    until_so "a replica is not ready for a schema of a later version" 15 not_ready "${replicas[0]}"
    owner "DELETE FROM _sqlx_migrations WHERE version = 9999; UPDATE schema_floor SET oldest = $floor" >/dev/null
    owner 'UPDATE _sqlx_migrations SET success = false WHERE version = (SELECT max(version) FROM _sqlx_migrations)' >/dev/null
    says "so is one whose last step broke off" '*step * of its schema was begun and did not end*' "${migrate[@]}"
    owner 'UPDATE _sqlx_migrations SET success = true' >/dev/null
    expect "and all is well when that is undone" '' "$(docker run --rm --read-only "${migrate[@]}" 2>&1 | grep -v '^20[0-9-]*T' || true)"
    until_so "the replicas are ready again" 20 is_ready
}

# put URL BYTES: stores a checkpoint of so many bytes; prints the status
put() {
    python3 - "$1" "$token" "$2" <<'PYTHON'
import json, struct, sys, urllib.error, urllib.request
url, token, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
body = struct.pack("<Q", len(header)) + header + bytes(size)
headers = {"authorization": "Bearer " + token, "content-type": "application/octet-stream"}
try:
    print(urllib.request.urlopen(urllib.request.Request(url + "/v1/checkpoints", body, headers), timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.status)
PYTHON
}

# alone NAME OPTION...: a server on its own, with SQLite, reached from here; sets its url
alone() {
    local name=$1
    shift
    docker run --detach --name "$COMPOSE_PROJECT_NAME-$name" --read-only --cap-drop ALL --publish 127.0.0.1::8080 \
        --volume "$COMPOSE_PROJECT_NAME"_admin-secret:/admin-secret:ro --env FEDBASIN_ADMIN_TOKEN_FILE=/admin-secret/admin-token \
        --env FEDBASIN_ALLOW_CLEAR_TEXT=true --env FEDBASIN_OBJECTS_URL=file:///srv/fedbasin "$@" "$FEDBASIN_IMAGE" serve >/dev/null
    url=http://$(docker port "$COMPOSE_PROJECT_NAME-$name" 8080/tcp)
    until_so "$name answers" 20 ask GET /healthz ''
}

# full_and_closed: bytes that cannot be written are nobody's fault but the server's: it says so, its callers may try again, and what fits is taken.
full_and_closed() {
    local proxied=$url
    alone full --tmpfs /srv/fedbasin:size=256k,uid=65532,gid=65532,mode=0700
    expect "a volume that is full" 503 "$(put "$url" 1000000)"
    expect "is named in the log" '*No space left on device*' "$(docker logs "$COMPOSE_PROJECT_NAME-full" 2>&1 | grep -c 'storage unavailable'): $(docker logs "$COMPOSE_PROJECT_NAME-full" 2>&1 | grep 'storage unavailable')"
    expect "and takes what there is room for" 201 "$(put "$url" 4000)"
    docker rm --force --volumes "$COMPOSE_PROJECT_NAME-full" >/dev/null
    says "a volume that cannot be written" 'objects.url: /srv/fedbasin cannot be written: Read-only file system*' \
        --volume "$COMPOSE_PROJECT_NAME"_objects:/srv/fedbasin:ro --env FEDBASIN_OBJECTS_URL=file:///srv/fedbasin "$FEDBASIN_IMAGE" serve
    url=$proxied
}

# No Postgres where a server starts: it says so and ends, the engine starts it again, until there is one.
absent_postgres() {
    local replica=${replicas[0]}
    "${compose[@]}" stop --timeout 10 postgres >/dev/null 2>&1
    docker restart --time 10 "$replica" >/dev/null
    until_so "a server without a database says so" 60 last_words "$replica" '*fedbasin-server: database_url: cannot connect*'
    "${compose[@]}" start postgres >/dev/null 2>&1
    until_so "it is healthy once there is one" 90 is_healthy "$replica"
    until_so "all is ready" 30 is_ready
    echo "  ok: a server that starts without a database waits for one"
}
last_words() { # last_words CONTAINER PATTERN
    # shellcheck disable=SC2254 # a pattern is meant
    case $(docker logs --tail 5 "$1" 2>&1) in $2) ;; *) return 1 ;; esac
}
