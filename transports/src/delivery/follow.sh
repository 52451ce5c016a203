# For connections on which each command has an input and two outputs of its own: the spool is sent unchanged. Descriptor
# 3 is the connection's input. The driver keeps it open while it follows. Its end, or a line, means that the driver wants
# no more or that the connection is gone, so what follows has to end, too.
exec 3<&0
_is_connected=1 _standby=
# Waits for that and kills process $1. If the script still runs, it also kills the processes that wait for the script.
# Otherwise they end by themselves, each after its children, because not every container has a process 1 that reaps
# orphans.
await_departure() {
  read -r _line <&3
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
    [ -z "$_standby" ] || await_enough
    return
  fi
  begin_tail "$1" 3<&- 6<&- 2>/dev/null &
  _tail=$!
  read -r _self _rest </proc/self/stat
  await_departure "$_tail" "$_self" "$$" 2>/dev/null &
  _departure=$!
  await_end
  verdict
  # A spool that was truncated never reaches that size.
  ! has_ended || has_all_output || { kill "$_tail"; kill -9 "$_departure"; exit 1; }
  kill -USR1 "$_tail" 2>/dev/null
  wait "$_tail"
  case $? in
  # It had not begun: 138 is SIGUSR1 before the trap.
  100 | 138)
    [ ! -s "$_run/out" ] || tail -c "+$(($1 + 1))" "$_run/out"
    ;;
  esac
  wait
}
has_all_output() { [ "$_total" = 0 ] || [ "$(wc -c <"$_run/out")" -ge "$_total" ]; }
# A standby's next run must not begin before the driver has all output of this one.
await_enough() { has_all_output && read -r _line <&3 || exit 1; }
# To end, a tail that the kernel notifies takes the kernel 10 ms, and the next run waits for that. So one begins only if
# the script runs for a moment. SIGUSR1 ends this until then.
begin_tail() {
  trap "kill \$_nap; wait; exit 100" USR1
  sleep 0.02 &
  _nap=$!
  wait "$_nap"
  trap "" USR1
  exec tail -c "+$(($1 + 1))" -s 0.1 -f "$_run/out"
}
