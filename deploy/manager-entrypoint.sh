#!/bin/sh
# Entry point of a runner manager in a container: writes the configuration, and starts gitlab-runner and the driver's service.
#
# FARGATE_TOML and CONFIG_TOML are the files' texts. RUNNER_TOKEN is the runner's authentication token, which replaces the word
# RUNNER_TOKEN in CONFIG_TOML.
set -eu
umask 077
: "${FARGATE_TOML:?is the text of fargate.toml}"
: "${CONFIG_TOML:?is the text of config.toml}"
: "${RUNNER_TOKEN:?is the authentication token of the runner}"
etc=/etc/gitlab-runner
log=/var/log/fargate/fargate.log

mkdir -p "$etc" "${log%/*}"
printf '%s\n' "$FARGATE_TOML" > "$etc/fargate.toml"
case $CONFIG_TOML in
    *RUNNER_TOKEN*) ;;
    *) echo "CONFIG_TOML does not contain RUNNER_TOKEN, the place of the token" >&2; exit 1 ;;
esac
# In the shell itself: the token is in no command line.
printf '%s%s%s\n' "${CONFIG_TOML%%RUNNER_TOKEN*}" "$RUNNER_TOKEN" "${CONFIG_TOML#*RUNNER_TOKEN}" > "$etc/config.toml"
# What runs below has no need of them.
unset FARGATE_TOML CONFIG_TOML RUNNER_TOKEN

: >> "$log"
tail -n 0 -F "$log" &
# Stages work without the service, too. It also ends tasks that an earlier container of this manager left behind.
while :; do
    fargate --config "$etc/fargate.toml" serve || :
    sleep 5
done &
exec gitlab-runner run --config "$etc/config.toml"
