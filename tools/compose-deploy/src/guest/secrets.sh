# Takes secrets as a tar on standard input, puts them into memory, and encrypted to this machine on the disk. NAME stands
# in front, and WANTED: a line each, the name and the mark of what it was made from and whose it is.
umask 077
safe=/var/lib/hearth/secrets/$NAME
open=/run/hearth/secrets/$NAME
mkdir -p "$safe" "$open"
chmod 0700 "${safe%/*}" "$safe" "${open%/*}" "$open"
if [ "$(stat -f -c %T "$open")" != tmpfs ]; then
    cat >/dev/null
    echo "$open does not lie in memory (tmpfs), so no secret was written" >&2
    exit 1
fi
rm -rf "$open"/.incoming.*
work=$(mktemp -d "$open/.incoming.XXXXXX")
trap 'rm -rf "$work"' EXIT
tar --extract --file=- --directory="$work" --no-same-owner --no-same-permissions
if [ ! -e "$work/.whole" ]; then
    echo "the secrets came incomplete" >&2
    exit 1
fi
touch "$safe/list"
printf '%s\n' "$WANTED" | while read -r key mark; do
    systemd-creds encrypt --with-key=host --name="hearth.$NAME.$key" "$work/$key" "$safe/.$key" </dev/null 2>"$work/.said" || {
        cat "$work/.said" >&2
        exit 1
    }
    sync "$safe/.$key"
    mv -T "$safe/.$key" "$safe/$key"
    chmod 0600 "$work/$key"
    chown "${mark#*@}:0" "$work/$key"
    if [ "$(sed -n "s/^$key //p" "$safe/list")" = "$mark" ] && [ -f "$open/$key" ]; then
        # It was altered: what runs has this very file open, so it is mended in place.
        cat "$work/$key" >"$open/$key"
        chmod 0600 "$open/$key"
        chown "${mark#*@}:0" "$open/$key"
    else
        # What runs keeps the file that it was started with.
        rm -rf "${open:?}/$key"
        mv -T "$work/$key" "$open/$key"
    fi
    { grep -v "^$key " "$safe/list" || true; } >"$safe/.list"
    printf '%s %s\n' "$key" "$mark" >>"$safe/.list"
    sync "$safe/.list"
    mv -T "$safe/.list" "$safe/list"
    sync "$safe"
done
