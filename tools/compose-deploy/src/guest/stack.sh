#!/bin/sh
# Made by Hearth. Starts, stops, tries and checks one stack; used by its unit and by deployments.
#   stack up NAME SECONDS          bring the containers to the current bundle, then wait until all are healthy
#   stack stop NAME                stop the containers
#   stack check NAME FOLDER        see whether a bundle can be tried: compose takes it, mounts, needs, room
#   stack try NAME                 bring the stack to the bundle on trial; healthy, that one becomes the current one
#   stack settle NAME              end a trial that did not succeed: the current bundle comes back
#   stack adopt NAME               install the unit of the current bundle
#   stack well NAME                see whether there are containers and all are well
#   stack status NAME              one line a container: service|one-shot|state|health or exit code
#   stack logs NAME                the last lines that containers printed which are not well
# In a stack's folder the link `current` names the bundle that was healthy last, `previous` the one before, and `trial`
# one that was not healthy yet. Only `current` is started at boot.
set -eu
export LC_ALL=C.UTF-8
verb=$1
name=$2
base=/var/lib/hearth/stacks/$name
unit=hearth-stack-$name.service
fresh=/run/hearth/fresh-$name
# What a switch may need on the disk: containers' own layers, logs, links.
room_mib=64

# The number of the group differs between machines, so it is read where the containers run.
HEARTH_RENDER_GID=$(getent group render | cut -d: -f3 || true)
export HEARTH_RENDER_GID

# Puts the stack's secrets into memory that are not there, as after a boot, and tells compose which they are: a container
# whose label has another mark is made anew. On the disk they are encrypted to this machine. Its callers go on where it
# fails, so each step says so itself.
secrets() {
    safe=/var/lib/hearth/secrets/$name
    open=/run/hearth/secrets/$name
    [ -e "$safe/list" ] || return 0
    while read -r key mark; do
        export "HEARTH_SECRET_$(printf %s "$key" | tr a-z- A-Z_)=$mark"
        [ ! -f "$open/$key" ] || continue
        unpack "$key" "${mark#*@}" || return 1
    done <"$safe/list"
}

unpack() {
    mkdir -p "$open" || return 1
    chmod 0700 "${open%/*}" "$open" || return 1
    # A container that was started by hand without the file made a folder of its name.
    rm -rf "${open:?}/$1" || return 1
    (umask 077 && systemd-creds decrypt --name="hearth.$name.$1" "$safe/$1" "$open/.$1" </dev/null) || return 1
    chmod 0600 "$open/.$1" || return 1
    chown "$2:0" "$open/.$1" || return 1
    mv -T "$open/.$1" "$open/$1"
}

# Waits for whoever brings this stack somewhere, and keeps others away until this process ends, however it ends.
lock() {
    mkdir -p /run/hearth
    exec 9>"/run/hearth/stack-$name.lock"
    flock 9
}

# The folder without the link in its path: what a running container mounts stays its own bundle's.
compose_in() {
    folder=$(readlink -e "$1") || { echo "stack $name has no bundle at $1" >&2; return 1; }
    shift
    (cd "$folder" && docker compose --project-name "$name" --project-directory "$folder" \
        --file compose.yaml --file compose.hearth.yaml "$@")
}

# Prints a value of a bundle's unit.
from_unit() {
    sed -n "s/^$2//p" "$1/hearth-stack.service"
}

status() {
    docker ps --all --no-trunc --filter "label=dev.hearth.site/stack=$name" --format \
        '{{.Label "com.docker.compose.service"}}|{{.Label "dev.hearth.site/one-shot"}}|{{.State}}|{{.Status}}'
}

# Prints the containers of a status that are not well, as `wait` or as `bad` where waiting won't help.
unwell() {
    while IFS='|' read -r service one_shot state text; do
        case "$one_shot|$state|$text" in
        '||') ;;
        '|running|'*'(health: starting)'* | '|running|'*'(unhealthy)'*) echo "wait $service: $text" ;;
        '|running|'*) ;;
        'yes|exited|Exited (0)'*) ;;
        *'|exited|'* | *'|dead|'*) echo "bad $service: $text" ;;
        *) echo "wait $service: $state" ;;
        esac
    done
}

