# shellcheck shell=bash
# shellcheck disable=SC2154 # what is read here is set in tests/docker/run
# tests/docker/run: the proxy ends TLS (deploy/compose.tls.yml).

# check_tls TOKEN: of a site
check_tls() {
    local pki=$work/pki told
    "$folder/fedbasin-server" pki init --dir "$pki" --host proxy --host 127.0.0.1 >/dev/null
    cat "$pki/server.pem" "$pki/server.key" >"$pki/proxy.pem"
    printf '%s\n' "$1" >"$pki/token"
    # The proxy and the client are another user.
    chmod 0755 "$work" "$pki"
    chmod 0644 "$pki/proxy.pem" "$pki/token"
    FEDBASIN_TLS_PEM=$pki/proxy.pem "${compose[@]}" -f docker-compose.yml -f deploy/compose.tls.yml up --no-build --detach proxy >/dev/null 2>&1
    until_so "the proxy is healthy with TLS" 60 is_healthy "$(containers proxy)"
    told=$(python3 - "https://127.0.0.1:$FEDBASIN_HTTP_PORT/readyz" "$pki/authority.pem" <<'PYTHON'
import ssl, sys, urllib.request
answer = urllib.request.urlopen(sys.argv[1], timeout=20, context=ssl.create_default_context(cafile=sys.argv[2]))
print(answer.status, answer.fp.raw._sock.version())
PYTHON
    )
    expect "operators over TLS" '200 TLSv1.3' "$told"
    told=$(docker run --rm --read-only --network "$COMPOSE_PROJECT_NAME"_edge --volume "$pki:/pki:ro" "$CLIENT_IMAGE" \
        site status --server https://proxy:50051 --ca /pki/authority.pem --token-file /pki/token --patience-seconds 5 2>&1) || fail "a site over TLS: $told"
    echo "  ok: sites over TLS"
    told=$(docker run --rm --read-only --network "$COMPOSE_PROJECT_NAME"_edge --volume "$pki:/pki:ro" "$CLIENT_IMAGE" \
        site status --server http://proxy:50051 --insecure --token-file /pki/token --patience-seconds 1 2>&1) && fail "a site in clear text was served: $told"
    echo "  ok: and no longer in clear text"
}
