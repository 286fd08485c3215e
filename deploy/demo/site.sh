#!/bin/sh
# A site of the demo: takes part in the run until it is over. It trains on its own share of the images (FEDBASIN_DEMO_SITE, from 0), from
# a start of its own.
set -eu
common="--site $FEDBASIN_DEMO_SITE --data /data --seed 1 --leash /data/README.md"
exec fedbasin site run --server "$FEDBASIN_DEMO_SERVER" --insecure --token-file /site/token --run fashion --work-dir /site/work \
    --wait-for-run-seconds 60 \
    --train "fedbasin-demo train $common --epochs ${FEDBASIN_DEMO_EPOCHS:-20} --later-epochs ${FEDBASIN_DEMO_LATER_EPOCHS:-8} --progress /tmp/progress.json" \
    --evaluate "fedbasin-demo evaluate $common"
