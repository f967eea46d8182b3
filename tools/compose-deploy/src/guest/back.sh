# Goes back to the bundle before this one, if there is one; prints its name. NAME stands in front.
base=/var/lib/hearth/stacks/$NAME
old=$(readlink "$base/previous" || true)
if [ -n "$old" ] && [ -e "$base/$old" ]; then
    mv -T "$base/previous" "$base/current"
    echo "${old#bundles/}"
fi
