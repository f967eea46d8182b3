# Installs the unit of the current bundle and has systemd bring the stack to it. NAME stands in front.
umask 022
base=/var/lib/hearth/stacks/$NAME
unit=hearth-stack-$NAME.service
file=/etc/systemd/system/$unit
if ! cmp --silent "$base/current/hearth-stack.service" "$file" || ! systemctl --quiet is-enabled "$unit"; then
    cp "$base/current/hearth-stack.service" "$file.new"
    mv -T "$file.new" "$file"
    # This has systemd read its units anew as well.
    systemctl --quiet reenable "$unit"
fi
case $(systemctl show --property=ActiveState --value "$unit") in
active | reloading) systemctl --no-block reload "$unit" ;;
failed)
    systemctl reset-failed "$unit"
    systemctl --no-block restart "$unit"
    ;;
*) systemctl --no-block restart "$unit" ;;
esac
