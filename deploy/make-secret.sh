#!/bin/sh
# Makes the passwords of the database's two roles, once, in the two volumes that docker-compose.yml mounts: at /secret what belongs to the
# owner, at /server-secret what the server may read. Each file is readable by its own user only. Runs as root in the Postgres image;
# changes nothing that is there.
set -eu
umask 077

# keep FILE OWNER: what comes on standard input, under that name once it is whole
keep() {
    cat >"$1.new"
    chown "$2" "$1.new"
    mv "$1.new" "$1"
}
password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
url() { printf 'postgres://%s:%s@postgres:5432/fedbasin' "$1" "$(cat "$2")"; } # url ROLE FILE

cd /secret
# Of before there were two roles: the server's, who was the owner.
[ ! -e database-url ] || mv database-url owner-url
[ -e password ] || password | keep password postgres
[ -e app-password ] || password | keep app-password postgres
[ -e owner-url ] || url fedbasin password | keep owner-url 65532
[ -e /server-secret/database-url ] || url fedbasin_app app-password | keep /server-secret/database-url 65532
# Files that only their owners read, in folders that all may enter.
chmod 0755 . /server-secret
echo "the secrets are there"
