#!/bin/sh
# Makes the database's cluster at the first start, then runs the server as the user `postgres`.
set -eu
program=$(echo /usr/lib/postgresql/*/bin)
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

install -d -o postgres -g postgres -m 0755 /run/postgresql
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    # initdb works beside the final name, so that a stop in the middle leaves no half-made cluster under it. It syncs
    # nothing by itself, for every small write would wait for the file server; one sync before the rename is as safe.
    rm -rf "$PGDATA.new"
    install -d -o postgres -g postgres -m 0700 "$PGDATA.new"
    # Without a password nobody gets in but by the socket in this container.
    as_postgres "$program/initdb" --pgdata="$PGDATA.new" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256 --no-sync --no-instructions
    sync -f "$PGDATA.new"
    mv -T "$PGDATA.new" "$PGDATA"
fi
# An image made anew may have another number for the user.
if [ "$(stat -c %U "$PGDATA")" != postgres ]; then
    chown -R postgres:postgres "$PGDATA"
fi

# The password is set at each start, so that a rotated one holds from the restart on that a rotation makes. It goes to the
# server's single-user mode over standard input: no list of processes shows it, and the database keeps what SCRAM makes of
# it. A statement that failed would be logged, hence the setting.
password=$(sed "s/'/''/g" /run/secrets/database-password)
said=$(printf "ALTER ROLE postgres PASSWORD '%s'\n" "$password" |
    as_postgres "$program/postgres" --single -D "$PGDATA" -c log_min_error_statement=panic postgres 2>&1 >/dev/null)
unset password
case $said in
*ERROR:* | *FATAL:*)
    echo "the database's password was not set: $said" >&2
    exit 1
    ;;
esac

exec setpriv --reuid=postgres --regid=postgres --init-groups \
    "$program/postgres" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
