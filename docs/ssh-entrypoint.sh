#!/bin/sh
# Entry point of a container that jobs reach by SSH: installs the job's key and starts OpenSSH's server. For
# [SSH] Username = "root"; another user needs these files in that user's own home, and to own them.
set -eu
umask 077
: "${SSH_PUBLIC_KEY:?is set by the driver}"
mkdir -p ~/.ssh /run/sshd
printf '%s\n' "$SSH_PUBLIC_KEY" > ~/.ssh/authorized_keys
# SSH sessions do not inherit the container's environment. These lines of it they get: the image's PATH, where the task
# role's credentials are, the task's metadata. Add what else of the definition's `environment` and `secrets` jobs need.
printenv | grep -E '^(PATH|AWS_[A-Z0-9_]*|ECS_[A-Z0-9_]*)=' > ~/.ssh/environment
# The image may have made them, with other permissions than the server accepts.
chmod 700 ~/.ssh && chmod 600 ~/.ssh/authorized_keys ~/.ssh/environment
ssh-keygen -A
exec /usr/sbin/sshd -D -e -o PermitUserEnvironment=yes