well() {
    now=$(status) || return 1
    [ -n "$now" ] || return 1
    [ -z "$(printf '%s\n' "$now" | unwell)" ]
}

# Waits until all containers are well, at most until this time.
wait_well() {
    while true; do
        now=$(status) || return 1
        left=$(printf '%s\n' "$now" | unwell)
        [ -n "$now" ] || left="bad $name: no containers"
        case $left in
        '') return 0 ;;
        bad* | *'
bad'*) break ;;
        esac
        [ "$(date +%s)" -lt "$1" ] || break
        sleep 4
    done
    echo "stack $name is not healthy:" >&2
    printf '%s\n' "$left" >&2
    return 1
}

# Looks at the kernel's own list, for asking the folder would wait for a server that is away.
mounted() {
    # The fifth field is the mount point (proc_pid_mountinfo(5)).
    while read -r _ _ _ _ at _; do
        [ "$at" != "$1" ] || return 0
    done </proc/self/mountinfo
    return 1
}

# Makes sure that each share of a bundle is mounted: without it a database would begin anew on the guest's own disk.
all_mounted() {
    for point in $(from_unit "$1" RequiresMountsFor=); do
        if ! mounted "$point"; then
            echo "$point is not mounted, so stack $name does not start" >&2
            return 1
        fi
    done
}

# Brings the containers to a bundle, and waits until all are well. Says itself what fails: its callers go on then.
bring() {
    folder=$(readlink -e "$1") || { echo "stack $name has no bundle at $1" >&2; return 1; }
    end=$(($(date +%s) + $2))
    all_mounted "$folder" || return 1
    secrets || return 1
    # Compose itself waits for containers that others depend on.
    if [ -e "$base/recreate" ]; then
        again=$(cat "$base/recreate") || return 1
        # Containers hold on to the files that they mounted, so those whose files were put right are made anew.
        if [ -n "$again" ]; then
            # shellcheck disable=SC2086
            limited "$2" "$folder" up --detach --no-build --no-deps --force-recreate $again || return 1
        fi
        rm -f "$base/recreate" || return 1
    fi
    limited "$2" "$folder" up --detach --no-build --remove-orphans || return 1
    wait_well "$end"
}

# Runs compose for so many seconds at most.
limited() {
    limit=$1
    folder=$2
    shift 2
    (cd "$folder" && timeout --kill-after=30 "$limit" docker compose --project-name "$name" \
        --project-directory "$folder" --file compose.yaml --file compose.hearth.yaml "$@")
}

up() {
    lock
    if [ -e "$fresh" ] && [ ! -e "$base/recreate" ] && [ "$(readlink "$base/current")" = "$(cat "$fresh")" ]; then
        # A trial has just brought it here.
        rm -f "$fresh"
        wait_well "$(($(date +%s) + $1))"
    else
        rm -f "$fresh"
        bring "$base/current" "$1"
    fi
    if [ -L "$base/trial" ] && ! on_trial; then
        echo "stack $name: bundle $(bundle_at trial) was not healthy when its trial ended; bundle $(bundle_at current) is back"
        drop
    else
        sweep "$(bundle_at trial || true)"
    fi
}

# Tells whether a trial goes on, or waits for the lock.
on_trial() {
    case $(systemctl show --property=ActiveState --value "hearth-trial@$name.service") in
    activating | deactivating | reloading) return 0 ;;
    esac
    return 1
}

bundle_at() {
    link=$(readlink "$base/$1") && echo "${link#bundles/}"
}

# Forgets the trial, then every bundle but the current one and the one before it.
drop() {
    # The link goes last: with it, a sweep that is cut off here is done again.
    sweep
    rm -f "$base/trial" "$base/trial.new" "$base/previous.new"
}

# Removes every bundle but the current one, the one before it, and another.
sweep() {
    keep="$(bundle_at current || true) $(bundle_at previous || true) ${1-}"
    for bundle in "$base"/bundles/*; do
        case " $keep " in
        *" ${bundle##*/} "*) ;;
        *) rm -rf "$bundle" ;;
        esac
    done
}

