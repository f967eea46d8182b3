# Takes a stack away; its volumes stay. NAME stands in front.
unit=hearth-stack-$NAME.service
systemctl stop "hearth-trial@$NAME.service" 2>/dev/null || true
if [ -e "/etc/systemd/system/$unit" ]; then
    systemctl --quiet disable --now "$unit"
fi
docker compose --project-name "$NAME" down --remove-orphans
rm -rf "/var/lib/hearth/secrets/$NAME" "/run/hearth/secrets/$NAME"
rm -rf "/var/lib/hearth/stacks/$NAME"
# The last of it that the next run would see, so that one which is cut off here is gone on with.
rm -f "/etc/systemd/system/$unit"
systemctl daemon-reload
systemctl reset-failed "$unit" 2>/dev/null || true
