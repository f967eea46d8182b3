# Takes a bundle as a tar on standard input, has compose check it, and puts it on trial, which goes on without whoever
# sent it; prints `trial` and the time, or `current` where it is that already. NAME, DIGEST (its first twelve digits),
# SUMS (its list's digest), TAGS and AGAIN (services whose files were altered) stand in front. Nothing that runs is
# touched before the check passed.
umask 022
if [ ! -x /var/lib/hearth/bin/stack ] || [ ! -e /etc/systemd/system/hearth-trial@.service ] ||
    ! docker image inspect --format '{{.Id}}' $TAGS >/dev/null 2>&1; then
    # Whoever sends this has something to send before; it must be read whole for this code to get back.
    cat >/dev/null
    exit 3
fi
base=/var/lib/hearth/stacks/$NAME
new=$base/bundles/$DIGEST
trial=hearth-trial@$NAME.service
# One of a run that is gone. For this bundle, its result is as good as another's.
case $(systemctl show --property=ActiveState --value "$trial") in
activating | deactivating | reloading)
    if [ "$(readlink "$base/trial" || true)" = "bundles/$DIGEST" ]; then
        cat >/dev/null
        echo "trial $(date +%s)"
        exit 0
    fi
    systemctl stop "$trial"
    ;;
esac
mkdir -p "$base/bundles"
# Of transfers that were cut off.
rm -rf "$base"/bundles/.incoming.*
work=$(mktemp -d "$base/bundles/.incoming.XXXXXX")
# What the first bundle of a stack did not get to leaves no folder behind.
trap 'rm -rf "$work"; rmdir "$base/bundles" "$base" 2>/dev/null || true' EXIT
tar --extract --file=- --directory="$work" --no-same-owner --no-same-permissions
chmod 0755 "$work"
intact() {
    (cd "$1" && printf '%s  SHA256SUMS\n' "$SUMS" | sha256sum --check --status --strict &&
        sha256sum --check --status --strict SHA256SUMS)
}
if ! intact "$work"; then
    echo "the bundle was damaged on the way" >&2
    exit 1
fi
/var/lib/hearth/bin/stack check "$NAME" "$work"
sync -f "$work"
if [ "$(systemctl show --property=ActiveState --value "hearth-stack-$NAME.service")" = activating ]; then
    # It does not get up with the current bundle, and this one shall not wait for it. Nothing that runs is stopped.
    systemctl stop "hearth-stack-$NAME.service"
fi
# What brings the stack somewhere, and removes bundles, waits from here on.
mkdir -p /run/hearth
exec 9>"/run/hearth/stack-$NAME.lock"
flock 9

if [ "$(readlink "$base/current" || true)" = "bundles/$DIGEST" ]; then
    if ! intact "$new"; then
        echo "$AGAIN" >"$base/recreate.new"
        mv -T "$base/recreate.new" "$base/recreate"
        # File by file, so that there is a whole bundle at every moment; the list comes last, for it says that all is well.
        mkdir -p "$new"
        (cd "$work" && find . -type f ! -name SHA256SUMS -print) | while read -r file; do
            cmp --silent "$work/$file" "$new/$file" && [ ! -L "$new/$file" ] && continue
            mkdir -p "$new/${file%/*}"
            rm -rf "$new/$file.hearth"
            cp -p "$work/$file" "$new/$file.hearth"
            mv -T "$new/$file.hearth" "$new/$file"
        done
        cp "$work/SHA256SUMS" "$new/SHA256SUMS.hearth"
        mv -T "$new/SHA256SUMS.hearth" "$new/SHA256SUMS"
    fi
    echo "current"
    exit 0
fi
rm -rf "$new"
mv -T "$work" "$new"
ln -sfn "bundles/$DIGEST" "$base/trial.new"
mv -T "$base/trial.new" "$base/trial"
systemctl reset-failed "$trial" 2>/dev/null || true
systemctl --no-block start "$trial"
echo "trial $(date +%s)"
