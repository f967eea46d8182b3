#!/bin/sh
# The whole pipeline as a shell script, with each tool on its own. Expects HEARTH_SITE, or site in pipeline.toml.
set -eu

# Shows a tool's plan and applies it where something would change.
converge() {
    status=0
    "$1" plan || status=$?
    case $status in
        0) ;;
        2) "$1" apply --yes ;;
        *) exit "$status" ;;
    esac
}

converge zfs-init
converge vm-build
converge nfs-export
converge compose-deploy
verify check
