if [ -d /var/lib/hearth/store ]; then
    find /var/lib/hearth/store -maxdepth 1 -type f -printf 'blob|%f|%s\n'
fi
units=hearth-stacks.service
for file in /var/lib/hearth/bin/stack /var/lib/hearth/bin/keep-stacks /etc/systemd/system/hearth-stacks.service \
    /etc/systemd/system/hearth-trial@.service /etc/systemd/system/hearth-stack-*.service; do
    [ -f "$file" ] || continue
    printf 'file|%s|%s|%s\n' "$file" "$(sha256sum <"$file" | cut -c1-64)" "$(head -n 1 "$file")"
    case $file in
    */hearth-stack-*) units="$units ${file##*/}" ;;
    esac
done
systemctl show --property=Id --property=ActiveState --property=UnitFileState \
    --property=NeedDaemonReload $units | sed 's/^/unit|/'
for folder in /var/lib/hearth/stacks/*/; do
    [ -e "$folder/current/SHA256SUMS" ] || continue
    cd "$folder/current"
    stack=$(basename "$folder")
    printf 'stack|%s|%s\n' "$stack" "$(sha256sum <SHA256SUMS | cut -c1-64)"
    # As `NAME: FAILED`, or `NAME: FAILED open or read` where it is gone.
    sha256sum --check --quiet SHA256SUMS 2>/dev/null | sed -n "s/: FAILED.*//; s/^/altered|$stack|/p" || true
done
cd /
for list in /var/lib/hearth/secrets/*/list; do
    [ -f "$list" ] || continue
    safe=${list%/list}
    stack=${safe##*/}
    open=/run/hearth/secrets/$stack
    while read -r key mark; do
        # The plain text is compared with what this machine decrypts; no hash of it is anywhere.
        state=altered
        if [ ! -f "$safe/$key" ] || [ ! -f "$open/$key" ]; then
            state=missing
        elif [ "$(stat -c '%u %a' "$open/$key")" = "${mark#*@} 600" ] &&
            systemd-creds decrypt --name="hearth.$stack.$key" "$safe/$key" - </dev/null 2>/dev/null |
            cmp --silent - "$open/$key"; then
            state=ok
        fi
        printf 'secret|%s|%s|%s|%s\n' "$stack" "$key" "$mark" "$state"
    done <"$list"
done
if ! command -v docker >/dev/null; then
    echo 'docker|none'
elif ! systemctl --quiet is-active docker.service; then
    echo 'docker|down'
else
    echo 'docker|up'
    docker image ls --no-trunc --filter 'reference=hearth/*' --format 'image|{{.Repository}}:{{.Tag}}|{{.ID}}'
    # One call, for an inspection after a listing fails where a container goes in between.
    docker ps --all --no-trunc --filter label=com.docker.compose.project --format \
        'container|{{.Label "com.docker.compose.project"}}|{{.Label "com.docker.compose.service"}}|{{.Label "dev.hearth.site/site"}}|{{.Label "dev.hearth.site/stack"}}|{{.Label "dev.hearth.site/bundle"}}|{{.Label "dev.hearth.site/one-shot"}}|{{.State}}|{{.Status}}|{{.Names}}|{{.Label "dev.hearth.site/secrets"}}'
fi
