#!/bin/sh
# Enrols the demo's four sites, puts each one's token where that site alone sees it, and creates the run: once, however often it is started.
# Runs in the image of a site, with the admin token and all four sites' volumes.
set -eu
admin() { fedbasin admin --server "$FEDBASIN_DEMO_SERVER" --insecure --token-file /admin/admin-token --state-dir /tmp/state "$@"; }

for site in 0 1 2 3; do
    [ -s "/sites/$site/token" ] || admin enrol "site-$site" --output "/sites/$site/token"
done
if admin run fashion >/dev/null 2>&1; then
    echo "the run is there"
    exit 0
fi
# The spec comes from the shapes of the network that the sites train: one as it begins, not trained at all.
FEDBASIN_ROUND=1 FEDBASIN_REFERENCE='' FEDBASIN_OUTPUT=/tmp/layout.safetensors FEDBASIN_METRICS=/tmp/metrics.json \
    fedbasin-demo train --site 0 --data /data --seed 1 --epochs 0 --later-epochs 0 --progress /tmp/progress.json --leash /data/README.md
fedbasin spec mlp /tmp/layout.safetensors --output /tmp/spec.json
admin create-run --id fashion --spec /tmp/spec.json --cohort site-0,site-1,site-2,site-3 --rounds "${FEDBASIN_DEMO_ROUNDS:-3}" --quorum 4 \
    --deadline-seconds 3600
