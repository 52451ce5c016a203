# The script's parent. It keeps all state in files, so that the connection may end.
_run=$1 _upload=$2
shift 2
trap : HUP INT TERM PIPE
# The end of the delivering session does not reach this process. The wrapper that makes the directory, and a file in it,
# starts the script: a standby's rename may take the place of a directory that is empty.
set -C
if ! mkdir "$_run" 2>/dev/null || { ! true 2>/dev/null >"$_run/pid" && [ -e "$_run/pid" ]; }; then
  rm -f "$_upload"
  if [ -d "$_run" ]; then echo taken; else mkdir "$_run"; fi
  exit
fi
set +C
# Reserves space for records that must be written even if the script fills the disk.
printf "%80s\n" "" >"$_run/pid" && printf "%80s\n" "" >"$_run/exit" && printf "" >"$_run/out" && mv "$_upload" "$_run/script" || {
  rm -rf "$_run" "$_upload"
  exit
}
# Only this process has the FIFO open for writing, until it ends: then its readers see end of file at once.
mkfifo -m 600 "$_run/alive" 2>/dev/null && exec 3<>"$_run/alive"
echo made
exec 2>"$_run/err"
IFS= read -r _stat <"/proc/$$/stat"
read_started() { _started=${20} _group=$3; }
read_started ${_stat##*) }
echo "$$ $_started"
(
  case $1 in setsid) read -r _group _rest </proc/self/stat ;; esac
  printf "%-80s\n" ". $$ $_started $_group ." 1<>"$_run/pid"
  exec "$@" "$_run/script" </dev/null >>"$_run/out" 2>&1 3>&-
)
_code=$?
_total=0
[ ! -s "$_run/out" ] || _total=$(wc -c <"$_run/out")
printf "%-80s\n" ". $_code $((_total)) ." 1<>"$_run/exit"
