#!/bin/sh
# Compiles programs so that the same sources, compiler and libraries give the same bytes, wherever the folders are and whatever the day:
# paths are written as /src, /cargo and /rust.
#
# usage: compile.sh FOLDER PACKAGE...     (FOLDER gets cargo's target folder)
set -eu
target=$1
shift
source=$(pwd -P)
registry=${CARGO_HOME:-$HOME/.cargo}
compiler=$(rustc --print sysroot)
RUSTFLAGS="--remap-path-prefix=$source=/src --remap-path-prefix=$registry=/cargo --remap-path-prefix=$compiler=/rust --remap-path-prefix=$target=/target ${RUSTFLAGS:-}"
# C of crates (SQLite, ring): the same for what the preprocessor writes down.
CFLAGS="-ffile-prefix-map=$source=/src -ffile-prefix-map=$registry=/cargo -ffile-prefix-map=$target=/target ${CFLAGS:-}"
export RUSTFLAGS CFLAGS
# One part a crate, and no names of functions: smaller programs, and nothing that depends on how many were compiled at once.
export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_STRIP=symbols
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}" CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$target"
packages=
for package in "$@"; do packages="$packages --package $package"; done
# shellcheck disable=SC2086 # words are meant
exec cargo build --locked --release $packages
