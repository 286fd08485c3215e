#!/bin/sh
# Makes the role that the server connects as (see docker-compose.yml), or gives it the password of its file again. What it may do is
# granted by `fedbasin-server migrate --grant-to`.
set -eu
PGPASSWORD=$(cat /secret/password)
export PGPASSWORD
psql --host postgres --username fedbasin --dbname fedbasin --no-psqlrc --quiet --set ON_ERROR_STOP=1 <<'SQL'
\set password `cat /secret/app-password`
SELECT 'CREATE ROLE fedbasin_app' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fedbasin_app') \gexec
ALTER ROLE fedbasin_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
SQL
echo "the role is there"
