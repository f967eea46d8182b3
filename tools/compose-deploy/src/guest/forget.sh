# Takes away the secrets that a stack uses no more. NAME stands in front, and KEEP: a blank, then the names with a blank
# behind each.
umask 077
safe=/var/lib/hearth/secrets/$NAME
open=/run/hearth/secrets/$NAME
[ -e "$safe/list" ] || exit 0
while read -r key mark; do
    case $KEEP in
    *" $key "*) printf '%s %s\n' "$key" "$mark" ;;
    *) rm -rf "${safe:?}/$key" "${open:?}/$key" ;;
    esac
done <"$safe/list" >"$safe/.list"
sync "$safe/.list"
mv -T "$safe/.list" "$safe/list"
