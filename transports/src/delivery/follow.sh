# Where each command has an input and two outputs of its own: the spool goes out as it is.
# Descriptor 3 is the connection's input. The driver keeps it open for as long as it follows: its end means that
# the driver, or the connection, is gone, and that this supervisor has to go too.
exec 3<&0
_is_connected=1
# Waits for that and ends process $1. If the script runs on, this also ends those that wait for it; otherwise they end by
# themselves, each after its children: not every container has a process 1 that takes care of orphans.
await_departure() {
  while read -r _line <&3; do :; done
  kill -9 "$1"
  shift
  has_ended || kill -9 "$@"
}
copy() { cat <&5 || exit; }
follow() {
  printf "%s begin\n" "$_mark"
  if [ "$2" = 1 ]; then
    follow_with_tail "$1"
    return
  fi
  open_spool "$1"
  follow_changes "$@"
}
# GNU tail is told of every write. It does not end by itself: with --pid, it would look ten times a second for that.
# The driver knows how many bytes are to come, and departs when it has them.
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
  # A spool that somebody shortened has not so many bytes.
  ! has_ended || [ "$(wc -c <"$_run/out")" -ge "$_total" ] || kill "$_tail"
  wait "$_tail"
  kill -9 "$_departure"
  wait
}
