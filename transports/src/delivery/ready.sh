# A standby's wrapper: as wrapper.sh, but it is there before its order, and so is the script's own process (starter.sh). It
# has the run's files open before they are in the run's directory.
_ready=$1 _starter=$2 _setsid=$3
trap : HUP INT TERM PIPE
exec 2>"$_ready/err" 5<>"$_ready/exit" 9<"$_ready/out" 3<>"$_ready/alive" || exit
IFS= read -r _stat <"/proc/$$/stat"
read_started() { _started=${20}; }
read_started ${_stat##*) }
start() {
  trap : HUP INT TERM PIPE
  read -r _found _rest
  { IFS= read -r _line && IFS= read -r _run && read -r _sum && IFS= read -r _interpreter && IFS= read -r _argument; } <"$_ready/order" || exit
  [ "$_found" = "$_sum" ] || exit
  [ -f "$_ready/script" ] || exit
  # The wrapper that makes the run's directory starts the script. This directory gets its name, unless there is one that is
  # not empty: then it stays, or is in that one.
  mv "$_ready" "$_run" || [ -d "$_run" ] || exit
  if [ -d "$_ready" ] || [ -d "$_run/${_ready##*/}" ]; then
    rm -rf "$_ready" "$_run/${_ready##*/}"
    printf "%s\n" "$_line" taken >&8
    exit
  fi
  printf "%s\n" "$_line" "$$ $_started" >&8
  printf "%s\n" "$_run" "$_interpreter" "$_argument"
}
# follow_order reads what goes to descriptor 8. It must reach end of file when this process ends, whatever the script does.
exec 8>&1
start 5>&- 9<&- | $_setsid /bin/sh -c "$_starter" fargate-start "$$ $_started" $_setsid 3>&- 5>&- 8>&- 9<&- >/dev/null
_code=$?
exec </dev/null
# It has no path yet if no order came.
_total=0
[ ! -s /proc/self/fd/9 ] || _total=$(wc -c <&9)
printf "%-80s\n" ". $_code $((_total)) ." >&5
