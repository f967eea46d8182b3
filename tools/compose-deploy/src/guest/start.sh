# Installs the unit of the current bundle and has systemd bring the stack to it. NAME stands in front.
umask 022
unit=hearth-stack-$NAME.service
/var/lib/hearth/bin/stack adopt "$NAME"
case $(systemctl show --property=ActiveState --value "$unit") in
active | reloading) systemctl --no-block reload "$unit" ;;
*)
    systemctl reset-failed "$unit" 2>/dev/null || true
    systemctl --no-block restart "$unit"
    ;;
esac
