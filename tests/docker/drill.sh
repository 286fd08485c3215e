# shellcheck shell=bash
# shellcheck disable=SC2154 # what is read here is set in tests/docker/run
# tests/docker/run: the schema of before is upgraded, and processes are killed while a round collects.

# Brings an empty database to the schema before the newest, as a server of that time left it: all migrations but the last with sqlx's own
# books, and a site with its token.
lay_previous_schema() {
    local files=(migrations/postgres/*.sql) file version before
    newest=$(basename "${files[-1]%%_*}") before=$(basename "${files[-2]%%_*}")
    {
        echo 'BEGIN;'
        echo 'CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
            success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL);'
        for file in "${files[@]::${#files[@]}-1}"; do
            cat "$file"
            version=$(basename "${file%%_*}")
            printf "\nINSERT INTO _sqlx_migrations VALUES (%d, '%s', now(), true, '\\\\x%s', 1);\n" "$((10#$version))" \
                "$(basename "${file#*_}" .sql | tr _ ' ')" "$(sha384sum "$file" | cut -d ' ' -f 1)"
        done
        echo "INSERT INTO sites (id, token_hash, created_at_ms) VALUES ('hospital-of-before', repeat('0', 64), 1700000000000);"
        echo 'COMMIT;'
    } | docker exec --interactive "$postgres" sh -c 'PGPASSWORD=$(cat /secret/password) psql -h 127.0.0.1 -U fedbasin -d fedbasin -q -v ON_ERROR_STOP=1' >/dev/null
    expect "the database has the schema before the newest, number $((10#$before))" "$((10#$before))" "$(owner 'SELECT max(version) FROM _sqlx_migrations')"
}

check_upgraded() {
    expect "it was brought up to date" "$((10#$newest))" "$(owner 'SELECT max(version) FROM _sqlx_migrations')"
    expect "and who was enrolled before is there" '200 *hospital-of-before*' "$(ask GET /v1/sites "$token")"
}

# crash CONTAINER: as a crash, of which the engine does not know that it was wanted. Where its processes are not this machine's the engine kills and
# starts it.
crash() {
    kill -KILL "$(docker inspect --format '{{.State.Pid}}' "$1")" 2>/dev/null || { docker kill "$1" && docker start "$1"; } >/dev/null
}

round_is() { # round_is N: the run has come to round N
    case $(ask GET "/v1/runs/fashion/rounds/$1" "$token") in 200*'"state":"collecting"'*) ;; *) return 1 ;; esac
}
run_is() { case $(ask GET /v1/runs/fashion "$token") in 200*'"state":"'"$1"'"'*) ;; *) return 1 ;; esac }

# Kills each replica, the worker and Postgres, each while a round collects, and waits for the run's end.
drill() {
    local killed
    until_so "round 1 collects" 90 round_is 1
    crash "${replicas[0]}"
    say "a replica was killed in round 1"
    until_so "the other one answers through the proxy" 15 is_ready
    until_so "round 2 collects" 120 round_is 2
    until_so "the replica that was killed is back" 60 is_healthy "${replicas[0]}"
    crash "${replicas[1]}"
    crash "$worker"
    say "the other replica and the worker were killed in round 2"
    until_so "round 3 collects" 120 round_is 3
    crash "$postgres"
    say "Postgres was killed in round 3"
    until_so "the run is over" 180 run_is complete
    say "the run is over"
    for killed in "${replicas[@]}" "$worker" "$postgres"; do
        expect "$(docker inspect --format '{{.Name}}' "$killed") was killed, and started again" '@([1-9])*([0-9]) true' \
            "$(docker inspect --format '{{.RestartCount}} {{.State.Running}}' "$killed")"
    done
    expect "all rounds are published" 'published published published' "$(ask GET /v1/runs/fashion/rounds "$token" | rounds_say state)"
    expect "each with all four sites' updates" '4 4 4' "$(ask GET /v1/runs/fashion/rounds "$token" | rounds_say updates)"
}

# The sites ended by themselves, each with its own token alone; what is stored is whole.
check_sites() {
    local number told
    until_so "the sites ended" 60 sites_ended
    expect "the sites ended well" '0 0 0 0' "$(docker inspect --format '{{.State.ExitCode}}' "${sites[@]}" | tr '\n' ' ' | sed 's/ $//')"
    for number in 0 1 2 3; do
        expect "site-$number sees its own folder alone" "${COMPOSE_PROJECT_NAME}_site-$number /site " \
            "$(docker inspect --format '{{range .Mounts}}{{.Name}} {{.Destination}} {{end}}' "${sites[$number]}")"
    done
    told=$(program audit verify 2>&1) || fail "audit verify: $told"
    echo "  ok: the audit log is whole"
    told=$(program fsck 2>&1) || fail "fsck: $told"
    echo "  ok: rows and bytes belong together"
}

sites_ended() {
    case $(docker inspect --format '{{.State.Status}}' "${sites[@]}" | sort -u) in exited) ;; *) return 1 ;; esac
}

rounds_say() { # rounds_say state | updates: of each round, from the API's answer
    python3 -c '
import json, sys
rounds = json.loads(sys.stdin.read().split(" ", 1)[1])
rounds = sorted(rounds if isinstance(rounds, list) else rounds["rounds"], key=lambda round: round["number"])
if sys.argv[1] == "state":
    print(*(round["state"] for round in rounds))
else:
    print(*(sum(site["state"] in ("accepted", "aligned") for site in round["sites"]) for round in rounds))
' "$1"
}

# program ARGUMENT...: the server's program beside the servers, with their secrets and bytes
program() {
    docker run --rm --read-only --network "$COMPOSE_PROJECT_NAME"_database --volume "$COMPOSE_PROJECT_NAME"_server-secret:/secret:ro \
        --volume "$COMPOSE_PROJECT_NAME"_objects:/srv/fedbasin --env FEDBASIN_DATABASE_URL_FILE=/secret/database-url \
        --env FEDBASIN_SIGNING_KEY_FILE=/secret/signing-key.pem --env FEDBASIN_OBJECTS_URL=file:///srv/fedbasin "$FEDBASIN_IMAGE" "$@"
}
