#!/bin/sh
# Made by Hearth. Starts, stops and checks one stack; used by its unit and by deployments.
#   stack up NAME SECONDS          start what is not as the bundle has it, then wait until all is healthy
#   stack stop NAME                stop the containers
#   stack check NAME FOLDER        see whether compose takes a bundle
#   stack status NAME              one line a container: service|one-shot|state|health or exit code
#   stack logs NAME                the last lines that containers printed which are not well
set -eu
export LC_ALL=C.UTF-8
verb=$1
name=$2
base=/var/lib/hearth/stacks/$name

# The number of the group differs between machines, so it is read where the containers run.
HEARTH_RENDER_GID=$(getent group render | cut -d: -f3 || true)
export HEARTH_RENDER_GID

# Puts the stack's secrets into memory that are not there, as after a boot, and tells compose which they are: a container
# whose label has another mark is made anew. On the disk they are encrypted to this machine.
secrets() {
    safe=/var/lib/hearth/secrets/$name
    open=/run/hearth/secrets/$name
    [ -e "$safe/list" ] || return 0
    while read -r key mark; do
        export "HEARTH_SECRET_$(printf %s "$key" | tr a-z- A-Z_)=$mark"
        [ ! -f "$open/$key" ] || continue
        mkdir -p "$open"
        chmod 0700 "${open%/*}" "$open"
        # A container that was started by hand without the file made a folder of its name.
        rm -rf "${open:?}/$key"
        (umask 077 && systemd-creds decrypt --name="hearth.$name.$key" "$safe/$key" "$open/.$key" </dev/null)
        chmod 0600 "$open/.$key"
        chown "${mark#*@}:0" "$open/.$key"
        mv -T "$open/.$key" "$open/$key"
    done <"$safe/list"
}

# The folder without the link in its path: what a running container mounts stays its own bundle's.
compose_in() {
    folder=$(readlink -e "$1")
    shift
    cd "$folder"
    docker compose --project-name "$name" --project-directory "$folder" \
        --file compose.yaml --file compose.hearth.yaml "$@"
}

status() {
    docker ps --all --no-trunc --filter "label=dev.hearth.site/stack=$name" --format \
        '{{.Label "com.docker.compose.service"}}|{{.Label "dev.hearth.site/one-shot"}}|{{.State}}|{{.Status}}'
}

# Prints the containers of a status that are not well, as `wait` or as `bad` where waiting won't help.
unwell() {
    while IFS='|' read -r service one_shot state text; do
        case "$one_shot|$state|$text" in
        '|running|'*'(health: starting)'* | '|running|'*'(unhealthy)'*) echo "wait $service: $text" ;;
        '|running|'*) ;;
        'yes|exited|Exited (0)'*) ;;
        *'|exited|'* | *'|dead|'*) echo "bad $service: $text" ;;
        *) echo "wait $service: $state" ;;
        esac
    done
}

up() {
    if [ -e "$base/recreate" ]; then
        compose_in "$base/current" up --detach --no-build --remove-orphans --force-recreate
        rm -f "$base/recreate"
    else
        compose_in "$base/current" up --detach --no-build --remove-orphans
    fi
    end=$(($(date +%s) + $1))
    while true; do
        now=$(status)
        left=$(printf '%s\n' "$now" | unwell)
        case $left in
        '') return 0 ;;
        bad* | *'
bad'*) break ;;
        esac
        [ "$(date +%s)" -lt "$end" ] || break
        sleep 4
    done
    echo "stack $name is not healthy:" >&2
    printf '%s\n' "$left" >&2
    return 1
}

case $verb in
up)
    secrets
    up "$3"
    ;;
stop) docker compose --project-name "$name" stop ;;
check)
    secrets
    compose_in "$3" config --quiet
    ;;
status) status ;;
logs)
    docker ps --all --filter "label=dev.hearth.site/stack=$name" --format \
        '{{.Names}}|{{.Label "dev.hearth.site/one-shot"}}|{{.State}}|{{.Status}}' | unwell |
        while read -r _ container text; do
            echo "$container $text"
            docker logs --tail 15 "${container%:}" 2>&1 | sed 's/^/    /'
        done
    ;;
*)
    echo "stack: '$verb' is not known" >&2
    exit 64
    ;;
esac
