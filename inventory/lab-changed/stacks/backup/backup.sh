#!/bin/sh
# Makes the repository where there is none, then a snapshot at every interval. Where one fails, the container is
# unhealthy until the next has been made.
set -eu
stop() { exit 0; }
trap stop TERM INT

# RESTIC_PASSWORD_FILE names the repository's password. Who rotates it adds the new one first (`restic key add`): a
# repository opens with the passwords that it knows.
restic() { command restic --quiet "$@"; }
unprotected() { env -u RESTIC_PASSWORD_FILE restic --quiet --insecure-no-password "$@"; }

snapshot() {
    if [ ! -e "$RESTIC_REPOSITORY/config" ]; then
        restic init || return 1
    elif ! restic cat config >/dev/null && unprotected cat config >/dev/null; then
        # It was made before it had a password.
        unprotected key passwd --new-password-file "$RESTIC_PASSWORD_FILE" || return 1
    fi
    # A lock of a container that was killed is older than this one.
    restic unlock || return 1
    restic backup --host vm-intranet /source/appdata /source/photos || return 1
    restic forget --keep-daily 7 --keep-weekly 4 --keep-monthly 6 || return 1
    restic snapshots --json --latest 1 >/run/last-snapshot.new || return 1
    mv /run/last-snapshot.new /run/last-snapshot
}

while true; do
    if ! snapshot; then
        rm -f /run/last-snapshot
        echo "no snapshot was made" >&2
    fi
    # In the background, so that a stop is heard at once.
    sleep "$BACKUP_INTERVAL" &
    wait $!
done
