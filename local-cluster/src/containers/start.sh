# Starts a container, as the first process of new mount and PID namespaces:
#
#   start.sh ROOT LAYER HOSTS RESOLV COMMAND MODE READONLY [SOURCE TARGET ro|rw]...
#
# ROOT is the image's root file system; `/` stands for the host's. Nothing is ever written to it: LAYER is a
# directory for what is mounted here. The file COMMAND sets the words that are executed, with the new root as
# working directory. MODE is `command`, `init` for an init process in front of it, or `idle`: then sessions are all
# that runs.
#
# Standard input is where the command's output goes. Standard output is for two lines: `pid N`, the process ID on
# the host, and `run` when everything is in place.
set -eu
umask 022
PATH=/usr/sbin:/usr/bin:/sbin:/bin

image=$1 layer=$2 hosts=$3 resolv=$4 command=$5 mode=$6 readonly=$7
shift 7

# Shows the entries of directory $1 in directory $2.
expose() {
  for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    name=${entry##*/}
    if [ -L "$entry" ]; then
      cp -P "$entry" "$2/$name"
    elif [ -d "$entry" ]; then
      mkdir "$2/$name"
      mount --rbind "$entry" "$2/$name"
    elif [ -e "$entry" ]; then
      : >"$2/$name"
      mount --bind "$entry" "$2/$name"
    fi
  done
}

# Makes directory $1 of the host's tree, without writing to the host: a directory that lacks an entry is
# covered by a file system in memory with the same entries. `own` lists the directories that are not the
# host's.
make_on_host() {
  here=$root rest=${1#/}/
  while [ -n "$rest" ]; do
    part=${rest%%/*} rest=${rest#*/}
    [ -n "$part" ] || continue
    if [ ! -d "$here/$part" ]; then
      case $own in
        *"|$here|"*) ;;
        *)
          covers=$((covers + 1))
          mkdir "$layer/$covers"
          mount --rbind "$here" "$layer/$covers"
          mount -t tmpfs -o "mode=$(stat -c %a "$here")" fargate-local "$here"
          expose "$layer/$covers" "$here"
          own="$own$here|"
          ;;
      esac
      mkdir "$here/$part"
      own="$own$here/$part|"
    fi
    here=$here/$part
  done
}

# The procfs is still that of the host.
read -r pid rest </proc/self/stat
echo "pid $pid"

mount -t tmpfs -o mode=0755 fargate-local "$layer"
mkdir "$layer/root"
root=$layer/root
covers=0 own="|$root|"
if [ "$image" = / ]; then
  # The host's /tmp, which is shown in the new root, does not contain the new root.
  mount --make-unbindable "$layer"
  mount -t tmpfs -o mode=0755 fargate-local "$root"
  expose "" "$root"
  # Sessions of an idle container are processes of the host's PID namespace.
  [ "$mode" = idle ] || mount -t proc proc "$root/proc"
else
  mkdir "$layer/upper" "$layer/work"
  # Relative, so that no character of the path needs an escape.
  cd "$image"
  mount -t overlay -o "lowerdir=.,upperdir=$layer/upper,workdir=$layer/work" overlay "$root"
  cd "$root"
  mkdir -p proc dev sys etc
  mount -t proc proc proc
  mount -t sysfs -o ro sysfs sys
  mount -t tmpfs -o mode=0755 dev dev
  mkdir -m 0755 dev/pts
  mkdir -m 1777 dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
  for device in full null random tty urandom zero; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
  done
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  ln -s /proc/self/fd/0 dev/stdin
  ln -s /proc/self/fd/1 dev/stdout
  ln -s /proc/self/fd/2 dev/stderr
  for file in hosts resolv.conf; do
    [ -e "etc/$file" ] && [ ! -L "etc/$file" ] || { rm -f "etc/$file" && : >"etc/$file"; }
  done
  mount --bind "$hosts" etc/hosts
  mount --bind "$resolv" etc/resolv.conf
fi

while [ "$#" != 0 ]; do
  if [ "$1" = directory ]; then
    mkdir -p "$root$2"
  else
    if [ "$image" = / ]; then make_on_host "$2"; else mkdir -p "$root$2"; fi
    mount --bind "$1" "$root$2"
    [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
  fi
  shift 3
done

[ -z "$readonly" ] || mount -o remount,bind,ro "$root"

# An init process passes signals on, from before its command is started.
child= pending=
pass() {
  if [ -n "$child" ]; then kill "-$1" "$child" 2>/dev/null || :; else pending=$1; fi
}
if [ "$mode" = init ]; then
  for signal in HUP INT QUIT TERM USR1 USR2; do
    # shellcheck disable=SC2064
    trap "pass $signal" "$signal"
  done
fi

# shellcheck disable=SC1090
[ "$mode" = idle ] || . "$command"

# The new root becomes that of the namespace, which sessions enter later.
cd "$root"
mount --move . /
echo run
case $mode in
  idle) exec sleep infinity >/dev/null 2>&1 </dev/null ;;
  command) exec "$@" 1>&0 2>&0 </dev/null ;;
esac

exec 1>&0 2>&0
"$@" </dev/null &
child=$!
[ -z "$pending" ] || pass "$pending"
exec </dev/null >/dev/null 2>&1
# It also reaps what becomes its child, and ends with the command.
while :; do
  status=0
  wait "$child" || status=$?
  kill -0 "$child" 2>/dev/null || break
done
exit "$status"
