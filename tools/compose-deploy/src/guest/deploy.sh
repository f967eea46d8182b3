# Takes a bundle as a tar on standard input, has compose check it, and switches to it. NAME, DIGEST (its first twelve
# digits), SUMS (its list's digest) and TAGS stand in front. Nothing that runs is touched before the check passed.
umask 022
if [ ! -x /var/lib/hearth/bin/stack ] || ! docker image inspect --format '{{.Id}}' $TAGS >/dev/null 2>&1; then
    # Whoever sends this has something to send before; it must be read whole for this code to get back.
    cat >/dev/null
    exit 3
fi
base=/var/lib/hearth/stacks/$NAME
new=$base/bundles/$DIGEST
mkdir -p "$base/bundles"
work=$(mktemp -d "$base/bundles/.incoming.XXXXXX")
trap 'rm -rf "$work"' EXIT
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

if [ ! -e "$new" ]; then
    mv -T "$work" "$new"
elif ! intact "$new"; then
    # Containers hold on to the files that they mounted, so they are made anew.
    rm -rf "$new"
    mv -T "$work" "$new"
    touch "$base/recreate"
fi
old=$(readlink "$base/current" || true)
if [ -n "$old" ] && [ "$old" != "bundles/$DIGEST" ] && [ -e "$base/$old" ]; then
    ln -sfn "$old" "$base/previous"
fi
ln -sfn "bundles/$DIGEST" "$base/current.new"
mv -T "$base/current.new" "$base/current"

# The bundle before this one stays, to go back to.
keep=$(readlink "$base/previous" || true)
cd "$base"
for bundle in bundles/*; do
    case $bundle in
    "bundles/$DIGEST" | "$keep") ;;
    *) rm -rf "$bundle" ;;
    esac
done
