systemctl show --property=ActiveState --property=SubState --property=Result --property=ReloadResult --property=Job --property=NRestarts "$unit"
