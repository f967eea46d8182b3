# Prints the bundle that is the current one after a trial, then what the trial said. NAME and SINCE stand in front.
echo "current=$(readlink "/var/lib/hearth/stacks/$NAME/current" || true)"
echo "trial=$(readlink "/var/lib/hearth/stacks/$NAME/trial" || true)"
journalctl --sync || true
journalctl --unit="hearth-trial@$NAME.service" --since="@$SINCE" --output=cat --no-pager | tail -n 60
