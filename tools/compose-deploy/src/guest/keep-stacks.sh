#!/bin/sh
# Made by Hearth. Starts again what dies in the stacks.
#
# Docker's own restart policies are off, for by them Docker starts containers when it starts itself, after a power cut
# too, before the file server's folders are mounted: a database would begin anew on the empty folder below. The stack's
# unit knows its mounts, so the unit does it.
set -eu
program=/var/lib/hearth/bin/stack
on_trial() {
    case $(systemctl show --property=ActiveState --value "hearth-trial@$1.service") in
    activating | deactivating | reloading) return 0 ;;
    esac
    return 1
}

# What happened while nobody listened: Docker died and took containers with it, or the machine died in a trial.
for folder in /var/lib/hearth/stacks/*/; do
    [ -d "$folder" ] || continue
    stack=$(basename "$folder")
    on_trial "$stack" && continue
    [ ! -L "$folder/trial" ] || "$program" settle "$stack" &
    systemctl is-active --quiet "hearth-stack-$stack.service" || continue
    "$program" well "$stack" || systemctl --no-block reload "hearth-stack-$stack.service" || true
done

docker events --filter type=container --filter event=die --filter label=dev.hearth.site/stack --format \
    '{{.Actor.ID}} {{index .Actor.Attributes "dev.hearth.site/stack"}} {{index .Actor.Attributes "dev.hearth.site/one-shot"}}' |
    while read -r container stack one_shot; do
        [ -z "$one_shot" ] || continue
        # A container that a deployment replaces is gone by then; one that its unit stops leaves the unit inactive.
        sleep 5
        unit=hearth-stack-$stack.service
        systemctl is-active --quiet "$unit" || continue
        on_trial "$stack" && continue
        state=$(docker inspect --format '{{.State.Status}}' "$container" 2>/dev/null) || continue
        [ "$state" = exited ] || continue
        echo "a container of stack $stack died: starting it again"
        # Not waited for: another stack's may die meanwhile.
        systemctl --no-block reload "$unit" || true
    done
