#!/bin/sh
# Makes what docker-compose.yml keeps secret, once, each in the volume of those who need it: at /secret what belongs to the database's owner, at
# /server-secret what every process of the server reads, at /admin-secret the operator's token. Each file is readable by its own user only. Runs
# as root in the Postgres image, without a network; changes nothing that is there. The signing keys come first: a database's password without
# them is an earlier installation's, on whose audit log no server starts with other keys.
#
# usage: make-secret.sh           makes what is missing
#        make-secret.sh show      prints the admin token
set -eu
umask 077

if [ "${1:-}" = show ]; then
    cat /admin-secret/admin-token
    exit 0
fi

# keep FILE OWNER: what comes on standard input, under that name once it is whole
keep() {
    cat >"$1.new"
    [ -s "$1.new" ] || { echo "make-secret.sh: nothing came for $1" >&2; exit 1; }
    chown "$2" "$1.new"
    mv "$1.new" "$1"
}
password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
url() { printf 'postgres://%s:%s@postgres:5432/fedbasin' "$1" "$(cat "$2")"; } # url ROLE FILE
# One key of each kind that the server signs with, PKCS #8.
signing_keys() {
    command -v openssl >/dev/null || {
        echo "make-secret.sh: this Postgres image has no openssl; put signing-key.pem of a server's data folder into the volume server-secret" >&2
        return 1
    }
    openssl genpkey -algorithm ed25519
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256
}

cd /secret
if [ ! -e /server-secret/signing-key.pem ] && { [ -e password ] || [ -e database-url ] || [ -e owner-url ]; }; then
    echo "make-secret.sh: the database is an earlier installation's, and its signing-key.pem is not in the volume server-secret: copy it there, admin-token" \
        "to the volume admin-secret and the folder objects to the volume objects, all from the former volume checkpoints or a backup (deploy/README.md)" >&2
    exit 1
fi
[ -e /server-secret/signing-key.pem ] || signing_keys | keep /server-secret/signing-key.pem 65532
# Of before there were two roles: the server's, who was the owner.
[ ! -e database-url ] || mv database-url owner-url
[ -e password ] || password | keep password postgres
[ -e app-password ] || password | keep app-password postgres
[ -e owner-url ] || url fedbasin password | keep owner-url 65532
[ -e /server-secret/database-url ] || url fedbasin_app app-password | keep /server-secret/database-url 65532
[ -e /admin-secret/admin-token ] || password | keep /admin-secret/admin-token 65532
# Files that only their owners read, in folders that all may enter.
chmod 0755 . /server-secret /admin-secret
echo "the secrets are there"
