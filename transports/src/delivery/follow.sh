# For connections on which each command has an input and two outputs of its own: the spool is sent unchanged. Descriptor
# 3 is the connection's input. The driver keeps it open while it follows. Its end means that the driver or the
# connection is gone, so this supervisor has to end, too.
exec 3<&0
_is_connected=1
# Waits for that and kills process $1. If the script still runs, it also kills the processes that wait for the script.
# Otherwise they end by themselves, each after its children, because not every container has a process 1 that reaps
# orphans.
await_departure() {
  while read -r _line <&3; do :; done
  kill -9 "$1"
  shift
  has_ended || kill -9 "$@"
}
copy() { cat <&5 || exit; }
begin() { printf "%s begin\n" "$_mark"; }
follow() {
  begin
  if [ "$2" = 1 ] && [ -z "$_container" ]; then
    follow_with_tail "$1"
    return
  fi
  open_spool "$1"
  follow_changes "$@"
}
# The kernel notifies GNU tail of every write. It does not end by itself: with --pid, it would poll ten times a second.
# The driver knows how many bytes will come, and closes the input when it has them.
follow_with_tail() {
  if has_ended; then
    verdict
    tail -c "+$(($1 + 1))" "$_run/out"
    return
  fi
  tail -c "+$(($1 + 1))" -s 0.1 -f "$_run/out" 3<&- 6<&- &
  _tail=$!
  read -r _self _rest </proc/self/stat
  await_departure "$_tail" "$_self" "$$" 2>/dev/null &
  _departure=$!
  await_end
  verdict
  # A spool that was truncated never reaches that size.
  ! has_ended || [ "$(wc -c <"$_run/out")" -ge "$_total" ] || kill "$_tail"
  wait "$_tail"
  kill -9 "$_departure"
  wait
}
