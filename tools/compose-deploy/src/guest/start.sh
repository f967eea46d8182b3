# Installs the unit of the current bundle and has systemd bring the stack to it. NAME stands in front.
umask 022
base=/var/lib/hearth/stacks/$NAME
unit=hearth-stack-$NAME.service
file=/etc/systemd/system/$unit
if ! cmp --silent "$base/current/hearth-stack.service" "$file"; then
    install -m 0644 "$base/current/hearth-stack.service" "$file.new"
    mv -T "$file.new" "$file"
    systemctl daemon-reload
fi
systemctl --quiet reenable "$unit"
systemctl reset-failed "$unit" 2>/dev/null || true
case $(systemctl show --property=ActiveState --value "$unit") in
active | reloading) systemctl --no-block reload "$unit" ;;
*) systemctl --no-block restart "$unit" ;;
esac