try() {
    lock
    mkdir -p /run/hearth
    if ! bring "$base/trial" "$(seconds "$base/trial")"; then
        # Its containers go with it, and what they said.
        logs >&2
        exit 1
    fi
    old=$(readlink "$base/current" || true)
    new=$(readlink "$base/trial")
    if [ -n "$old" ]; then
        ln -sfn "$old" "$base/previous.new"
        mv -T "$base/previous.new" "$base/previous"
    fi
    systemctl is-active --quiet "$unit" || echo "$new" >"$fresh"
    # From here on the new bundle is what boots.
    mv -T "$base/trial" "$base/current"
    sweep
    adopt
    systemctl reset-failed "$unit" 2>/dev/null || true
    systemctl --no-block start "$unit"
    echo "stack $name: bundle ${new#bundles/} is healthy and stays"
}

# Prints how long a bundle's containers may take to get healthy.
seconds() {
    from_unit "$1" 'ExecStart=.* up .* '
}

settle() {
    lock
    if [ ! -L "$base/trial" ]; then
        [ ! -e "$base/current" ] || drop
        return 0
    fi
    # A machine that shuts down settles it when it comes up.
    [ "$(systemctl is-system-running)" != stopping ] || return 0
    failed=$(bundle_at trial)
    if ! old=$(bundle_at current); then
        docker compose --project-name "$name" down --remove-orphans --timeout 30
        echo "stack $name: bundle $failed was its first and was not healthy: its containers were taken away"
        drop
        rmdir "$base/bundles" "$base" 2>/dev/null || true
        return 0
    fi
    if bring "$base/current" "$(seconds "$base/current")"; then
        drop
        systemctl is-active --quiet "$unit" || readlink "$base/current" >"$fresh"
        systemctl --no-block start "$unit"
        echo "stack $name: bundle $failed was not healthy; bundle $old is back, and healthy"
    else
        # The unit tries again until it succeeds, and forgets the trial then.
        echo "stack $name: bundle $failed was not healthy, and neither is bundle $old yet: its unit goes on trying"
        systemctl --no-block restart "$unit"
    fi
}

adopt() {
    file=/etc/systemd/system/$unit
    if ! cmp --silent "$base/current/hearth-stack.service" "$file" || [ -L "$file" ] ||
        ! systemctl --quiet is-enabled "$unit" ||
        [ "$(systemctl show --property=NeedDaemonReload --value "$unit")" = yes ]; then
        cp "$base/current/hearth-stack.service" "$file.new"
        sync "$file.new"
        mv -T "$file.new" "$file"
        # This has systemd read its units anew as well.
        systemctl --quiet reenable "$unit"
    fi
}

check() {
    secrets
    compose_in "$1" config --quiet
    all_mounted "$1"
    for need in $(from_unit "$1" Requires=); do
        case $need in hearth-stack-*) ;; *) continue ;; esac
        need=${need#hearth-stack-}
        need=${need%.service}
        end=$(($(date +%s) + 60))
        # A health check may fail once in a while.
        while ! "$0" well "$need"; do
            if [ "$(date +%s)" -ge "$end" ]; then
                echo "stack $name needs stack $need, which is not healthy:" >&2
                "$0" status "$need" >&2
                return 1
            fi
            sleep 4
        done
    done
    for place in /var/lib/hearth /var/lib/docker; do
        [ -d "$place" ] || continue
        free=$(($(df --output=avail -B1 "$place" | tail -n 1) / 1048576))
        if [ "$free" -lt "$room_mib" ]; then
            echo "there are $free MiB free at $place, and a switch wants $room_mib MiB: see \`docker system df\`" >&2
            return 1
        fi
    done
}

logs() {
    docker ps --all --filter "label=dev.hearth.site/stack=$name" --format \
        '{{.Names}}|{{.Label "dev.hearth.site/one-shot"}}|{{.State}}|{{.Status}}' | unwell |
        while read -r _ container text; do
            echo "$container $text"
            docker logs --tail 15 "${container%:}" 2>&1 | sed 's/^/    /'
        done
}

case $verb in
up) up "$3" ;;
stop) docker compose --project-name "$name" stop ;;
check) check "$3" ;;
try) try ;;
settle) settle ;;
adopt) adopt ;;
well) well ;;
status) status ;;
logs) logs ;;
*)
    echo "stack: '$verb' is not known" >&2
    exit 64
    ;;
esac
