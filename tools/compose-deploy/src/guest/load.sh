# Takes the missing files of an image as a tar on standard input, checks them by their names, puts them into the store,
# and loads the image. TAG, ID, CONFIG and LINKS (the files that Docker lacks) stand in front, and MANIFEST.
umask 022
store=/var/lib/hearth/store
mkdir -p "$store" /run/hearth
# One at a time: what lies here then is of a transfer that was cut off.
exec 9>/run/hearth/load.lock
flock 9
rm -rf /var/lib/hearth/incoming.*
work=$(mktemp -d /var/lib/hearth/incoming.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/files" "$work/image"
tar --extract --file=- --directory="$work/files" --no-same-owner
cd "$work/files"
for file in *; do
    [ -e "$file" ] || continue
    printf '%s  %s\n' "$file" "$file"
done >../sums
if [ -s ../sums ]; then
    sha256sum --check --quiet --strict ../sums
    chmod 0444 *
    sync -f .
    mv -- * "$store"
fi
cd "$work/image"
printf '%s' "$MANIFEST" >manifest.json
ln -- "$store/$CONFIG" "$CONFIG.json"
for file in $LINKS; do
    ln -f -- "$store/$file" "$file"
done
tar --create --file=- . | docker load --quiet
found=$(docker image inspect --format '{{.Id}}' "$TAG")
if [ "$found" != "$ID" ]; then
    echo "Docker loaded $TAG as $found, not as $ID" >&2
    exit 1
fi
