#!/bin/sh
# Made by Hearth. Starts again what dies in the stacks.
#
# Docker's own restart policies are off, for by them Docker starts containers when it starts itself, after a power cut
# too, before the file server's folders are mounted: a database would begin anew on the empty folder below. The stack's
# unit knows its mounts, so the unit does it.
set -eu
docker events --filter type=container --filter event=die --filter label=dev.hearth.site/stack --format \
    '{{.Actor.ID}} {{index .Actor.Attributes "dev.hearth.site/stack"}} {{index .Actor.Attributes "dev.hearth.site/one-shot"}}' |
    while read -r container stack one_shot; do
        [ -z "$one_shot" ] || continue
        # A container that a deployment replaces is gone by then; one that its unit stops leaves the unit inactive.
        sleep 5
        unit=hearth-stack-$stack.service
        systemctl is-active --quiet "$unit" || continue
        state=$(docker inspect --format '{{.State.Status}}' "$container" 2>/dev/null) || continue
        [ "$state" = exited ] || continue
        echo "a container of stack $stack died: starting it again"
        systemctl reload "$unit" || echo "stack $stack did not get healthy"
    done
