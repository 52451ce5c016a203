#!/bin/sh
# Entry point of a container that jobs reach by SSH: installs the job's key, makes a host key, and starts OpenSSH's server (7.4 or
# later). For [SSH] Username = "root"; another user needs the files of ~/.ssh in that user's own home, and to own them.
#
# The server's configuration is this script's own, not the image's: one port, one key, no passwords, no forwarding. The host key is
# made here, in each container: one that is part of an image is known to everybody who has the image.
set -eu
umask 077
: "${SSH_PUBLIC_KEY:?is set by the driver}"
# As [SSH] Port in fargate.toml.
port=22
private=/run/fargate-ssh

rm -rf "$private"
mkdir -p ~/.ssh /run/sshd "$private"
printf '%s\n' "$SSH_PUBLIC_KEY" > ~/.ssh/authorized_keys
# SSH sessions do not inherit the container's environment. These lines of it they get: the image's PATH, where the task
# role's credentials are, the task's metadata. Add what else of the definition's `environment` and `secrets` jobs need.
printenv | grep -E '^(PATH|AWS_[A-Z0-9_]*|ECS_[A-Z0-9_]*)=' > ~/.ssh/environment || :
# The image may have made them, with other permissions than the server accepts.
chmod 700 ~/.ssh && chmod 600 ~/.ssh/authorized_keys ~/.ssh/environment
# Where no password is set, images lock the account (`root:!:`, as Alpine does). The server then refuses keys, too. With `*` there
# is still no password that fits.
if grep -q '^root:!' /etc/shadow 2>/dev/null; then
    sed -i 's/^root:!*/root:*/' /etc/shadow || echo "root is locked in /etc/shadow: the SSH server will refuse the job's key" >&2
fi

# Hosts in FIPS mode have no Ed25519.
ssh-keygen -q -t ed25519 -N '' -C '' -f "$private/host_key" || ssh-keygen -q -t ecdsa -b 256 -N '' -C '' -f "$private/host_key"

sha256() {
    if sha256sum < /dev/null > /dev/null 2>&1; then sha256sum; else openssl dgst -sha256 -r; fi | cut -c 1-64
}
# Writes bytes that are given as hexadecimal digits, each xor $2.
bytes() {
    digits=$1
    while [ -n "$digits" ]; do
        rest=${digits#??}
        # shellcheck disable=SC2059 # The format is the byte.
        printf "$(printf '\\%03o' "$((0x${digits%"$rest"} ^ $2))")"
        digits=$rest
    done
}
# HMAC-SHA256 (RFC 2104) of standard input. $1: the key, 64 hexadecimal digits; a block of SHA-256 is twice as long.
hmac() {
    block=${1}0000000000000000000000000000000000000000000000000000000000000000
    inner=$({ bytes "$block" 0x36 && cat; } | sha256)
    { bytes "$block" 0x5c && bytes "$inner" 0; } | sha256
}
# Proves to the driver that the host key is this task's, in the first line that the server says. Who can read the task's overrides
# (ecs:DescribeTasks) can read the secret, and could prove another key; jobs do not get it.
proof=none
if [ -n "${FARGATE_HOST_PROOF_KEY:-}" ]; then
    read -r type key rest < "$private/host_key.pub" || :
    digits=$(printf 'fargate-host-proof=1 %s %s' "$type" "$key" | hmac "$FARGATE_HOST_PROOF_KEY")
    case ${#digits} in
        64) proof=fargate-host-proof=1:$digits ;;
        *) echo "the host key is not proven to the driver: neither sha256sum nor openssl works" >&2 ;;
    esac
fi
unset FARGATE_HOST_PROOF_KEY

cat > "$private/sshd_config" << END
Port $port
HostKey $private/host_key
VersionAddendum $proof
PidFile none
LoginGraceTime 30
AuthenticationMethods publickey
AuthorizedKeysFile .ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitUserEnvironment yes
DisableForwarding yes
AllowAgentForwarding no
AllowStreamLocalForwarding no
AllowTcpForwarding no
PermitTunnel no
X11Forwarding no
PrintMotd no
END
exec /usr/sbin/sshd -D -e -f "$private/sshd_config"
