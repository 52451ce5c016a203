# Makes the directory of a run in the job's container and puts the script there, for the loop. It runs as wrapper.sh
# does, in a session of its own, so that the end of the delivering session does not reach it. Files are created where
# none are: the job may have put links there.
if [ "$0" = fargate-place ]; then
  _run=$1 _upload=$2
  shift 2
  trap : HUP INT TERM PIPE
  if ! mkdir -m 755 "$_run" 2>/dev/null; then
    rm -f "$_upload"
    if [ -d "$_run" ]; then echo taken; else mkdir "$_run"; fi
    exit
  fi
  cd "$_run" && [ "$(readlink /proc/self/cwd)" = "$_run" ] || { rm -f "$_upload"; exit; }
  # For any user of the image.
  umask 0
  set -C
  # Reserves space for records that must be written even if the script fills the disk.
  printf "%80s\n" "" >pid && printf "%80s\n" "" >exit && printf "%80s\n" "" >used && printf "" >out && printf "" >err && mkfifo -m 666 alive &&
    cat "$_upload" >script && printf "%s\n%s\n" "$1" "$2" >order && echo made || {
    rm -f pid exit out err alive script order used
    cd / && rmdir "$_run"
  }
  rm -f "$_upload"
  exit
fi
