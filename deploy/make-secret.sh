#!/bin/sh
# Makes the database's password, once, in the volume that docker-compose.yml mounts at /secret: one file for Postgres and one
# for the server, each readable by its own user only. Runs as root in the Postgres image; changes nothing that is there.
set -eu
cd /secret
if [ -e database-url ]; then
    echo "the secret is there"
    exit 0
fi
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
umask 077
printf '%s' "$password" >password
chown postgres password
printf 'postgres://fedbasin:%s@postgres:5432/fedbasin' "$password" >database-url.new
chown 65532 database-url.new
chmod 0755 .
# Last, and at once: its presence says that all is done.
mv database-url.new database-url
echo "the secret is made"
